"""Frontiers: what a method's rows reach at each distance from SFT, and two methods compared at equal KL.

The rows of a method (settings of its strength: beta, n, budget) are points (d, r): d = sqrt(KL to SFT), r a score over
SFT's on the same prompt. Between neighbouring points r is interpolated linearly in d, never beyond the first and last.
With w the share of the way from point i to j and b the slope between them, the interpolated value v = (1 - w) r_i +
w r_j depends on the responses by

    dv/dr_i = 1 - w,  dv/dr_j = w,  dv/dd_i = -b (1 - w),  dv/dd_j = -b w,  dd/dKL = 1 / (2 d)

so each response has its influence on v, and a table [seeds, prompts] of v + influence goes to `statistics.py`: two
methods are paired by prompt, seeds are clusters, and noise in the KL counts as noise.

A straight line between two points of a bent curve lies beside the curve by at most c (d - d_i) (d_j - d), c half the
largest second derivative; the second divided differences of neighbouring points, SFT at (0, 0) among them, estimate c.
Intervals and p allow for this bend on top, so coarse rows give wide intervals and no false winner.

A method with one row is a frontier of its checkpoints along training, if they were scored; else a single point, which
is compared at its own KL. Gao's forms (`overoptimization.py`) are fitted over rows here, where there are enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from .overoptimization import FORMS, GOLD, LEAST, NAMES, PROXY, STAND_IN, fit
from .quantities import measured
from .sequential import UNTIL_DECIDED
from .statistics import compare, holm, interval
from .verdict import BY, LEVEL, NO_DIFFERENCE, PREFERRED, SFT

if TYPE_CHECKING:
    import pandas

ROWS, CHECKPOINTS = "rows", "checkpoints"  # what a frontier's points are
GAP = "gap"  # the proxy's reward less the true one's, each over SFT's in standard deviations of SFT's
FINAL_PROXY = "reward.reward_model.training"  # the name of PROXY among the scores of final policies
BETWEEN = 9  # distances at which two frontiers are compared, beside their points
NO_COMMON_KL = "no common KL"
# the order in which a sentence trusts them: win rates, then rewards
TRUSTED = (*(m for m in PREFERRED if m != UNTIL_DECIDED), GOLD, STAND_IN)


@dataclass(frozen=True)
class Point:
    """A row (or checkpoint) with its KL and its scores over SFT: frames with a row a seed, a column a prompt."""

    name: str
    kl: pandas.DataFrame
    scores: dict[str, pandas.DataFrame]


@dataclass(frozen=True)
class Curve:
    """Points of one method by rising distance: kl and rewards (over SFT) [points, seeds, prompts], NaN for missing."""

    kl: np.ndarray
    rewards: np.ndarray

    @property
    def distances(self) -> np.ndarray:
        return np.sqrt(np.maximum(np.nanmean(self.kl, axis=(1, 2)), 0.0))

    @property
    def means(self) -> np.ndarray:
        return np.nanmean(self.rewards, axis=(1, 2))

    def pair(self, d: float) -> tuple[int, int, float, float]:
        """The neighbours of a distance, the share of the way between them, and the slope; one point is its own."""
        x, r = self.distances, self.means
        if len(x) == 1:
            return 0, 0, 0.0, 0.0
        i = int(np.clip(np.searchsorted(x, d, side="right") - 1, 0, len(x) - 2))
        width = x[i + 1] - x[i]
        if width <= 0:
            return i, i + 1, 0.5, 0.0
        return i, i + 1, float((d - x[i]) / width), float((r[i + 1] - r[i]) / width)

    def at(self, d: float) -> np.ndarray:
        """The interpolated value at a distance plus each response's influence on it, [seeds, prompts]."""
        i, j, w, slope = self.pair(d)
        value = (1 - w) * self.means[i] + w * self.means[j]
        return value + sum(
            share * (self.rewards[p] - self.means[p] - slope * self.moved(p)) for p, share in ((i, 1 - w), (j, w))
        )

    def moved(self, point: int) -> np.ndarray:
        """Each response's influence on a point's distance, [seeds, prompts]."""
        kl = self.kl[point]
        return (kl - np.nanmean(kl)) / max(2 * self.distances[point], 1e-9)

    def bend(self, d: float) -> float:
        """The most by which the curve may lie beside the straight line at a distance."""
        i, j, w, _ = self.pair(d)
        if i == j:
            return 0.0
        x, r = np.concatenate([[0.0], self.distances]), np.concatenate([[0.0], self.means])
        triples = [(k, k + 1, k + 2) for k in (i, i + 1) if k + 2 < len(x)]
        bent = max(abs(_divided(x[list(t)], r[list(t)])) for t in triples)
        return float(bent * w * (1 - w) * (x[j + 1] - x[i + 1]) ** 2)


