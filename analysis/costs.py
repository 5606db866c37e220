"""A run's costs: a method's own, the shared stages that only some need, an answer's, and what we spend on looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from .elsewhere import costs_unknown
from .grids import SFT
from .quantities import COSTS, cost, measured
from .verdict import listed

UNEQUAL = 1.5  # times the cost of another method from which on a difference in cost is said
RESPONSE, LOOKING = "response_", "looking_"  # beginnings of the names of costs that are not of the training
TIMES = {"seconds": "the time", "flops": "the FLOPs"}


def mean_costs(costs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Means over seeds: `cost` of the training, `inference` of one response, `looking` of our probes.

    costs: one dict a seed; names that begin with response_ are of one response, those with looking_ are ours. A method
    that trains nothing has no `cost`.
    """
    means = {key: fmean(c[key] for c in costs if key in c) for key in dict.fromkeys(k for c in costs for k in c)}
    found: dict[str, dict[str, float]] = {"cost": {}, "inference": {}, "looking": {}}
    for key, value in means.items():
        part = "inference" if key.startswith(RESPONSE) else "looking" if key.startswith(LOOKING) else "cost"
        found[part][key.removeprefix(RESPONSE).removeprefix(LOOKING)] = value
    if not found["cost"].get("optimizer_steps", 1) and not found["cost"].get("trained_tokens", 1):
        found["cost"] = {}
    return found


