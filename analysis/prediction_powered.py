"""Prediction-powered inference: a win rate by people from their few labels and a scorer's outcomes on all prompts.

Angelopoulos et al. (2023, Science 382), and with the weight lambda PPI++ (Angelopoulos, Duchi & Zrnic 2023,
arXiv:2311.01453). With labels Y on some prompts, drawn at random, and outcomes f of a scorer on all of them,

    estimate = lambda mean_all(f) + mean_labelled(Y - lambda f)

whose expectation is that of Y whatever the scorer is worth. lambda = Cov(Y, f) / Var(f) over the labelled prompts, from
0 to 1, makes its variance smallest: a scorer that knows nothing gets no weight. (PPI++ has the unlabelled prompts alone
in its first mean, and so a factor 1 / (1 + n/N) in lambda; the estimate is the same.) Each response's influence,

    lambda (f - mean_all(f)) + N / n [labelled] (Y - lambda f - mean_labelled(Y - lambda f)),

is a table of seeds and prompts like any score, so the variance is that of `statistics.analyse`, over prompts and
training runs, with as many degrees of freedom as prompts were labelled, less the one that lambda takes.

A scorer adds something from some agreement on, and a corrected win rate is told only where the interval is narrower
than that of the labels alone, see `narrows`; `selfcheck/claims_people.py` simulates how often that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import direct
from .grids import SFT, WIN_RATE, Grids
from .quantities import measured
from .sequential import UNTIL_DECIDED
from .statistics import Interval, analyse, interval
from .verdict import judged_by

if TYPE_CHECKING:
    import pandas

PEOPLE = "people"
FEWEST = 20  # labelled prompts below which nothing is corrected
NARROWER = 0.9  # times the width of labels alone, at most, for a corrected win rate to be told


@dataclass(frozen=True)
class Corrected:
    """A win rate by people that a scorer's outcomes make more precise, and the one by labels alone."""

    mean: float
    low: float
    high: float
    n: int
    """Responses that people compared; those that equal the other side's count as ties."""
    of: int
    """Responses that have an outcome of the scorer."""
    power: float
    """lambda: the weight of the scorer, 0 to 1."""
    correlation: float
    """Of labels and outcomes, over the responses that have both; NaN where either does not vary."""
    labels: Interval
    """By the labels alone."""

    def width(self) -> float:
        """Times the width of labels alone."""
        return (self.high - self.low) / (self.labels.high - self.labels.low)


def correct(labels: np.ndarray, outcomes: np.ndarray) -> Corrected | None:
    """The corrected win rate, 95% interval, from tables [seeds, prompts] of 1, 0.5, 0 and values between.

    labels: NaN where people gave none. outcomes: the scorer's, NaN where it gave none; such a label is left out. None
    with labels on fewer than `FEWEST` prompts.
    """
    both = np.isfinite(labels) & np.isfinite(outcomes)
    seeds = both.any(1)  # of which people saw something
    labels, outcomes, both = labels[seeds], outcomes[seeds], both[seeds]
    prompts = int(both.any(0).sum())
    if prompts < FEWEST:
        return None
    n, of = int(both.sum()), int(np.isfinite(outcomes).sum())
    power = _power(labels[both], outcomes[both])
    rest = np.where(both, labels - power * outcomes, nan)
    mean = power * float(np.nanmean(outcomes)) + float(np.nanmean(rest))
    influence = power * (outcomes - np.nanmean(outcomes))
    influence = influence + np.where(both, of / n * (rest - np.nanmean(rest)), 0.0)
    low, high = _limits(min(max(mean, 0.0), 1.0), influence, prompts)
    alone = interval(np.where(both, labels, nan), bounds=(0.0, 1.0))
    return Corrected(mean, low, high, n, of, power, _correlation(labels[both], outcomes[both]), alone)


def narrows(labels: np.ndarray, outcomes: np.ndarray) -> bool:
    """True where a scorer makes the interval narrower, and by a tenth or more that of these trained policies.

    The tenth is of the interval over prompts alone, seeds averaged: with two or three seeds the interval that seems
    narrow is the one in which training runs seem to differ little, by luck, and what is told would be false too often.
    """
    whole, policies = correct(labels, outcomes), correct(_over_seeds(labels), _over_seeds(outcomes))
    if whole is None or policies is None:
        return False
    return whole.power > 0 and whole.width() < 1 and policies.width() <= NARROWER


