"""The scores of a run's judge as its summary takes them: which members of a panel count, and which rows have a number.

A member that changes its verdict on every swap judges the place and not the response, and one that leaves questions
unanswered leaves the panel without a number: both leave the panel's mean. A row on which a judge answered too little of
what it was asked has no number by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import LEVEL, NOT_DECIDED
from .grids import SFT, VERSUS, grid_of, versus
from .sequential import UNTIL_DECIDED
from .statistics import compare, holm

if TYPE_CHECKING:
    import pandas

WIN_RATE, ANSWERED = "win_rate.judge", "judge.answered"
POOLED = (WIN_RATE, "reward.judge", "grade.judge")  # a panel's is the mean of its members'
MINIMUM_ANSWERED = 0.9  # share of what was asked
ALWAYS, FEWEST = 0.9, 10  # share of swaps that flip from which on a member leaves, of at least so many
KEY = ["method", "seed", "prompt_id"]


@dataclass(frozen=True)
class Settled:
    """A run's scores as its summary takes them, what is to be said of the panel, and warnings."""

    scores: pandas.DataFrame
    panel: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def settle(scores: pandas.DataFrame, weights: Mapping[str, float], *, direct: bool = True) -> Settled:
    """Settle the scores of all cells: columns method, seed, metric, prompt_id and value, the value NaN for none.

    weights: of the judge's members, by name; one member is no panel. direct: it is to compare rows directly. `panel` is
    for summary.json: {"members": {name: {"weight", "flip", "answered", "left"}}, "without": [{"member", "a", "b",
    "with", "without"}]}, where `left` says why a member does not count (None for one that does), and `without` has the
    comparisons that would be decided in another way if one member were left out.
    """
    panel: dict[str, Any] = {}
    said = _not_compared(scores) if direct else []
    if len(weights) > 1:
        members = {name: _member(scores, name, weight) for name, weight in weights.items()}
        kept = {name: weight for name, weight in weights.items() if members[name]["left"] is None}
        if len(kept) < len(weights):
            scores = repooled(scores, weights, kept)
        panel = {"members": members, "without": list(_without_one(scores, kept))}
    scores, unanswered = _without_unanswered(scores)
    return Settled(scores, panel, [*said, *unanswered])