def shared_costs(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The cost of each stage that is made once for all rows and seeds, and the rows that need it: those of run.json.

    No row needs the evaluation reward model: it is ours.
    """
    needs = {label: method.get("needs", ()) for label, method in record["methods"].items()}
    return {
        name: {"cost": spent, "needed_by": [label for label, names in needs.items() if name in names]}
        for name, spent in record.get("shared", {}).items()
        if spent
    }


def costs_of(summary: Mapping[str, Any], key: str) -> dict[str, float]:
    """The methods' own costs of one kind, those that were measured and are above 0."""
    rows = {name: row["cost"].get(key) for name, row in summary["methods"].items() if name != SFT}
    return {name: value for name, value in rows.items() if measured(value) and value > 0}


def cost_sentences(summary: Mapping[str, Any], chosen: Sequence[str] | None) -> list[str]:
    """The cost of one seed, what only some need beside it, what an answer costs, and how far the dearest is above.

    chosen: of many methods those to be told, beside the quickest and the slowest; None for all.
    """
    said = []
    times = costs_of(summary, "seconds")
    if chosen is not None and times:
        chosen = [*chosen, min(times, key=times.__getitem__), max(times, key=times.__getitem__)]
    for name, row in summary["methods"].items():
        if name == SFT or (chosen is not None and name not in chosen):
            continue
        parts = [_amounts(row["cost"])] if any(row["cost"].get(key) for key in TIMES) else []
        parts += [
            f"{cost(row['cost'][key], key)} {COSTS[key].lower()}"
            for key in ("generated_tokens", "reward_queries")
            if row["cost"].get(key)
        ]
        if parts:
            said.append(f"{name}: {', '.join(parts)}.")
    return [
        *said,
        *costs_unknown(summary["methods"]),
        *_shared(summary),
        *_at_inference(summary),
        *_dearest(summary),
        *_looking(summary),
    ]


def _amounts(spent: Mapping[str, float]) -> str:
    return ", ".join(cost(spent[key], key) for key in TIMES if spent.get(key))


def _apart(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Shared stages that some rows need and others do not."""
    rows = len(summary["methods"]) - 1
    return {n: row for n, row in (summary.get("shared") or {}).items() if 0 < len(row["needed_by"]) < rows}


def _shared(summary: Mapping[str, Any]) -> list[str]:
    return [
        f"Only {listed(row['needed_by'])} need{'s' * (len(row['needed_by']) == 1)} the {name}: "
        f"{_amounts(row['cost'])} more, once for all seeds."
        for name, row in _apart(summary).items()
    ]


def _at_inference(summary: Mapping[str, Any]) -> list[str]:
    """Methods that pay at every answer, for they choose among several responses."""
    said = []
    usual = (summary["methods"].get(SFT) or {}).get("inference") or {}
    for name, row in summary["methods"].items():
        each = row.get("inference") or {}
        if not each.get("reward_queries"):
            continue
        beside = ""
        if usual.get("generated_tokens"):
            beside = f", {each['generated_tokens'] / usual['generated_tokens']:.1f} times the tokens of SFT's"
        opening = "trains nothing and pays" if not row["cost"] else "pays"
        said.append(
            f"{name} {opening} at inference: each response takes {each['generated_tokens']:,.0f} generated tokens"
            f"{beside}, and {each['reward_queries']:,.0f} reward queries."
        )
    return said


def _dearest(summary: Mapping[str, Any]) -> list[str]:
    """The slowest method's cost over the quickest one's, its own and with the shared stages that each needs."""
    own = {key: costs_of(summary, key) for key in TIMES}
    times = own["seconds"]
    if len(times) < 2 or max(times.values()) < UNEQUAL * min(times.values()):
        return []
    slow, quick = max(times, key=times.__getitem__), min(times, key=times.__getitem__)
    ratios = {key: spent[slow] / spent[quick] for key, spent in own.items() if {slow, quick} <= set(spent)}
    text = ", ".join(f"{ratio:.1f} times {TIMES[key]}" for key, ratio in ratios.items())
    beside = [name for name, row in _apart(summary).items() if {slow, quick} & set(row["needed_by"])]
    more: dict[str, float] = {}
    for key in ratios if beside else ():
        total = {name: own[key][name] + _needed(summary, name, key) for name in (slow, quick)}
        more[key] = total[slow] / total[quick]
    if more:
        text += f"; with the {listed(beside)}, {' and '.join(f'{ratio:.1f}' for ratio in more.values())}"
    ends = sorted(round(ratio) for ratio in (*ratios.values(), *more.values()))
    span = f"{ends[0]} to {ends[-1]}" if ends[0] < ends[-1] else f"about {ends[0]}"
    opening = "On the same data" if not unequal_examples(summary) else "Here, on budgets that differ,"
    return [f"{opening} {slow} costs {span} times as much as {quick}: {text}."]


def _needed(summary: Mapping[str, Any], name: str, key: str) -> float:
    """The cost of the shared stages that a row needs and others do not."""
    return sum(row["cost"].get(key) or 0.0 for row in _apart(summary).values() if name in row["needed_by"])


def _looking(summary: Mapping[str, Any]) -> list[str]:
    """One line: our own costs, of which no method has any."""
    parts = [
        f"the {name} {_amounts(row['cost'])}"
        for name, row in (summary.get("shared") or {}).items()
        if not row["needed_by"] and _amounts(row["cost"])
    ]
    probes = [row.get("looking") or {} for row in summary["methods"].values()]
    most = {key: max((p[key] for p in probes if measured(p.get(key))), default=0.0) for key in TIMES}
    if _amounts(most):
        parts.append(f"probes at most {_amounts(most)} a training")
    return [f"Spent on looking, and charged to no method: {'; '.join(parts)}."] if parts else []


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
    """Methods whose own training takes more compute than another's."""
    spent = costs_of(summary, "flops")
    if len(spent) < 2 or max(spent.values()) < UNEQUAL * min(spent.values()):
        return []
    most, least = max(spent, key=spent.__getitem__), min(spent, key=spent.__getitem__)
    equal = "" if unequal_examples(summary) else "The budget is equal in examples, not in compute: "
    times = f"{spent[most] / spent[least]:.1f} times the FLOPs"
    return [f"{equal}{most} spends {times} of {least}, so part of their difference may be due to compute."]