def _divided(x: np.ndarray, y: np.ndarray) -> float:
    """The second divided difference of three points; 0 where two of them coincide."""
    if min(x[1] - x[0], x[2] - x[1]) <= 0:
        return 0.0
    return float(((y[2] - y[1]) / (x[2] - x[1]) - (y[1] - y[0]) / (x[1] - x[0])) / (x[2] - x[0]))


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


def _points(scores: pandas.DataFrame, along: pandas.DataFrame | None) -> dict[str, tuple[str, list[Point]]]:
    """For each method what its points are, and the points by rising KL."""
    values = scores.assign(value=scores["value"].astype(float)).replace({"metric": {FINAL_PROXY: PROXY}})
    values = values[values["metric"].map(is_wanted)]
    grids = {
        (str(label), str(metric)): part.pivot(index="seed", columns="prompt_id", values="value")
        for (label, metric), part in values.groupby(["method", "metric"], sort=False)
    }
    base = {metric: grid for (label, metric), grid in grids.items() if label == SFT}
    found: dict[str, tuple[str, list[Point]]] = {}
    for label in dict.fromkeys(values["method"]):
        if label != SFT and (label, "kl") in grids:
            own = {metric: grid for (name, metric), grid in grids.items() if name == label}
            found.setdefault(method_of(label), (ROWS, []))[1].append(_point(label, own, base))
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
        (examples, str(metric)): part.pivot(index="seed", columns="prompt_id", values="value").astype(float)
        for (examples, metric), part in rows.groupby(["examples", "metric"])
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


def _curves(methods: Sequence[Sequence[Point]], metric: str) -> list[Curve]:
    """Curves of some methods on the seeds and prompts that all their points have; none where there are none."""
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
        order = np.argsort(np.nanmean(part[:, 0], axis=(1, 2)), kind="stable")
        found.append(Curve(part[order, 0], part[order, 1]))
        start += 2 * len(points)
    return found


