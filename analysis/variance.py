"""The variance of a method's score by source: its own seed, the seed of SFT, of the reward models, the split, prompts.

A study with `per_seed` has worlds: world 0, and worlds that differ from it in one source (or in all) by another seed;
in each of them a method is trained with the same S seeds. Let y[w, s] be the mean score over prompts. Then

    seed        the variance of y within worlds, pooled (response sampling is part of it)
    a source    the variance between the K worlds that differ in it alone, less seed / S, and less the prompts' part
                where the split moves the prompts; not below 0
    prompts     the prompts' part of the variance of world 0's mean, see `statistics.py`

which are the usual estimates of a random-effects analysis of variance. With K = 3 worlds a component is known within a
factor of 6 or so either way (chi-squared with two degrees of freedom). So one source is said to be that of which one
more would help most only where it is so in `SURE` of the components that the mean squares allow for, each divided by a
chi-squared draw over its degrees of freedom (generalized pivotal quantities, Weerahandi 1993); else it is an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from .grids import grid_of
from .statistics import analyse
from .verdict import judged_by

if TYPE_CHECKING:
    import pandas

SURE = 0.98  # at 0.975 one of two sources that are alike was named in 6% of studies; claims_variance.py
DRAWS = 2000
SPLIT = "split"
SEED, PROMPTS = "seed", "prompts"
CALLED = {
    SEED: "the method's seed",
    PROMPTS: "prompts",
    SPLIT: "the split",
    "sft": "the seed of SFT",
    "reward_model": "the seed of the reward models",
}
MORE = {
    SEED: "one more seed of the method",
    PROMPTS: "as many prompts again",
    SPLIT: "a second split",
    "sft": "a second SFT",
    "reward_model": "a second pair of reward models",
}


def split_variance(scores: pandas.DataFrame, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of method, metric, and the parts of the variance of a run's mean, the largest first.

    scores: columns method, seed, metric, prompt_id, value, and for each source the number of its seed. Each part has
    `sd` of one draw of its source (prompts: of the mean over them), its `share` of the variance of a run's mean (one
    SFT, one pair of reward models, one split, S seeds), and how much of that variance one more of it takes away. shown:
    the part of which one more takes most away is shown to be that.
    """
    found = []
    for (method, metric), part in scores.groupby(["method", "metric"], sort=True):
        if components := _components(part, sources):
            found.append({"method": str(method), "metric": str(metric), **components})
    return found


def _components(part: pandas.DataFrame, sources: Sequence[str]) -> dict[str, Any]:
    means = part.groupby([*sources, "seed"])["value"].mean().unstack("seed")  # [worlds, seeds]
    table = means.to_numpy(float)
    seeds = table.shape[1]
    if seeds < 2 or not np.isfinite(table).all():
        return {}
    worlds = np.array([np.atleast_1d(world) for world in means.index])
    base = part[(part[list(sources)] == 0).all(axis=1)]
    if base.empty:
        return {}
    grid = analyse(grid_of(base).to_numpy())
    variance = {SEED: float(table.var(axis=1, ddof=1).mean()), PROMPTS: grid.prompt_variance}
    rng = np.random.default_rng(0)
    freedom = len(table) * (seeds - 1)
    drawn = {SEED: variance[SEED] * freedom / rng.chisquare(freedom, DRAWS), PROMPTS: np.full(DRAWS, variance[PROMPTS])}
    for place, source in enumerate(sources):
        alone = np.delete(worlds, place, axis=1).sum(axis=1) == 0  # worlds that differ from the first in this alone
        if (freedom := int(alone.sum()) - 1) < 1:
            return {}
        fixed = grid.prompt_variance if source == SPLIT else 0.0
        between = float(table[alone].mean(axis=1).var(ddof=1))
        variance[source] = max(between - variance[SEED] / seeds - fixed, 0.0)
        scaled = between * freedom / rng.chisquare(freedom, DRAWS)
        drawn[source] = np.maximum(scaled - drawn[SEED] / seeds - fixed, 0.0)
    counts = {name: seeds if name == SEED else 1 for name in variance}
    total = sum(value / counts[name] for name, value in variance.items())
    if not (isfinite(total) and total > 0):
        return {}
    shares = {name: value / counts[name] / total for name, value in variance.items()}
    # one more seed divides its part by S + 1; a second of anything else halves its part
    spares = {name: share / (counts[name] + 1) for name, share in shares.items()}
    most = max(spares, key=lambda name: spares[name])
    saved = {name: values / counts[name] / (counts[name] + 1) for name, values in drawn.items()}
    leads = np.all([saved[most] > values for name, values in saved.items() if name != most], axis=0)
    return {
        "mean": grid.mean,
        "sd": sqrt(total),
        "seeds": seeds,
        "levels": int(max(worlds[:, 0]) + 1),
        "shown": bool(leads.mean() >= SURE),
        "parts": [
            {"source": name, "sd": sqrt(variance[name]), "share": shares[name], "saved": spares[name]}
            for name in sorted(shares, key=lambda name: -shares[name])
        ],
    }


def sentences(study: Mapping[str, Any], metric: str | None) -> list[str]:
    """The sources by their share, and which one more of would help most; a sentence a method."""
    said = []
    for row in study.get("variance") or ():
        if row["metric"] != metric:
            continue
        shares = ", ".join(f"{CALLED[p['source']]} {p['share']:.0%}" for p in row["parts"])
        most = MORE[max(row["parts"], key=lambda p: p["saved"])["source"]]
        helps = f"{most} would help most" if row.get("shown") else f"{most} seems to help most, which is not shown"
        said.append(
            f"{row['method']}'s win rate by {judged_by(row['metric'])} varies by {100 * row['sd']:.1f} points (sd) "
            f"between runs of {row['seeds']} seeds: {shares}; {helps} "
            f"(estimated from {row['levels']} of each, so roughly)."
        )
    return said
