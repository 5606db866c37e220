"""Who is ahead under budgets of several kinds: equal examples, equal training compute, equal KL to SFT, equal tuning.

A study with the axis `budget` has the first three for two methods: the pair at the largest budget (`axes.py`), and
their frontiers (`frontier.py`). The fourth is what the winners of a tuning showed, where the study names one that was
made with the same data and models. What is shown under each is corrected where it was computed; nothing is tested here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .axes import headline_of
from .choice import better
from .comparisons import NOT_DECIDED
from .interpolation import FLOPS, KL
from .verdict import judged_by, listed

BUDGET = "budget"
NOBODY = "neither is shown to be ahead"


def sentences(study: Mapping[str, Any]) -> list[str]:
    """For each pair of methods who is ahead under which budget, and whether that changes; by the headline score."""
    metric, axis = headline_of(study), study["axes"].get(BUDGET)
    if metric is None or axis is None:
        return []
    said, untuned = [], dict[str, None]()
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
            tuned = _tuned(study, part["at"], row, metric)
            kinds |= tuned
            untuned |= {} if tuned else dict.fromkeys([row["a"], row["b"]])
            told = [f"{kind} {who}" for kind, who in kinds.items() if who]
            shown = {who for who in kinds.values() if who not in ("", NOBODY)}
            turns = "; so the order depends on what is equal" if len(shown) > 1 else ""
            said.append(f"{row['a']} and {row['b']} by {judged_by(metric)}: {', '.join(told)}{turns}.")
    if untuned:
        said.append(f"Who is ahead with equal tuning is not known: {listed([*untuned])} were not tuned equally here.")
    return said


def _tuned(study: Mapping[str, Any], at: Mapping[str, int], pair: Mapping[str, Any], metric: str) -> dict[str, str]:
    """Who is ahead among the winners of the study's tuning, by what was equal; empty where none compares the two."""
    found = study.get("tuned") or {"at": []}
    if dict(at) not in found["at"]:
        return {}
    labels = {found["rows"].get(pair[side]): pair[side] for side in ("a", "b")}
    row = next((r for r in found["comparisons"] if {r["a"], r["b"]} == {*labels} and r["metric"] == metric), None)
    if row is None:
        return {}
    a, b = (found["trials"][pair[side]] for side in ("a", "b"))
    trials = f"{a} trials each" if a == b else f"{a} trials of {pair['a']}, {b} of {pair['b']}"
    winner, one = better(row), " policies" if row["seeds"] == 1 else ""
    return {f"with equal tuning ({trials})": _is_ahead(labels[winner], one) if winner else NOBODY}


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
    return _is_ahead(row["a"] if row["difference"] > 0 else row["b"], one)


def _is_ahead(name: str, one: str) -> str:
    return f"the {name}{one} are ahead" if one else f"{name} is ahead"
