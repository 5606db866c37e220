"""Comparisons of rows by each scorer, and what the headline's scorer shows: better, equal within a margin, not decided.

Pairs are compared directly, by how often a response of a wins against b's on the same prompt: two rows that both win
98% against SFT may be far apart. Where a scorer gives no rewards and was not asked about the pair, only the difference
of the two win rates against SFT is known (`through_sft`), and nothing is claimed from it.

Claims are made on the headline alone, in one family: all its comparisons with SFT and between rows share one error
rate (Holm 1979, weighted). Each method has weight 1, and each pair of methods, whatever the number of their rows: a
sweep over five settings divides its own weight and costs the other methods nothing. Rows of one method are not tested
against each other, unless the run has no other method.

A margin of practical importance, stated before, turns "not decided" into more: with one-sided tests at half the level
"a is not worse than b by more than the margin", with both of them "equal within the margin" (Schuirmann 1987). For
any pair at most one of "no difference", "worse by the margin" and "better by the margin" is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from .grids import SFT, WIN_RATE, Grids, aligned, versus
from .ratings import all_pairs
from .sequential import UNTIL_DECIDED, until_decided
from .statistics import compare, holm

if TYPE_CHECKING:
    import pandas

# the order in which the verdict trusts them
PREFERRED = ("win_rate.gold", "win_rate.people", "win_rate.reward_model", "win_rate.judge", UNTIL_DECIDED)
NOT_DECIDED, NOT_COMPARED = "not decided", "not compared directly"
LEVEL = 0.05  # below which an adjusted p shows a difference
MARGIN = 0.05  # of a win rate
MINIMUM_PROMPTS = 30  # below which a few unusual prompts decide


def by_preference(metrics: Any) -> list[str]:
    return sorted(metrics, key=lambda m: (PREFERRED.index(m) if m in PREFERRED else len(PREFERRED), m))


def comparisons(
    grids: Grids,
    methods: Sequence[str],
    owners: Mapping[str, str] | None = None,
    margin: float = MARGIN,
    elsewhere: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Every row against SFT, then every pair of rows, on each win rate, the headline first.

    owners: row -> its method, by itself where it is missing. `difference` is the win rate less one half; where a pair
    is known through SFT only, that of the two win rates. elsewhere: the rows whose one policy was trained elsewhere;
    `seeds` counts trainings, so it is 1 where a comparison is of such policies alone, however often they were sampled.
    """
    owners = {m: (owners or {}).get(m, m) for m in methods}
    metrics = by_preference({metric for _, metric in grids if metric.startswith(WIN_RATE)})
    found: list[dict[str, Any]] = []
    claimed = False
    for metric in metrics:
        scored = [m for m in methods if m != SFT and (m, metric) in grids]
        rows = [against_sft(grids, metric, a, elsewhere) for a in scored]
        if metric != UNTIL_DECIDED:  # judged on different prompts, and stopped by what they showed
            rows += [_pair(grids, metric, a, b, elsewhere) for a, b in combinations(scored, 2)]
        if not claimed and metric.count(".") == 1 and _may_lead(metric, rows, grids):
            _claim(rows, weights(rows, owners), grids, margin)
            claimed = True
        found += rows
    return found


def against_sft(grids: Grids, metric: str, a: str, elsewhere: Collection[str] = ()) -> dict[str, Any]:
    """A row's win rate against SFT, compared with one half."""
    grid, seeds = grids[a, metric], 1 if a in elsewhere else len(grids[a, metric])
    if metric == UNTIL_DECIDED:
        rate, p = until_decided(grid)
        values = {"difference": rate.mean - 0.5, "low": rate.low - 0.5, "high": rate.high - 0.5, "p": p}
    else:
        values = _test(trainings(grid.to_numpy(), seeds))
    return {"a": a, "b": SFT, "metric": metric, "basis": "sft", "seeds": seeds, **values, **UNTESTED}


def _may_lead(metric: str, rows: Sequence[Mapping[str, Any]], grids: Grids) -> bool:
    """True where a scorer compared something; people only from as many prompts on as an interval needs."""
    if not any(isfinite(row["p"]) for row in rows):
        return False
    labelled = [int(grids[row["a"], metric].notna().any().sum()) for row in rows if row["b"] == SFT]
    return metric != "win_rate.people" or min(labelled) >= MINIMUM_PROMPTS


UNTESTED = {"p_adjusted": nan, "equal": False, "not_worse": [], "verdict": ""}


def trainings(values: np.ndarray, seeds: int) -> np.ndarray:
    """Values [seeds, prompts] with a row a training: one that was sampled with several seeds has its means."""
    if seeds != 1 or len(values) == 1:
        return values
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return (np.where(known, values, 0.0).sum(0) / known.sum(0))[None]


