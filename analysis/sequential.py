"""Evidence that may be looked at after every prompt: a test by betting, and its confidence sequence.

Waudby-Smith & Ramdas (2024, arXiv:2010.09686). A gambler who believes that the mean of values in [0, 1] is not m bets
before each value: capital K_t = prod (1 + lambda_i (x_i - m)), with lambda_i chosen from the values before i only. If
the mean is m, K never reaches 1 / alpha with a probability above alpha, however often one looks (Ville), so judging may
stop the moment it does. The bets are their approximate GRAPA, section B.3, held to half of what could ruin the gambler.

The values must come in an order that does not depend on them: `asking_order`, for who asks and for who reads. The
prompts count as drawn at random; as everywhere with one seed, the claim is about the trained policy that was judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from math import nan
from typing import TYPE_CHECKING

import numpy as np

from .statistics import Interval

if TYPE_CHECKING:
    import pandas

UNTIL_DECIDED = "win_rate.judge_until_decided"  # the metric whose prompts were judged only until decided
SHARE = 0.5  # of the bet that would lose everything
STEPS = 1000  # the confidence sequence is found on a grid of this many steps, and rounded outwards to it


def asking_order(prompt_ids: Iterable[str]) -> list[str]:
    """Distinct prompts in the order of their hashes: the same for every method, and as good as drawn at random."""
    return sorted(set(prompt_ids), key=lambda name: hashlib.sha256(name.encode()).digest())


def p_value(values: Sequence[float] | np.ndarray, mean: float = 0.5) -> float:
    """Two-sided p of the hypothesis that the true mean is `mean`, valid at whatever time judging stopped.

    values: in [0, 1], in the order in which they came; 1 for none.
    """
    return float(np.exp(-max(_log_capital(values, np.array([mean])).max(initial=0.0), 0.0)))


def is_decided(values: Sequence[float] | np.ndarray, alpha: float, mean: float = 0.5) -> bool:
    """True if the values so far exclude the mean at level alpha."""
    return p_value(values, mean) <= alpha


def confidence_sequence(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """The mean of the values with limits that hold the true mean at every time at once with probability `level`.

    Limits are NaN without values.
    """
    x = np.asarray(values, dtype=float)
    if not len(x):
        return Interval(np.nan, np.nan, np.nan, 0)
    grid = np.linspace(0, 1, STEPS + 1)
    kept = np.flatnonzero(_log_capital(x, grid).max(axis=0) < -np.log(1 - level))
    mean = float(x.mean())
    low, high = (grid[max(kept[0] - 1, 0)], grid[min(kept[-1] + 1, STEPS)]) if len(kept) else (mean, mean)
    return Interval(mean, float(min(low, mean)), float(max(high, mean)), len(x))


def _log_capital(values: Sequence[float] | np.ndarray, means: np.ndarray) -> np.ndarray:
    """Logarithm of the capital [values, means] after each value, for a gambler against each mean."""
    x = np.asarray(values, dtype=float)
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError("values must lie between 0 and 1")
    seen = np.arange(1, len(x) + 1)
    centre = (0.5 + np.cumsum(x)) / (seen + 1)  # after each value, beginning with a pseudo-value of one half
    spread = (0.25 + np.cumsum((x - centre) ** 2)) / (seen + 1)
    before = np.concatenate([[0.5], centre[:-1]])[: len(x), None]
    variance = np.concatenate([[0.25], spread[:-1]])[: len(x), None]
    gap = before - means
    with np.errstate(divide="ignore"):
        bet = np.clip(gap / (variance + gap**2), -SHARE / (1 - means), SHARE / means)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.cumsum(np.log1p(bet * (x[:, None] - means)), axis=0)


def until_decided(grid: pandas.DataFrame) -> tuple[Interval, float]:
    """The win rate of a method whose judge stopped when decided, and p that every one of its policies differs from SFT.

    Each seed's policy has its own confidence sequence, at a level that makes all of them hold together; the limits of
    the mean are the means of theirs. They are about these trained policies, not about the next training run. Policies
    that differ in opposite directions give p = 1.
    """
    sequences, p, signs = [], 0.0, set()
    for _, row in grid.iterrows():
        values = row.loc[asking_order(row.index)].dropna().to_numpy()
        sequences.append(confidence_sequence(values, 1 - 0.05 / len(grid)))
        p = max(p, p_value(values))
        signs.add(np.sign(sequences[-1].mean - 0.5))
    mean, low, high = (float(np.mean([getattr(s, name) for s in sequences])) for name in ("mean", "low", "high"))
    n = sum(s.n for s in sequences)
    return Interval(mean, low, high, n), (nan if not n else p if len(signs) == 1 else 1.0)
