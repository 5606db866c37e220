"""Curves through noisy points, and two of them compared at equal distance.

A point (d, r) has d = sqrt(KL to SFT) and r a score over SFT's. Between neighbouring points r is interpolated linearly
in d, never beyond the first and last. With w the share of the way from point i to j and b the slope between them, the
interpolated value v = (1 - w) r_i + w r_j depends on the responses by

    dv/dr_i = 1 - w,  dv/dr_j = w,  dv/dd_i = -b (1 - w),  dv/dd_j = -b w,  dd/dKL = 1 / (2 d)

so each response has its influence on v, and a table [seeds, prompts] of v + influence goes to `statistics.py`: two
methods are paired by prompt, seeds are clusters, and noise in the KL counts as noise.

A straight line between two points of a bent curve lies beside the curve by at most c (d - d_i) (d_j - d), c half the
largest second derivative; the second divided differences of neighbouring points, SFT at (0, 0) among them, estimate c.
Intervals and p allow for this bend on top, so coarse rows give wide intervals and no false winner.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import nan
from typing import Any

import numpy as np

from .comparisons import NOT_DECIDED
from .statistics import compare, interval

NO_COMMON = "nothing in common"  # of two curves' ranges
KL, FLOPS = "kl", "flops"  # what is equal where two curves are compared
BETWEEN = 9  # distances at which two curves are compared, beside their points


@dataclass(frozen=True)
class Curve:
    """Points of one method by rising distance: kl and rewards (over SFT) [points, seeds, prompts], NaN for missing."""

    kl: np.ndarray
    rewards: np.ndarray
    known: np.ndarray | None = None
    """Distances [points] that are not those of the KL, and known exactly."""

    @cached_property
    def distances(self) -> np.ndarray:
        if self.known is not None:
            return self.known
        return np.sqrt(np.maximum(np.nanmean(self.kl, axis=(1, 2)), 0.0))

    @cached_property
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
        if self.known is not None:
            return np.zeros(kl.shape)
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


def at_equal(a: Curve, b: Curve, measure: str = KL) -> dict[str, Any]:
    """Two frontiers over the distances that both have: the mean difference a - b there, the area, and the curve.

    Limits allow for the bend between points. A method of one point is compared at that point's distance.
    """
    x, y = a.distances, b.distances
    low, high = max(x[0], y[0]), min(x[-1], y[-1])
    seeds = int(np.isfinite(a.kl[0]).any(axis=1).sum())
    common: dict[str, Any] = {"seeds": seeds, "everywhere": False, "crosses": False}
    if low > high or (low == high and min(len(x), len(y)) > 1):
        return {**common, measure: None, "verdict": NO_COMMON}
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
        measure: [float(low**2), float(high**2)],
        **whole,
        "p_adjusted": nan,
        "verdict": NOT_DECIDED,
        "area": {key: whole[key] * width for key in ("difference", "low", "high")},
        "curve": [
            {measure: float(d**2), "distance": float(d), **_difference(table, float(bend))}
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
    found = interval(table)
    p = 1.0 if abs(found.mean) <= bend else compare(table, np.full(table.shape, np.sign(found.mean) * bend)).p
    return {"difference": found.mean, "low": found.low - bend, "high": found.high + bend, "p": p}
