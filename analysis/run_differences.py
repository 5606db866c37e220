"""Differences between two runs: their contracts, their surroundings, and what they found."""

from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any

from ..results.run_folder import Run, differences
from .grids import grid_of
from .statistics import compare

if TYPE_CHECKING:
    import pandas


SHARED = 0.5  # of the smaller run's prompts, for a difference to be paired


@dataclass(frozen=True)
class Change:
    """One metric of one method in run b minus that in run a, with its 95% interval; NaN where there is none."""

    method: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    prompts: int
    """Over which the difference is paired; 0: the runs share too few, and their own intervals are combined."""


def settings(a: Run, b: Run) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Dotted names and both values of what differs: in the contract, in methods that both have, in the surroundings."""
    ours, theirs = a.record, b.record
    shared = [name for name in ours["methods"] if name in theirs["methods"]]
    return {
        "contract": differences(ours["contract"], theirs["contract"]),
        "methods": differences(_params(ours, shared), _params(theirs, shared)),
        "environment": differences(ours.get("environment", {}), theirs.get("environment", {})),
    }


def _params(record: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: record["methods"][name]["params"] for name in names}


def cautions(a: Run, b: Run) -> list[str]:
    """Reasons why one metric may not mean the same in both runs."""
    changed = differences(a.record["contract"], b.record["contract"])
    said = []
    if "sft.content" in changed:
        said.append("the SFT checkpoints differ, so win rates are against different baselines, and so is kl")
    if "reward_model.evaluation" in changed or "evaluated_by" in changed:
        said.append("the evaluation reward models differ, so what they say is on different scales")
    if "data" in changed:
        said.append("the data differ, and with them the prompts that are answered")
    return said


def changes(a: Run, b: Run) -> list[Change]:
    """Every metric that both runs have of a method, b minus a.

    Paired by prompt (and seed), over what both have, where the runs share half of their prompts; else Zou and
    Donner's (2008) interval of the difference of two independent means from the intervals of both. No test is made:
    with this many measures some intervals leave out zero by chance.
    """
    ours, theirs = _grids(a), _grids(b)
    summaries = a.summary["methods"], b.summary["methods"]
    found = []
    for key in [key for key in ours if key in theirs]:
        method, metric = key
        cells = [s.get(method, {}).get("metrics", {}).get(metric) for s in summaries]
        if None in cells or None in (cells[0]["mean"], cells[1]["mean"]):
            continue
        before, after = ours[key].align(theirs[key], join="inner")
        both = before.notna() & after.notna()
        prompts = int(both.any().sum())
        if prompts >= max(2, SHARED * min(ours[key].shape[1], theirs[key].shape[1])):
            outcome = compare(after.to_numpy(), before.to_numpy())
            limits = outcome.difference, outcome.low, outcome.high
            means = [float(table.to_numpy()[both.to_numpy()].mean()) for table in (before, after)]
        else:
            prompts, limits = 0, independent(*cells)
            means = [float(cell["mean"]) for cell in cells]
        difference, low, high = map(float, limits)
        found.append(Change(method, metric, means[0], means[1], difference, low, high, prompts))
    return sorted(found, key=lambda c: (not c.metric.startswith("win_rate."), c.metric, c.method))


def independent(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float, float]:
    """b - a and its limits, from means with limits of their own; Zou and Donner (2008, Stat. Med. 27), eq. 2 and 3."""
    difference = b["mean"] - a["mean"]
    if None in (a["low"], a["high"], b["low"], b["high"]):
        return difference, nan, nan
    below = sqrt((b["mean"] - b["low"]) ** 2 + (a["high"] - a["mean"]) ** 2)
    above = sqrt((b["high"] - b["mean"]) ** 2 + (a["mean"] - a["low"]) ** 2)
    return difference, difference - below, difference + above


def excludes_zero(change: Change) -> bool:
    return isfinite(change.low) and (change.low > 0 or change.high < 0)


def _grids(run: Run) -> dict[tuple[str, str], "pandas.DataFrame"]:
    """A table per method and metric: a row a seed, a column a prompt."""
    scores = run.scores()
    values = scores.assign(value=scores["value"].astype(float))
    return {
        (str(method), str(metric)): grid_of(part)
        for (method, metric), part in values.groupby(["method", "metric"], sort=False)
    }
