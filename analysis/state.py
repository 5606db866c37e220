"""The state of the methods: how each stands to one method in every situation that was studied, from the records alone.

A situation is a value of a study's axis (labels.flip 0.25), the KL that two frontiers share, or a tuning's winners.
What is said of a method there is what the record itself tests and corrects: above or below where its own corrected test
shows a difference, or the answer to the study's question does, equal where it tests that, or the 95% interval lies
within the margin that was stated before. By an evaluation reward model that does not pass its gate nothing is decided,
whatever a test says. A method that the situation does not have was not tried in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .answer import EQUAL, NOT_DECIDED, named_before
from .axes import headline_of, others, text_of, values_at
from .comparisons import LEVEL, by_preference
from .frontier import AT_EQUAL_KL, method_of, trusted
from .learnt_scorer import GATE, GOLD, LEARNT, NOT_PASSED, fails_gate
from .quantities import measured
from .sequential import UNTIL_DECIDED
from .verdict import judged_by, listed

THAN = "dpo"
"""The method that the others stand beside: the cheapest that most studies have."""
ABOVE, BELOW = "above", "below"
RATE = "win_rate."


def of_study(study: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The situations of a study's record: `name`, `metric`, `cells` by row's label with `state` and the difference to
    `THAN` (`difference`, `low`, `high`). Only those in which some row is compared with it by a win rate. A name begins
    as `elsewhere` says."""
    of = "" if "model" in study["axes"] else elsewhere(study["benchmark"], study["model"], study["preferences"])
    metric, named = headline_of(study), named_before(study)
    fails = any(said.startswith(f"gate {GATE} not passed") for said in study["warnings"])
    field = next((field for field, axis in study["axes"].items() if axis["pairs"]), None)
    if metric and field:
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in study["axes"][field]["pairs"]:
            if row["metric"] != metric or THAN not in (row["a"], row["b"]):
                continue
            places = (f"{field} {text_of(row['value'])}", *others(row, field, study))
            label, cell = _cell(row, study["margin"], LEVEL, named.get(id(row)))
            found.setdefault(places, {})[label] = cell
        yield from (_situation(f"{of}{name}", metric, cells, fails) for name, cells in _once(found))
    at_kl: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    for part in study["frontiers"]:
        rows = [row for row in trusted(part["comparisons"]) if THAN in (row["a"], row["b"]) and row["kl"]]
        rows = [row for row in rows if row["metric"].startswith(RATE) and not row["crosses"]]
        if rows:
            cells = dict(_cell(row, study["margin"], AT_EQUAL_KL, named.get(id(row))) for row in rows)
            at_kl.setdefault(rows[0]["metric"], {})[tuple(values_at(part["at"], study))] = cells
    for by, parts in at_kl.items():
        yield from (
            _situation(of + ", ".join(["equal KL", *([name] if name else [])]), by, cells, fails)
            for name, cells in _once(parts)
        )


def _once(found: Mapping[tuple[str, ...], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Situations by name, those once that have the very same numbers: axes that are nothing to policies make several.

    found: cells by axes with their values. What one of such tests shows is shown, for it is the same test.
    """
    alike: dict[tuple[Any, ...], list[tuple[str, ...]]] = {}
    for places, cells in found.items():
        numbers = tuple((label, cell["difference"], cell["low"], cell["high"]) for label, cell in cells.items())
        alike.setdefault(numbers, []).append(places)
    for several in alike.values():
        cells = found[several[0]]
        for places in several[1:]:
            shown = {n: cell for n, cell in found[places].items() if cell["state"] in (ABOVE, BELOW)}
            cells = {**cells, **shown}
        name = ", ".join(several[0])
        if len(several) > 1:
            axes = listed([place.partition(" ")[0] for place in several[0]])
            name = f"every value of {axes}" if len(alike) == 1 else "; ".join(", ".join(places) for places in several)
        yield name, cells


def elsewhere(benchmark: str, model: str, preferences: str) -> str:
    """What the name of a situation begins with where model or preferences are none that are built in."""
    if all(name.startswith("builtin/") for name in (model, preferences)):
        return ""
    return f"{benchmark} with {model.rstrip('/').split('/')[-1]}, "


def of_run(summary: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The situation of a run, such as that of a tuning's winners, from its summary; none where `THAN` is no row."""
    rows = [row for row in summary["comparisons"] if THAN in (row["a"], row["b"]) and row["basis"] == "direct"]
    metrics = {row["metric"] for row in rows if row["metric"].startswith(RATE) and row["metric"] != UNTIL_DECIDED}
    if metric := next(iter(by_preference(metrics)), None):
        cells = dict(_cell(row, summary["margin"], LEVEL) for row in rows if row["metric"] == metric)
        yield _situation(name, metric, cells, fails_gate(summary, metric))


def _situation(name: str, metric: str, cells: Mapping[str, dict[str, Any]], fails: bool) -> dict[str, Any]:
    """A situation; its name says who scored where that is not the true reward. fails: the evaluation reward model's
    gate."""
    if metric != GOLD:
        name += f", by {judged_by(metric)}"
    if fails and metric == LEARNT:
        name += NOT_PASSED
        cells = {label: {**cell, "state": NOT_DECIDED} for label, cell in cells.items()}
    return {"name": name, "metric": metric, "cells": cells}


def _cell(
    row: Mapping[str, Any], margin: float, level: float, named: float | None = None
) -> tuple[str, dict[str, Any]]:
    """The other's label, and how it stands to `THAN`; named: the p of a test that the study named before, at LEVEL."""
    sign = 1 if row["b"] == THAN else -1
    ends = sorted(sign * row[end] for end in ("low", "high")) if measured(row["low"]) else [None, None]
    difference, (low, high) = sign * row["difference"], ends
    if low is None or high is None:
        state = NOT_DECIDED
    elif row["p_adjusted"] < level or (named is not None and named < LEVEL):
        state = ABOVE if difference > 0 else BELOW
    else:
        state = EQUAL if row.get("equal", -margin <= low and high <= margin) else NOT_DECIDED
    label = row["a"] if sign == 1 else row["b"]
    return label, {"state": state, "difference": difference, "low": low, "high": high, "method": method_of(label)}