def _pair(grids: Grids, metric: str, a: str, b: str, elsewhere: Collection[str]) -> dict[str, Any]:
    """a against b on the seeds and prompts that both have."""
    wins = direct(grids, metric, a, b)
    if wins is not None:
        seeds = 1 if a in elsewhere and b in elsewhere else len(wins)
        values, basis = _test(trainings(wins.to_numpy(), seeds)), "direct"
    else:
        both = aligned({name: grids[name, metric] for name in (a, b)})
        found = compare(both[a], both[b], bounds=(-1.0, 1.0))
        values = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
        basis, seeds = "through_sft", len(both[a])
    return {"a": a, "b": b, "metric": metric, "basis": basis, "seeds": seeds, **values, **UNTESTED}


def direct(grids: Grids, metric: str, a: str, b: str) -> pandas.DataFrame | None:
    """Wins of a's responses against b's: by rewards, or as a judge or people were asked of either; None for neither."""
    reward = f"reward.{metric.removeprefix(WIN_RATE)}"
    if (a, reward) in grids and (b, reward) in grids:
        ours, theirs = grids[a, reward].align(grids[b, reward], join="inner")
        wins = all_pairs({a: ours.to_numpy(float), b: theirs.to_numpy(float)})[a, b]
        return ours.astype(float) * 0 + wins
    if (asked := grids.get((a, versus(metric, b)))) is not None:
        return asked.astype(float)
    if (asked := grids.get((b, versus(metric, a)))) is not None:
        return 1 - asked.astype(float)
    return None


def table(grids: Grids, row: Mapping[str, Any]) -> np.ndarray:
    """The values [trainings, prompts] behind a comparison with SFT or a direct one, less one half."""
    if row["basis"] == "sft":
        return trainings(grids[row["a"], row["metric"]].to_numpy(float), row["seeds"]) - 0.5
    wins = direct(grids, row["metric"], row["a"], row["b"])
    if wins is None:
        both = aligned({name: grids[name, row["metric"]] for name in (row["a"], row["b"])})
        return both[row["a"]] - both[row["b"]]
    return trainings(wins.to_numpy(), row["seeds"]) - 0.5


def weights(rows: Sequence[Mapping[str, Any]], owners: Mapping[str, str]) -> list[float]:
    """The weight of each comparison in the family; 0 for one that is not tested.

    One divided by the number of comparisons between the same two methods (or a method and SFT).
    """
    trained = {owners[row["a"]] for row in rows}
    alone = len(trained) == 1

    def between(row: Mapping[str, Any]) -> tuple[str, str]:
        if row["b"] == SFT:
            return (row["a"] if alone else owners[row["a"]], SFT)
        pair = (row["a"], row["b"]) if alone else (owners[row["a"]], owners[row["b"]])
        return (min(pair), max(pair))

    tested = [
        isfinite(row["p"])
        and row["basis"] != "through_sft"
        and (alone or row["b"] == SFT or owners[row["a"]] != owners[row["b"]])
        for row in rows
    ]
    counts = Counter(between(row) for row, counted in zip(rows, tested, strict=True) if counted)
    return [1 / counts[between(row)] if counted else 0.0 for row, counted in zip(rows, tested, strict=True)]


def _claim(rows: Sequence[dict[str, Any]], given: Sequence[float], grids: Grids, margin: float) -> None:
    """Fill in what the headline's comparisons show."""
    tested = [(row, weight) for row, weight in zip(rows, given, strict=True) if weight]
    for row in rows:
        row["verdict"] = NOT_COMPARED if row["basis"] == "through_sft" else NOT_DECIDED
    shares = [weight for _, weight in tested]
    for (row, _), p in zip(tested, holm([row["p"] for row, _ in tested], shares), strict=True):
        row["p_adjusted"] = p
    sides = [_margins(grids, row, margin) for row, _ in tested]
    for side in (0, 1):
        adjusted = holm([found[side] for found in sides], shares)
        for (row, _), p in zip(tested, adjusted, strict=True):
            if p < LEVEL:
                row["not_worse"] = [*row["not_worse"], (row["a"], row["b"])[side]]
    for row, weight in tested:
        row["weight"] = weight
        row["equal"] = len(row["not_worse"]) == 2
        if row["p_adjusted"] < LEVEL:
            row["verdict"] = f"{row['a'] if row['difference'] > 0 else row['b']} is better"
        elif row["equal"]:
            row["verdict"] = f"equal within {100 * margin:g} points"
        elif row["not_worse"]:
            row["verdict"] = f"{row['not_worse'][0]} is not worse by more than {100 * margin:g} points"


def _margins(grids: Grids, row: Mapping[str, Any], margin: float) -> tuple[float, float]:
    """p of "a is worse than b by the margin or more" and of the reverse, doubled as two-sided ones are."""
    if row["metric"] == UNTIL_DECIDED:
        return 1.0, 1.0
    values = table(grids, row)
    return _above(values, -margin), _above(-values, -margin)


def _above(values: np.ndarray, limit: float) -> float:
    """Two-sided p that the mean of values within one half of 0 lies above a limit; 1 where it does not."""
    found = compare(values, np.full(values.shape, limit), bounds=(-0.5 - limit, 0.5 - limit))
    return found.p if found.difference > 0 else 1.0


def _test(wins: np.ndarray) -> dict[str, float]:
    found = compare(wins, np.full(wins.shape, 0.5), bounds=(-0.5, 0.5))
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
