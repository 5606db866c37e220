"""A run's costs in sentences: what each method costs, and where methods did not spend the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .quantities import COSTS, cost, measured
from .verdict import SFT, listed

UNEQUAL = 1.5  # times the cost of another method from which on a difference in cost is said


def costs_of(summary: Mapping[str, Any], key: str) -> dict[str, float]:
    rows = {name: row["cost"].get(key) for name, row in summary["methods"].items() if name != SFT}
    return {name: value for name, value in rows.items() if measured(value) and value > 0}


def cost_sentences(summary: Mapping[str, Any], chosen: Sequence[str] | None) -> list[str]:
    """The cost of one seed, and how much longer the slowest method takes than the quickest.

    chosen: of many methods those to be told, beside the quickest and the slowest; None for all.
    """
    said = []
    times = costs_of(summary, "seconds")
    if chosen is not None and times:
        chosen = [*chosen, min(times, key=times.__getitem__), max(times, key=times.__getitem__)]
    for name, row in summary["methods"].items():
        if chosen is not None and name not in chosen:
            continue
        parts = [cost(row["cost"].get(key), key) for key in ("seconds", "flops") if row["cost"].get(key)]
        parts += [
            f"{cost(row['cost'][key], key)} {COSTS[key].lower()}"
            for key in ("generated_tokens", "reward_queries")
            if row["cost"].get(key)
        ]
        if parts and name != SFT:
            said.append(f"{name}: {', '.join(parts)}.")
    if len(times) > 1 and max(times.values()) >= UNEQUAL * min(times.values()):
        slow, quick = max(times, key=times.__getitem__), min(times, key=times.__getitem__)
        said.append(f"{slow} takes {times[slow] / times[quick]:.1f} times as long as {quick}.")
    return said


def unequal_examples(summary: Mapping[str, Any]) -> list[str]:
    """Methods that did not learn from equally many examples; one that trains nothing is left out."""
    seen: dict[float, list[str]] = {}
    for name, count in costs_of(summary, "examples").items():
        seen.setdefault(count, []).append(name)
    if len(seen) < 2:
        return []
    parts = [f"{listed(names)} from {count:,.0f}" for count, names in seen.items()]
    return [f"The budgets differ: {'; '.join(parts)} examples."]


def unequal_compute(summary: Mapping[str, Any]) -> list[str]:
    spent = costs_of(summary, "flops")
    if len(spent) < 2 or max(spent.values()) < UNEQUAL * min(spent.values()):
        return []
    most, least = max(spent, key=spent.__getitem__), min(spent, key=spent.__getitem__)
    equal = "" if unequal_examples(summary) else "The budget is equal in examples, not in compute: "
    times = f"{spent[most] / spent[least]:.1f} times the FLOPs"
    return [f"{equal}{most} spends {times} of {least}, so part of their difference may be due to compute."]
