"""Where a method gains: win rates by subset of the prompts and by their length, and whether they differ between these.

All tests of a run are one family with Holm's correction: of each method's win rate in each group, and of its difference
between that group and all other prompts (the interaction). A sentence is printed for a method whose win rate is shown
to differ between groups; "not shown" within it is not "equal".
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import LEVEL, by_preference
from .grids import SFT, grid_of
from .sequential import UNTIL_DECIDED
from .statistics import compare, holm, interval
from .verdict import judged_by, listed

if TYPE_CHECKING:
    import pandas

FEWEST = 20  # prompts of a group; smaller ones are left out, though they count among the others
Groups = Mapping[str, Mapping[str, str]]  # by kind (subset, length): the group of each prompt id


def groups_of(subsets: Mapping[str, str | None], lengths: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """The groups of prompts: by the subset that the data name, and longer or shorter than the median.

    subsets, lengths (tokens): by prompt id. A kind whose prompts are all in one group is left out.
    """
    median = float(np.median([*lengths.values()])) if lengths else 0.0
    found = {
        "subset": {name: subset for name, subset in subsets.items() if subset},
        "length": {n: "longer prompts" if length > median else "shorter prompts" for n, length in lengths.items()},
    }
    return {kind: groups for kind, groups in found.items() if len(set(groups.values())) > 1}


def by_group(scores: pandas.DataFrame, groups: Groups) -> dict[str, Any]:
    """{"metric", "kinds": {kind: {method: {group: row}}}} of the win rate that the verdict trusts most.

    scores: columns method, seed, metric, prompt_id, value. A row: mean, low, high, n (values) of the win rate in the
    group, `prompts`, p and p_adjusted against one half, and `against_others`: its difference to all other prompts.
    Empty where nothing can be grouped.
    """
    rates = [m for m in scores["metric"].unique() if m.startswith("win_rate.") and m.count(".") == 1]
    rates = [m for m in rates if m != UNTIL_DECIDED]  # whose prompts are those that were asked
    if not rates or not groups:
        return {}
    metric = by_preference(rates)[0]
    part = scores[(scores["metric"] == metric) & (scores["method"] != SFT)]
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    tests: list[dict[str, Any]] = []
    for method, rows in part.assign(value=part["value"].astype(float)).groupby("method", sort=False):
        grid = grid_of(rows)
        values = grid.to_numpy()
        has_value = np.isfinite(values).any(0)
        for kind, named in groups.items():
            names = np.array([named.get(str(prompt), "") for prompt in grid.columns])
            for name in sorted({*names} - {""}):
                inside = (names == name) & has_value
                if inside.sum() >= FEWEST and (~inside & has_value).sum() >= FEWEST:
                    row = _row(values, inside)
                    kinds.setdefault(kind, {}).setdefault(str(method), {})[name] = row
                    tests += [row, row["against_others"]]
    tests = [test for test in tests if isfinite(test["p"])]
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_adjusted"] = p
    return {"metric": metric, "kinds": kinds} if kinds else {}


def _row(values: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    part = values[:, inside]
    found = interval(part, bounds=(0.0, 1.0))
    p = compare(part, np.full(part.shape, 0.5), bounds=(-0.5, 0.5)).p
    contrast = influence(values, inside)
    beside = compare(contrast, np.zeros(contrast.shape))
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "prompts": int(inside.sum()),
        "p": p,
        "p_adjusted": 1.0,
        "against_others": {
            "difference": beside.difference,
            "low": beside.low,
            "high": beside.high,
            "p": beside.p,
            "p_adjusted": 1.0,
        },
    }


def influence(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Each value's influence on the mean of a group less the mean of all others; [seeds, prompts], NaN where missing.

    Their mean is the difference, and their spread over prompts and seeds is that of the estimate.
    """
    known = np.isfinite(values)
    total = known.sum()
    found = np.full(values.shape, np.nan)
    means = []
    for part, sign in ((inside, 1.0), (~inside, -1.0)):
        chosen = known & part[None, :]
        count, prompts = chosen.sum(), chosen.any(0).sum()
        if prompts < 2:
            return found
        mean = values[chosen].mean()
        means.append(mean)
        scale = total / count * np.sqrt(prompts / (prompts - 1))  # the group's own mean takes a degree of freedom
        found[chosen] = sign * scale * (values[chosen] - mean)
    return found + (means[0] - means[1])


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Methods whose win rate is shown to differ between groups of prompts, and what is shown in each group."""
    found = summary.get("subsets") or {}
    said = []
    for kind, methods in (found.get("kinds") or {}).items():
        for method, rows in methods.items():
            if any(_shown(row["against_others"]) for row in rows.values()):
                seeds = (summary["methods"].get(method) or {}).get("seeds", 1)
                who = f"this {method} policy" if seeds == 1 else method
                said.append(
                    f"By {judged_by(found['metric'])} {who} does not gain everywhere alike (prompts by {kind}): "
                    f"{'; '.join(_parts(rows))}."
                )
    return said


def _parts(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The groups of which the same is shown, each with its win rate."""
    told: dict[str, list[str]] = {}
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["mean"]):
        words = "no difference to SFT is shown on"
        if _shown(row):
            words = "it beats SFT on" if row["mean"] > 0.5 else "it loses to SFT on"
        told.setdefault(words, []).append(f"{name} ({row['mean']:.0%})")
    return [f"{words} {listed(names)}" for words, names in told.items()]


def _shown(test: Mapping[str, Any]) -> bool:
    return test["p_adjusted"] is not None and test["p_adjusted"] < LEVEL