def prediction_powered(grids: Grids, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Every win rate by people, against SFT and between rows, with every scorer that has outcomes for it.

    Rows of a, b, scorer, what `Corrected` holds (`labels`: mean, low, high, n), and `narrows`.
    """
    found = []
    scorers = sorted({m.removeprefix("win_rate.") for _, m in grids if m.startswith("win_rate.") and m.count(".") == 1})
    trained = [m for m in methods if m != SFT]
    for a, b in [*((m, SFT) for m in trained), *combinations(trained, 2)]:
        labels = _wins(grids, PEOPLE, a, b)
        for scorer in scorers:
            if labels is None or scorer == PEOPLE or f"win_rate.{scorer}" == UNTIL_DECIDED:
                continue
            outcomes = _wins(grids, scorer, a, b)
            if outcomes is None:
                continue
            aligned = labels.reindex(index=outcomes.index, columns=outcomes.columns)
            tables = (aligned.to_numpy(float), outcomes.to_numpy(float))
            if corrected := correct(*tables):
                found.append({"a": a, "b": b, "scorer": scorer, **asdict(corrected), "narrows": narrows(*tables)})
    return found


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The win rates that a scorer makes narrower than labels alone."""
    return [_sentence(row) for row in told(summary)]


def told(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows that `sentences` tells: of several scorers of a win rate the one that correlates most with the labels.

    It is chosen before its interval is looked at, for the reason that `narrows` gives.
    """
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in summary.get("prediction_powered") or []:
        pair = (row["a"], row["b"])
        if measured(row["correlation"]) and (pair not in best or row["correlation"] > best[pair]["correlation"]):
            best[pair] = row
    return [row for row in best.values() if row["narrows"]]


def _sentence(row: Mapping[str, Any]) -> str:
    against = "SFT" if row["b"] == SFT else row["b"]
    labels, scorer = row["labels"], judged_by(f"win_rate.{row['scorer']}")
    return (
        f"By people, {row['a']} wins {row['mean']:.0%} against {against} (95% interval {_range(row)}), from {row['n']} "
        f"responses that they compared and {scorer} on {row['of']}, corrected by them; labels alone give "
        f"{labels['mean']:.0%} ({_range(labels)})."
    )


def _range(row: Mapping[str, Any]) -> str:
    return f"{100 * row['low']:.0f} to {100 * row['high']:.0f}"


def _power(labels: np.ndarray, outcomes: np.ndarray) -> float:
    spread = float(outcomes.var())
    if spread == 0:
        return 0.0
    return min(max(float(np.mean((labels - labels.mean()) * (outcomes - outcomes.mean()))) / spread, 0.0), 1.0)


def _correlation(labels: np.ndarray, outcomes: np.ndarray) -> float:
    if labels.std() == 0 or outcomes.std() == 0:
        return nan
    return float(np.corrcoef(labels, outcomes)[0, 1])


def _over_seeds(table: np.ndarray) -> np.ndarray:
    """The means over seeds [1, prompts]; NaN for a prompt without any value."""
    known = np.isfinite(table).sum(0)
    return np.where(known > 0, np.nansum(table, axis=0) / np.maximum(known, 1), nan)[None]


def _limits(mean: float, influence: np.ndarray, prompts: int) -> tuple[float, float]:
    """Wilson's limits for a win rate of this influence, `prompts` of them labelled."""
    grid = analyse(influence)
    freed = prompts / (prompts - 2) * (grid.prompts - 1) / grid.prompts
    # few labels may have missed responses on which scorer and people differ: one pseudo-prompt where they do
    variance = grid.prompt_variance * freed + 1 / (prompts + 4) ** 2
    half = replace(grid, prompt_variance=variance, prompts=prompts - 1).squared_half_width(0.05)
    spread = mean * (1 - mean)
    if spread == 0:
        return max(mean - sqrt(half), 0.0), min(mean + sqrt(half), 1.0)
    ratio = half / spread
    centre, reach = (mean + ratio / 2) / (1 + ratio), sqrt(ratio * spread + ratio**2 / 4) / (1 + ratio)
    return centre - reach, centre + reach


def _wins(grids: Grids, scorer: str, a: str, b: str) -> pandas.DataFrame | None:
    """What a scorer says of a against b; None where it says nothing of the two."""
    metric = f"{WIN_RATE}{scorer}"
    return grids.get((a, metric)) if b == SFT else direct(grids, metric, a, b)
