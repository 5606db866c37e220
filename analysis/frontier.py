"""Frontiers: what a method's rows reach at each distance from SFT, and two methods compared at equal KL or compute.

The rows of a method (settings of its strength: beta, n, budget) are points of a curve: their distance sqrt(KL to SFT),
and a score over SFT's on the same prompt. `interpolation.py` compares two such curves at equal distance. At equal
training compute it is the same with sqrt(FLOPs) for a distance: SFT stands at 0 there too.

A method with one row is a frontier of its checkpoints along training, if they were scored; else a single point, which
is compared at its own KL. Gao's forms (`overoptimization.py`) are fitted over rows here, where there are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import NOT_DECIDED, PREFERRED
from .grids import SFT, grid_of, grids_of
from .interpolation import FLOPS, KL, Curve, at_equal
from .overoptimization import FORMS, GOLD, LEAST, NAMES, PROXY, STAND_IN, fit
from .quantities import flops as in_flops
from .quantities import in_points, measured, unsigned
from .sequential import UNTIL_DECIDED
from .statistics import holm, interval
from .verdict import BY

if TYPE_CHECKING:
    import pandas

ROWS, CHECKPOINTS = "rows", "checkpoints"  # what a frontier's points are
GAP = "gap"  # the proxy's reward less the true one's, each over SFT's in standard deviations of SFT's
FEW_PAIRS = 6  # pairs of methods that are told one by one
FINAL_PROXY = "reward.reward_model.training"  # the name of PROXY among the scores of final policies
# below which an adjusted p shows a difference: at 0.05 up to 6% of equal pairs are told apart with one seed, for
# intervals through a bend or a single row are a little short (claims_frontier.py)
AT_EQUAL_KL = 0.04
# the order in which a sentence trusts them: win rates, then rewards
TRUSTED = (*(m for m in PREFERRED if m != UNTIL_DECIDED), GOLD, STAND_IN)


@dataclass(frozen=True)
class Point:
    """A row (or checkpoint) with its KL and its scores over SFT: frames with a row a seed, a column a prompt."""

    name: str
    kl: pandas.DataFrame
    scores: dict[str, pandas.DataFrame]
    flops: float | None = None
    """Of its training."""


def frontier(scores: pandas.DataFrame, along: pandas.DataFrame | None = None) -> dict[str, Any]:
    """Frontiers by method and their comparisons at equal KL, as plain data.

    scores: columns method (the row's label, NAME or NAME:SETTING...), seed, metric, prompt_id, value. along: the same
    of checkpoints, with examples. Returns {"methods": {name: {"over", "points", "fits"}}, "comparisons": [...]}, empty
    where no method has two points.
    """
    found = _points(scores, along)
    if not any(len(points) > 1 for _, points in found.values()):
        return {}
    methods = {name: {"over": over, **_described(over, points)} for name, (over, points) in found.items()}
    points = {name: points for name, (_, points) in found.items()}
    return {"methods": methods, "comparisons": comparisons(points)}


def method_of(label: str) -> str:
    """The method of a row by its label."""
    return label.partition(":")[0]


def equal_compute(
    scores: pandas.DataFrame, names: Mapping[str, str], flops: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Comparisons at equal training compute of rows that differ in their budget.

    names: by label what the rows of one frontier are called together. flops: of a row's training, by label.
    """
    found = {}
    for name, (_, points) in _points(scores, None, names.__getitem__).items():
        spent = [replace(point, flops=flops.get(point.name)) for point in points]
        if all(point.flops for point in spent):
            found[name] = sorted(spent, key=lambda point: point.flops or 0.0)
    return comparisons(found, FLOPS)


def _points(
    scores: pandas.DataFrame, along: pandas.DataFrame | None, name_of: Callable[[str], str] = method_of
) -> dict[str, tuple[str, list[Point]]]:
    """For each method what its points are, and the points by rising KL."""
    values = scores.replace({"metric": {FINAL_PROXY: PROXY}})
    values = values[values["metric"].map(is_wanted)]
    grids = grids_of(values)
    base = {metric: grid for (label, metric), grid in grids.items() if label == SFT}
    found: dict[str, tuple[str, list[Point]]] = {}
    for label in dict.fromkeys(values["method"]):
        if label != SFT and (label, "kl") in grids:
            own = {metric: grid for (name, metric), grid in grids.items() if name == label}
            found.setdefault(name_of(label), (ROWS, []))[1].append(_point(label, own, base))
    for method, (_, points) in found.items():
        checkpoints = _checkpoints(along, points[0].name) if len(points) == 1 and along is not None else []
        if len(checkpoints) > 1:
            found[method] = (CHECKPOINTS, checkpoints)
    return {m: (over, sorted(points, key=lambda p: float(np.nanmean(p.kl)))) for m, (over, points) in found.items()}


def is_wanted(metric: str) -> bool:
    """The KL, and scores as a whole: no facets, no judge that stopped early."""
    family, _, scorer = metric.partition(".")
    whole = family in ("win_rate", "reward") and "." not in scorer
    return metric == "kl" or (whole and metric != UNTIL_DECIDED)


def _checkpoints(along: pandas.DataFrame, label: str) -> list[Point]:
    """The checkpoints of a row that every seed has, the final policy among them."""
    rows = along[(along["method"] == label) & along["metric"].map(is_wanted)]
    grids = {
        (examples, str(metric)): grid_of(part) for (examples, metric), part in rows.groupby(["examples", "metric"])
    }
    base = {metric: grid for (examples, metric), grid in grids.items() if examples == 0}
    counts = sorted(int(examples) for examples in rows["examples"].unique() if examples)
    seeds = rows["seed"].nunique()
    own = {count: {metric: grid for (examples, metric), grid in grids.items() if examples == count} for count in counts}
    return [_point(f"{count} examples", own[count], base) for count in counts if len(own[count]["kl"]) == seeds]


def _point(name: str, own: Mapping[str, pandas.DataFrame], base: Mapping[str, pandas.DataFrame]) -> Point:
    """Scores over SFT: a win rate's excess over one half, a reward less SFT's on the same seed and prompt."""
    scores = {metric: grid - 0.5 for metric, grid in own.items() if metric.startswith("win_rate.")}
    scores |= {m: grid - base[m] for m, grid in own.items() if m.startswith("reward.") and m in base}
    if PROXY in scores and GOLD in scores:
        proxy, gold = (scores[m] / max(float(np.nanstd(base[m])), 1e-9) for m in (PROXY, GOLD))
        scores[GAP] = proxy - gold
    return Point(name, own["kl"], scores)


def _described(over: str, points: Sequence[Point]) -> dict[str, Any]:
    """Points with intervals, and Gao's forms fitted over rows."""
    metrics = list(dict.fromkeys(metric for point in points for metric in point.scores))
    shown = [
        {
            "name": point.name,
            "kl": asdict(interval(point.kl.to_numpy(float))),
            "distance": float(np.sqrt(np.maximum(np.nanmean(point.kl), 0.0))),
            "scores": {metric: asdict(interval(grid.to_numpy(float))) for metric, grid in point.scores.items()},
        }
        for point in points
    ]
    fits = {}
    for metric in metrics:
        curve = _curves([points], metric)
        if over == ROWS and curve and len(points) >= LEAST and curve[0].distances.max() > 0:
            distances = np.sqrt(np.maximum(np.nanmean(curve[0].kl, axis=2), 0.0))
            fits[metric] = min((fit(form, distances, curve[0].rewards) for form in FORMS), key=lambda f: f["rmse"])
    return {"points": shown, "fits": fits}


def _curves(methods: Sequence[Sequence[Point]], metric: str, measure: str = KL) -> list[Curve]:
    """Curves of some methods on the seeds and prompts that all their points have; none where there are none.

    measure: what their distances are the square roots of.
    """
    if not all(metric in point.scores for points in methods for point in points):
        return []
    frames = [frame for points in methods for p in points for frame in (p.kl, p.scores[metric])]
    seeds = sorted(set.intersection(*(set(f.index) for f in frames)))
    prompts = sorted(set.intersection(*(set(f.columns) for f in frames)))
    if not seeds or len(prompts) < 2:
        return []
    tables = np.stack([frame.loc[seeds, prompts].to_numpy(float) for frame in frames])
    tables[:, ~np.isfinite(tables).all(axis=0)] = nan  # a response counts where every point has its value
    if not np.isfinite(tables).any():
        return []
    found, start = [], 0
    for points in methods:
        part = tables[start : start + 2 * len(points)].reshape(len(points), 2, len(seeds), len(prompts))
        known = np.sqrt([point.flops or 0.0 for point in points]) if measure == FLOPS else None
        order = np.argsort(np.nanmean(part[:, 0], axis=(1, 2)) if known is None else known, kind="stable")
        found.append(Curve(part[order, 0], part[order, 1], None if known is None else known[order]))
        start += 2 * len(points)
    return found


def comparisons(methods: Mapping[str, Sequence[Point]], measure: str = KL) -> list[dict[str, Any]]:
    """Every pair of methods at equal KL (or FLOPs) on each score, with Holm's correction within a score."""
    metrics = dict.fromkeys(metric for points in methods.values() for point in points for metric in point.scores)
    found = []
    for metric in metrics:
        pairs = [(a, b) for a, b in combinations(methods, 2) if max(len(methods[a]), len(methods[b])) > 1]
        curves = {(a, b): _curves([methods[a], methods[b]], metric, measure) for a, b in pairs}
        rows = [
            {"a": a, "b": b, "metric": metric, **at_equal(both[0], both[1], measure)}
            for (a, b), both in curves.items()
            if both
        ]
        tested = [row for row in rows if isfinite(row.get("p", nan))]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = p
            _decide(row, AT_EQUAL_KL / len(tested))
        found += rows
    return found


def _decide(row: dict[str, Any], level: float) -> None:
    """The verdict of a row, whether it holds at every KL of the range, and whether the two cross.

    level: of one comparison; each point of the range must show its difference at that level, so none need be corrected
    for the others.
    """
    shown = [np.sign(c["difference"]) if c["p"] < level else 0 for c in row["curve"]]
    if row["p_adjusted"] < AT_EQUAL_KL:
        row["verdict"] = f"{row['a'] if row['difference'] > 0 else row['b']} is better"
        row["everywhere"] = all(sign == np.sign(row["difference"]) for sign in shown)
    row["crosses"] = bool(shown[0] * shown[-1] < 0)


def sentences(summary: Mapping[str, Any], answered: Collection[int] = ()) -> list[str]:
    """What the frontiers show, a sentence a pair of methods, by the score that is trusted most.

    Of many pairs those are told in which something is shown, and the rest is counted. answered: ids of rows of which a
    study's answer tells, with another correction; of these is said here what is shown here as well.
    """
    found = summary.get("frontier") or {}
    every = trusted(found.get("comparisons", ()))
    rows = [row for row in every if id(row) not in answered or row["crosses"] or row["verdict"] != NOT_DECIDED]
    told = [row for row in rows if len(rows) <= FEW_PAIRS or row["crosses"] or row["verdict"] != NOT_DECIDED]
    told = [row for row in told if row["kl"] or len(rows) <= FEW_PAIRS]
    said = [_sentence(row, found["methods"]) for row in told]
    if rest := len(rows) - len(told):
        apart = sum(row["kl"] is None for row in rows)
        none = f", {apart} of which have no KL in common" if apart else ""
        other = " other" * (len(rows) < len(every))
        pairs = f"{rest} of {len(rows)}{other} pairs of methods, corrected for each other"
        said.append(f"At equal KL to SFT, no difference is shown in {pairs}{none}.")
    return said


def compute_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same of comparisons at equal compute; pairs whose compute does not meet are left out."""
    return [_sentence(row, {}, FLOPS) for row in trusted(rows) if row[FLOPS]]


def trusted(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """For each pair the row of the score that is trusted most."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["a"], row["b"]), {})[row["metric"]] = row
    return [next(by[metric] for metric in TRUSTED if metric in by) for by in found.values() if set(by) & set(TRUSTED)]


def _sentence(row: Mapping[str, Any], methods: Mapping[str, Any], measure: str = KL) -> str:
    a, b, by = row["a"], row["b"], scorer_name(row["metric"])
    equal = "equal KL to SFT" if measure == KL else "equal training compute"
    if row[measure] is None:
        spans = (f"{name} {_span(methods[name]['points'])}" for name in (a, b))
        return f"Nothing is said of {a} and {b} at {equal}, for they have none in common ({', '.join(spans)})."
    low, high = row[measure]
    first, last = (f"{end:.2g} nats" if measure == KL else in_flops(end) for end in (low, high))
    where = f"{first.removesuffix(' nats')} to {last}" if high > low else first
    # one training run each: a statement about these policies
    a, b = (f"these {name} policies" if row["seeds"] == 1 else name for name in (a, b))
    is_ = "are" if row["seeds"] == 1 else "is"
    ahead, behind, sign = (a, b, 1) if (row["difference"] or 0) >= 0 else (b, a, -1)
    limits = sorted(sign * row[end] for end in ("low", "high")) if measured(row["low"]) else None
    unit = 100 if row["metric"].startswith("win_rate.") else 1
    digits = 0 if unit == 100 else 2
    number = f"{unit * abs(row['difference']):.{digits}f}"
    size = in_points(number) if unit == 100 else number
    span = " to ".join(unsigned(unit * limit, digits) for limit in limits) if limits else "no interval"
    mean = " on average" if high > low else ""
    if row["crosses"]:
        one, other = (a if end["difference"] > 0 else b for end in (row["curve"][0], row["curve"][-1]))
        return f"At {equal} the two cross: by {by}, {one} {is_} ahead at {first}, {other} at {last}."
    if row["verdict"] == NOT_DECIDED:
        return (
            f"At {equal} ({where}), no difference between {a} and {b} is shown by {by}: {ahead} {is_} {size} "
            f"ahead{mean} ({span})."
        )
    everywhere = (
        f", and at every {'KL' if measure == KL else 'compute'} in between" if row["everywhere"] and high > low else ""
    )
    return f"At {equal} ({where}), {ahead} {is_} ahead of {behind} by {by}: {size}{mean} ({span}){everywhere}."


def scorer_name(metric: str) -> str:
    """What gives a score its numbers, in words."""
    return NAMES.get(metric) or BY.get(metric.partition(".")[2], metric.partition(".")[2])


def _span(points: Sequence[Mapping[str, Any]]) -> str:
    kls = [point["kl"]["mean"] for point in points]
    return f"{min(kls):.2g} to {max(kls):.2g} nats" if len(kls) > 1 else f"{kls[0]:.2g} nats"
