"""A method's changes beside its win rates, as paired differences to SFT; and how many comparisons were ties."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from .grids import SFT, VERSUS, grid_of
from .statistics import compare

if TYPE_CHECKING:
    import pandas


def differences_to_sft(scores: pandas.DataFrame) -> dict[str, dict[str, dict[str, float | None]]]:
    """{metric: {method: {"difference", "low", "high", "n"}}}, the interval 95%; None where it does not exist.

    `scores` has the columns method, seed, metric, prompt_id and value. Win rates are against SFT already, and what a
    judge says of itself is no property of a policy: both are left out. No test is made here: with this many measures
    some intervals leave out zero by chance.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    kept = scores[~scores["metric"].str.startswith(("win_rate.", "judge.", VERSUS))]
    for metric, part in kept.assign(value=kept["value"].astype(float)).groupby("metric", sort=True):
        grids = {name: grid_of(rows) for name, rows in part.groupby("method", sort=False)}
        if SFT not in grids:
            continue
        for name, grid in grids.items():
            if name != SFT:
                ours, theirs = grid.align(grids[SFT], join="inner")
                found.setdefault(str(metric), {})[str(name)] = _difference(ours, theirs)
    return found


def ties(scores: pandas.DataFrame) -> dict[str, dict[str, float]]:
    """{win rate: {method: share of its values that are ties}}; a tie counts half in the win rate."""
    rates = scores[scores["metric"].str.startswith("win_rate.") & (scores["method"] != SFT)].dropna(subset="value")
    found: dict[str, dict[str, float]] = {}
    for (metric, method), part in (rates["value"].astype(float) == 0.5).groupby([rates["metric"], rates["method"]]):
        found.setdefault(str(metric), {})[str(method)] = float(part.mean())
    return found


def _difference(ours: pandas.DataFrame, theirs: pandas.DataFrame) -> dict[str, float | None]:
    both = int((ours.notna() & theirs.notna()).to_numpy().sum())
    if not both:
        return {"difference": None, "low": None, "high": None, "n": 0}
    outcome = compare(ours.to_numpy(), theirs.to_numpy())
    values: Mapping[str, Any] = {"difference": outcome.difference, "low": outcome.low, "high": outcome.high}
    return {**{k: float(v) if isfinite(v) else None for k, v in values.items()}, "n": both}
