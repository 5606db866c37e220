"""Who is ahead under budgets of several kinds: equal examples, equal training compute, equal KL to SFT.

A study with the axis `budget` has all three for two methods: the pair at the largest budget (`axes.py`), and their
frontiers (`frontier.py`). What is shown under each is corrected where it was computed; nothing is tested here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .axes import headline_of
from .comparisons import NOT_DECIDED
from .interpolation import FLOPS, KL
from .verdict import judged_by

BUDGET = "budget"
NOBODY = "neither is shown to be ahead"


def sentences(study: Mapping[str, Any]) -> list[str]:
    """For each pair of methods who is ahead under which budget, and whether that changes; by the headline score."""
    metric, axis = headline_of(study), study["axes"].get(BUDGET)
    if metric is None or axis is None:
        return []
    said = []
    for part in study["frontiers"]:
        at = [part["at"].get(field) for field in study["axes"] if field != BUDGET]
        rows = [r for r in axis["pairs"] if (r["metric"], r["at"]) == (metric, at)]
        for row in (r for r in rows if r["value"] == axis["values"][-1]):
            one = " policies" if row["seeds"] == 1 else ""
            kinds = {
                f"with equal examples ({row['value']})": _ahead(row, one),
                "at equal training compute": _found(part["equal_compute"], row, metric, FLOPS, one),
                "at equal KL": _found(part["comparisons"], row, metric, KL, one),
            }
            told = [f"{kind} {who}" for kind, who in kinds.items() if who]
            shown = {who for who in kinds.values() if who not in ("", NOBODY)}
            turns = "; so the order depends on what is equal" if len(shown) > 1 else ""
            said.append(f"{row['a']} and {row['b']} by {judged_by(metric)}: {', '.join(told)}{turns}.")
    return said


def _found(rows: Any, pair: Mapping[str, Any], metric: str, measure: str, one: str) -> str:
    """Who is ahead in a comparison of two frontiers; empty where they have nothing in common."""
    names = {pair["a"], pair["b"]}
    row = next((r for r in rows if {r["a"], r["b"]} == names and r["metric"] == metric and r[measure]), None)
    if row is None:
        return ""
    return "the two cross" if row["crosses"] else _ahead(row, one)


def _ahead(row: Mapping[str, Any], one: str) -> str:
    if row["verdict"] == NOT_DECIDED:
        return NOBODY
    name = row["a"] if row["difference"] > 0 else row["b"]
    return f"the {name}{one} are ahead" if one else f"{name} is ahead"
