"""Win rate at equal length: what a judge would prefer if both responses were equally long.

For one method against SFT, after Dubois et al. (2024, arXiv:2404.04475):

    logit P(win) = theta + phi tanh((length - SFT length) / s) + psi difficulty

with s the standard deviation of the length differences, and the mean of P over the prompts at a length difference of 0
as the result. It is not AlpacaEval's length-controlled win rate, and does not belong beside a leaderboard's values:
their difficulty of a prompt is fitted to all models of their leaderboard, here it is how often the other methods of the
run lose on it (log-odds, with half a win and half a loss added; none when a method is alone); and they shrink the fit,
with cross-validation and two gamed baselines, which a run of our own does not have: this one is not. A win rate may be
a fraction (a tie, a judge asked in both orders); the likelihood is then a quasi-likelihood. Where few responses are
about as long as SFT's the result is extrapolated, and `sentences` says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from .statistics import Interval, interval
from .verdict import judged_by

NEAR = 0.25  # standard deviations of the length differences within which a response is about as long as SFT's
FEW = 20  # such responses below which the fitted curve alone says what happens at equal length
LOWEST = 5.0  # wins and losses, ties half, below which three coefficients say nothing


@dataclass(frozen=True)
class EqualLength:
    """The win rate at equal length, and phi with its interval: above 0 where longer responses are preferred."""

    win_rate: Interval
    length_effect: Interval
    near: int
    """Responses about as long as SFT's: within a quarter of s."""


def at_equal_length(
    wins: np.ndarray,
    lengths: np.ndarray,
    others: np.ndarray | None = None,
    level: float = 0.95,
    beside: Sequence[np.ndarray] = (),
) -> EqualLength:
    """Fit the regression; all arrays [seeds, prompts], NaN where a value is missing.

    wins: 0 to 1. lengths: ours minus SFT's. others: mean win rate of the other methods on the same prompt and seed.
    beside: what else is to be equal, 0 where it is (differences in Markdown; see equal_style.py).
    NaN where fewer than five wins or losses, or lengths that never differ, leave nothing to fit.
    """
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    wins, lengths = np.asarray(wins, dtype=float), np.asarray(lengths, dtype=float)
    known = np.isfinite(wins) & np.isfinite(lengths)
    for more in (*beside, *([others] if others is not None else [])):
        known &= np.isfinite(more)
    y, n = wins[known], int(known.sum())
    nothing = EqualLength(Interval(nan, nan, nan, n), Interval(nan, nan, nan, n), 0)
    if min(y.sum(), n - y.sum()) < LOWEST or lengths[known].std() == 0:
        return nothing
    scaled = lengths[known] / lengths[known].std()
    columns = [np.ones(n), np.tanh(scaled), *(more[known] for more in beside if more[known].std() > 0)]
    last = len(columns)
    if others is not None and others[known].std() > 0:
        columns.append(-np.log((others[known] + 0.5) / (1.5 - others[known])))
    design = np.column_stack(columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerfectSeparationWarning)  # told below
        beta = sm.GLM(y, design, family=sm.families.Binomial()).fit(maxiter=100).params
    if not all(map(isfinite, beta)) or np.abs(beta).max() > 20:  # lengths tell wins from losses without exception
        return nothing
    equal = design.copy()
    equal[:, 1:last] = 0.0
    chance, controlled = _logistic(design @ beta), _logistic(equal @ beta)
    information = design.T @ (design * (chance * (1 - chance))[:, None])
    influence = n * ((y - chance)[:, None] * design) @ np.linalg.inv(information)  # of each response on beta
    slope = (equal * (controlled * (1 - controlled))[:, None]).mean(0)
    rate = np.full(wins.shape, nan)
    rate[known] = controlled + influence @ slope  # its mean is the estimate, its spread that of the estimate
    effect = np.full(wins.shape, nan)
    effect[known] = beta[1] + influence[:, 1]
    near = int((np.abs(scaled) <= NEAR).sum())
    return EqualLength(interval(rate, level, bounds=(0.0, 1.0)), interval(effect, level), near)


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Win rates at equal length that are extrapolated, for few responses are about as long as SFT's."""
    said = []
    for evaluator, rows in (summary.get("equal_length") or {}).items():
        few = [f"{name} {row['near']} of {row['n']}" for name, row in rows.items() if row.get("near", FEW) < FEW]
        if few:
            said.append(
                f"Win rates at equal length by {judged_by(evaluator)} are extrapolated where few responses are "
                f"about as long as SFT's: {', '.join(few)}."
            )
    return said


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