def comparisons(methods: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
    """Every pair of methods at equal KL on each score, with Holm's correction within a score."""
    metrics = dict.fromkeys(metric for points in methods.values() for point in points for metric in point.scores)
    found = []
    for metric in metrics:
        pairs = [(a, b) for a, b in combinations(methods, 2) if max(len(methods[a]), len(methods[b])) > 1]
        curves = {(a, b): _curves([methods[a], methods[b]], metric) for a, b in pairs}
        rows = [{"a": a, "b": b, "metric": metric, **at_equal_kl(*both)} for (a, b), both in curves.items() if both]
        tested = [row for row in rows if isfinite(row.get("p", nan))]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = p
            _decide(row, LEVEL / len(tested))
        found += rows
    return found


def _decide(row: dict[str, Any], level: float) -> None:
    """The verdict of a row, whether it holds at every KL of the range, and whether the two cross.

    level: of one comparison; each point of the range must show its difference at that level, so none need be corrected
    for the others.
    """
    shown = [np.sign(c["difference"]) if c["p"] < level else 0 for c in row["curve"]]
    if row["p_adjusted"] < LEVEL:
        row["verdict"] = f"{row['a'] if row['difference'] > 0 else row['b']} is better"
        row["everywhere"] = all(sign == np.sign(row["difference"]) for sign in shown)
    row["crosses"] = bool(shown[0] * shown[-1] < 0)


def at_equal_kl(a: Curve, b: Curve) -> dict[str, Any]:
    """Two frontiers over the distances that both have: the mean difference a - b there, the area, and the curve.

    Limits allow for the bend between points. A method of one point is compared at that point's distance.
    """
    x, y = a.distances, b.distances
    low, high = max(x[0], y[0]), min(x[-1], y[-1])
    seeds = int(np.isfinite(a.kl[0]).any(axis=1).sum())
    common: dict[str, Any] = {"seeds": seeds, "everywhere": False, "crosses": False}
    if low > high or (low == high and min(len(x), len(y)) > 1):
        return {**common, "kl": None, "verdict": NO_COMMON_KL}
    inner = [d for d in (*x, *y) if low < d < high]
    places = np.unique([*np.linspace(low, high, BETWEEN), *inner]) if high > low else np.array([low])
    tables = np.stack([a.at(d) - b.at(d) for d in places])
    if high == low:  # one of them is a point, whose distance is an estimate as well
        one, other = (a, b) if len(x) == 1 else (b, a)
        tables += (-1 if one is a else 1) * other.pair(low)[3] * one.moved(0)
    bends = np.array([a.bend(d) + b.bend(d) for d in places])
    weights = _trapezoid(places)
    whole = _difference(np.tensordot(weights, tables, axes=1), float(weights @ bends))
    width = high - low
    return {
        **common,
        "kl": [float(low**2), float(high**2)],
        **whole,
        "p_adjusted": nan,
        "verdict": NO_DIFFERENCE,
        "area": {key: whole[key] * width for key in ("difference", "low", "high")},
        "curve": [
            {"kl": float(d**2), "distance": float(d), **_difference(table, float(bend))}
            for d, table, bend in zip(places, tables, bends, strict=True)
        ],
    }


def _trapezoid(places: np.ndarray) -> np.ndarray:
    """Weights of a mean over the distances from the first to the last place."""
    if len(places) == 1:
        return np.ones(1)
    steps = np.diff(places)
    return (np.append(steps, 0) + np.insert(steps, 0, 0)) / 2 / steps.sum()


def _difference(table: np.ndarray, bend: float) -> dict[str, float]:
    """A mean with its interval, widened by the bend on either side, and p of a mean beyond the bend."""
    zero = np.zeros(table.shape)
    plain = compare(table, zero)
    shifted = compare(table - np.sign(plain.difference) * min(abs(plain.difference), bend), zero)
    return {"difference": plain.difference, "low": plain.low - bend, "high": plain.high + bend, "p": shifted.p}


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """What the frontiers show, a sentence a pair of methods, by the score that is trusted most."""
    found = summary.get("frontier") or {}
    said = []
    pairs = dict.fromkeys((row["a"], row["b"]) for row in found.get("comparisons", ()))
    for pair in pairs:
        rows = {row["metric"]: row for row in found["comparisons"] if (row["a"], row["b"]) == pair}
        if metric := next((metric for metric in TRUSTED if metric in rows), None):
            said.append(_sentence(rows[metric], found["methods"]))
    return said


def _sentence(row: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    a, b, by = row["a"], row["b"], scorer_name(row["metric"])
    if row["kl"] is None:
        spans = (f"{name} {_span(methods[name]['points'])}" for name in (a, b))
        return f"Nothing is said of {a} and {b} at equal KL to SFT, for they have none in common ({', '.join(spans)})."
    low, high = row["kl"]
    where = f"{low:.2g} to {high:.2g} nats" if high > low else f"{low:.2g} nats"
    # one training run each: a statement about these policies
    a, b = (f"these {name} policies" if row["seeds"] == 1 else name for name in (a, b))
    is_ = "are" if row["seeds"] == 1 else "is"
    ahead, behind, sign = (a, b, 1) if (row["difference"] or 0) >= 0 else (b, a, -1)
    limits = sorted(sign * row[end] for end in ("low", "high")) if measured(row["low"]) else None
    unit = 100 if row["metric"].startswith("win_rate.") else 1
    digits = 0 if unit == 100 else 2
    size = f"{unit * abs(row['difference']):.{digits}f}{' points' if unit == 100 else ''}"
    span = f"{unit * limits[0]:.{digits}f} to {unit * limits[1]:.{digits}f}" if limits else "no interval"
    mean = " on average" if high > low else ""
    if row["crosses"]:
        first, last = (a if end["difference"] > 0 else b for end in (row["curve"][0], row["curve"][-1]))
        return (
            f"At equal KL to SFT the two cross: by {by}, {first} {is_} ahead at {low:.2g} nats, {last} at {high:.2g}."
        )
    if row["verdict"] == NO_DIFFERENCE:
        return (
            f"At equal KL to SFT ({where}), no difference between {a} and {b} is shown by {by}: {ahead} {is_} {size} "
            f"ahead{mean} ({span})."
        )
    everywhere = ", and at every KL in between" if row["everywhere"] and high > low else ""
    return f"At equal KL to SFT ({where}), {ahead} {is_} ahead of {behind} by {by}: {size}{mean} ({span}){everywhere}."


def scorer_name(metric: str) -> str:
    """What gives a score its numbers, in words."""
    return NAMES.get(metric) or BY.get(metric.partition(".")[2], metric.partition(".")[2])


def _span(points: Sequence[Mapping[str, Any]]) -> str:
    kls = [point["kl"]["mean"] for point in points]
    return f"{min(kls):.2g} to {max(kls):.2g} nats" if len(kls) > 1 else f"{kls[0]:.2g} nats"