def weighted_mean(values: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The mean of members' values; None unless every one of them has a value."""
    known = {name: value for name, value in values.items() if value is not None}
    if len(known) < len(values):
        return None
    return sum(weights[name] * value for name, value in known.items()) / sum(weights[name] for name in known)


def of_member(metric: str, name: str) -> str:
    """A member's metric beside the panel's: win_rate.judge.NAME, versus.judge.NAME:OTHER."""
    head, colon, other = metric.partition(":")
    return f"{head}.{name}{colon}{other}"


def repooled(scores: pandas.DataFrame, members: Mapping[str, float], weights: Mapping[str, float]) -> pandas.DataFrame:
    """The scores with the panel's own computed anew from those of its members that have a weight; none, from none."""
    import pandas

    metrics = set(scores["metric"])
    own = sorted(m for m in metrics if all(of_member(m, name) in metrics for name in members))
    parts = [scores[~scores["metric"].isin(own)]]
    for metric in own if weights else []:
        found = {name: scores[scores["metric"] == of_member(metric, name)] for name in weights}
        columns = [part.drop_duplicates(KEY).set_index(KEY)["value"].astype(float) for part in found.values()]
        table = pandas.concat(columns, axis=1, keys=list(found))
        weight = np.array([weights[name] for name in found])
        values = table.min(axis=1) if ANSWERED in metric else (table * weight).sum(axis=1) / weight.sum()
        values = values.where(table.notna().all(axis=1))  # every prompt has the same panel
        parts.append(values.rename("value").reset_index().assign(metric=metric)[list(scores.columns)])
    return pandas.concat(parts, ignore_index=True)


def decisions(scores: pandas.DataFrame) -> dict[tuple[str, str], str]:
    """The judge's decisions on rows against SFT and each other: who is better, or NOT_DECIDED; Holm's over all."""
    pairs, ps, signs = [], [], []
    for a, b, grid in _grids(scores):
        found = compare(grid, np.full(grid.shape, 0.5), bounds=(-0.5, 0.5))
        if isfinite(found.p):
            pairs.append((a, b))
            ps.append(found.p)
            signs.append(found.difference)
    return {
        (a, b): NOT_DECIDED if p >= LEVEL else f"{a if sign > 0 else b} is better"
        for (a, b), p, sign in zip(pairs, holm(ps), signs, strict=True)
    }


def _grids(scores: pandas.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """Each row against SFT, and each pair that was compared directly: the two names, and wins [seeds, prompts]."""
    opening = versus(WIN_RATE, "")
    judged = scores[(scores["metric"] == WIN_RATE) | scores["metric"].str.startswith(opening)]
    for (method, metric), part in judged[judged["method"] != SFT].groupby(["method", "metric"], sort=True):
        other = SFT if metric == WIN_RATE else str(metric).removeprefix(opening)
        rows = part.drop_duplicates(KEY).astype({"value": float})
        yield str(method), other, grid_of(rows).to_numpy()


def _member(scores: pandas.DataFrame, name: str, weight: float) -> dict[str, Any]:
    def share(metric: str) -> tuple[float | None, int]:
        values = scores.loc[scores["metric"] == of_member(metric, name), "value"].astype(float).dropna()
        return (float(values.mean()) if len(values) else None), len(values)

    same, swaps = share("judge.position_consistency")
    answered, _ = share(ANSWERED)
    left = None
    if answered is not None and answered < MINIMUM_ANSWERED:
        left = "unanswered"
    elif same is not None and swaps >= FEWEST and 1 - same >= ALWAYS:
        left = "flips"
    return {"weight": weight, "flip": None if same is None else 1 - same, "answered": answered, "left": left}


def _without_one(scores: pandas.DataFrame, weights: Mapping[str, float]) -> Iterator[dict[str, str]]:
    """The decisions that would be others without one of several members."""
    if len(weights) < 2:
        return
    whole = decisions(scores)
    for name in weights:
        rest = {other: weight for other, weight in weights.items() if other != name}
        for (a, b), verdict in decisions(repooled(scores, weights, rest)).items():
            if whole.get((a, b), verdict) != verdict:
                yield {"member": name, "a": a, "b": b, "with": whole[a, b], "without": verdict}


def _without_unanswered(scores: pandas.DataFrame) -> tuple[pandas.DataFrame, list[str]]:
    """The scores without those of rows on which a judge answered too little of what it was asked; told in one line."""
    asked = scores[scores["metric"].str.contains(ANSWERED, regex=False)].astype({"value": float})
    drop = np.zeros(len(scores), dtype=bool)
    said = []
    for (metric, method), values in asked.groupby(["metric", "method"], sort=True)["value"]:
        if values.mean() >= MINIMUM_ANSWERED:
            continue
        drop |= ((scores["method"] == method) & scores["metric"].isin(_answers_of(str(metric)))).to_numpy()
        judge, _, other = str(metric).removeprefix(VERSUS).replace(ANSWERED, "judge").partition(":")
        said.append(f"{judge} {values.mean():.0%} of {len(values):,} on {method}{f' against {other}' if other else ''}")
    kept = scores[~drop]
    empty = set(scores.loc[drop, "metric"]) - set(kept.loc[kept["method"] != SFT, "metric"])
    kept = kept[~kept["metric"].isin(empty)]  # SFT against itself alone is no column
    if not said:
        return scores, []
    return kept, [
        f"no number is given where less than {MINIMUM_ANSWERED:.0%} of the pairs that a judge was asked about have a "
        f"verdict: {'; '.join(said)}"
    ]


def _answers_of(metric: str) -> list[str]:
    """The metrics whose answered share a metric gives."""
    if metric.startswith(VERSUS):
        return [metric.replace(ANSWERED, "judge")]
    tail = metric.removeprefix(ANSWERED)
    return [f"{name}{tail}" for name in POOLED] + ([] if tail else [UNTIL_DECIDED])


def _not_compared(scores: pandas.DataFrame) -> list[str]:
    """Pairs of rows that the judge was not asked about, for no call named both."""
    opening = versus(WIN_RATE, "")
    direct = scores[scores["metric"].str.startswith(opening)]
    found = {
        frozenset((m, metric.removeprefix(opening)))
        for m, metric in zip(direct["method"], direct["metric"], strict=True)
    }
    rows = [m for m in dict.fromkeys(scores.loc[scores["metric"] == WIN_RATE, "method"]) if m != SFT]
    missing = [f"{a} and {b}" for a, b in combinations(rows, 2) if frozenset((a, b)) not in found]
    if not missing:
        return []
    return [
        f"the judge did not compare {', '.join(missing)} directly; name them together in one bench run to have it do so"
    ]
