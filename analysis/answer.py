"""The answer of a study to the question that it was made for: three sentences from its record alone.

The design says before which statements must all be shown for yes, and which one of them makes the answer no. A
statement is shown where its test shows a difference of its sign, or, for `equal`, where the 95% interval lies within
the benchmark's margin of 0. The tests are corrected for each other (Holm), and not for all that the study looks at
beside them, for they alone were named before. What is neither yes nor no is not decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from .axes import text_of
from .comparisons import LEVEL
from .frontier import AT_EQUAL_KL, GAP, NAMES, scorer_name
from .metric_names import evaluator, title
from .quantities import in_points, measured, p_value, signed
from .statistics import holm
from .verdict import listed

EQUAL = "equal"
YES, NO, NOT_DECIDED = "yes", "no", "not decided"
SIDES = {YES: "yes_if", NO: "no_if"}  # by answer the part of the design that it needs; YAML reads a bare yes as true
# what a score is about, within a sentence; titles stand alone
WORDS = {
    "kl": "KL to SFT",
    "length": "length",
    "implicit_reward.chosen": "the log-probability of chosen replies over SFT's",
    "implicit_reward.accuracy": "the implicit reward's accuracy",
}
ENDS = ("difference", "low", "high")


def answer(study: Mapping[str, Any]) -> dict[str, Any]:
    """`answer` (yes, no, not decided) and both sides' statements, each with its estimate and whether it is shown.

    study: a study's record, with its design.
    """
    corrected = named_before(study)
    sides = {side: [_judged(study, said, corrected) for said in study["design"][part]] for side, part in SIDES.items()}
    yes, no = all(row["shown"] for row in sides[YES]), any(row["shown"] for row in sides[NO])
    return {"answer": NOT_DECIDED if yes == no else YES if yes else NO, **sides}


def sentences(study: Mapping[str, Any]) -> list[str]:
    """Three: what was found, how sure that is, what it does not show."""
    found = answer(study)
    return [_found(found), _sure(study), _not_shown(study, found)]


def said_of(said: Mapping[str, Any], axes: Mapping[str, Any]) -> str:
    """A statement in words."""
    at = [f"{field} {text_of(value)}" for field, value in (said.get("at") or {}).items()]
    where = (f" at {listed(at)}" if at else "") + (" at equal KL to SFT" if said.get("equal_kl") else "")
    by = f" by {_by(said['by'])}"
    if not (field := said.get("along")):
        word = {"higher": "is above", "lower": "is below", "equal": "is equal within the margin to"}[said["verdict"]]
        return f"{said['method']} {word} {said['than']}{where}{by}"
    first, last = (text_of(axes[field]["values"][end]) for end in (0, -1))
    span = f" from {field} {first} to {last}{where}{by}"
    if said.get("than"):
        beside = {"higher": "gains on", "lower": "falls behind", "equal": "changes, within the margin, as much as"}
        word = beside[said["verdict"]]
        return f"{said['method']} {word} {said['than']}{span}"
    words = {"higher": "rises", "lower": "falls", "equal": "stays equal within the margin"}
    return f"{said['method']} {words[said['verdict']]}{span}"


def named_before(study: Mapping[str, Any]) -> dict[int, float]:
    """The corrected p of each row that the design's statements test, by the row's id: a row counts once.

    One whose level is below LEVEL has its p raised by as much, so that all have the same level. Empty without a design.
    """
    if not study.get("design"):
        return {}
    found = [_row(study, said) for part in SIDES.values() for said in study["design"][part] if said["verdict"] != EQUAL]
    tested = {id(row): row["p"] * LEVEL / level for row, level in found if row and measured(row.get("p"))}
    return dict(zip(tested, holm([min(1.0, p) for p in tested.values()]), strict=True))


def told(study: Mapping[str, Any]) -> set[int]:
    """The rows of the record, by their ids, that the first sentence is about; none without a design."""
    if not study.get("design"):
        return set()
    sides = answer(study)
    said = [
        statement
        for side, part in SIDES.items()
        for statement, row in zip(study["design"][part], sides[side], strict=True)
        if side == YES or row["shown"]
    ]
    return {id(row) for statement in said if (row := _row(study, statement)[0]) is not None}


def _judged(study: Mapping[str, Any], said: Mapping[str, Any], corrected: Mapping[int, float]) -> dict[str, Any]:
    """A statement with the estimate that it is about, and whether this shows it, or its reverse."""
    row, _ = _row(study, said)
    text = said_of(said, study["axes"])
    if row is None or not measured(row.get("low")) or not measured(row.get("high")):
        return {"text": text, "shown": False, "reverse": False, "estimate": "not measured"}
    sign = -1 if row.get("b") == said["method"] else 1
    mean, *ends = (sign * row[end] for end in ENDS)
    low, high = sorted(ends)
    equal, adjusted = said["verdict"] == EQUAL, corrected.get(id(row), nan)
    tested = not equal and adjusted < LEVEL
    within = -study["margin"] <= low and high <= study["margin"]
    shown = within if equal else tested and (mean > 0) == (said["verdict"] == "higher")
    unit, digits = (100, 0) if said["by"].startswith("win_rate.") else (1, 2)
    number = signed(unit * mean, digits)
    size = in_points(number) if unit == 100 else number
    span = f"{signed(unit * low, digits)} to {signed(unit * high, digits)}"
    p = "" if equal else f", adjusted p {p_value(adjusted)}"
    reverse = bool(tested and not shown)
    return {"text": text, "shown": bool(shown), "reverse": reverse, "estimate": f"{size}, {span}{p}"}


def _row(study: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, float]:
    """The row of the record that a statement is about, and the level of its test; None where there is none."""
    pair = {said["method"], said.get("than")}
    at = said.get("at") or {}
    if said.get("equal_kl"):
        parts = [p for p in study["frontiers"] if all(_place(study, f, v) == p["at"].get(f) for f, v in at.items())]
        rows = [r for part in parts for r in part["comparisons"] if {r["a"], r["b"]} == pair and r["kl"]]
        return _first(rows, said), AT_EQUAL_KL
    if not study["axes"]:
        return _first([r for r in study["beside_the_first"] if {r["a"], r["b"]} == pair], said), LEVEL
    field = said.get("along") or next(iter(at))
    kind = "pairs" if not said.get("along") else "interactions" if said.get("than") else "changes"
    others = [name for name in study["axes"] if name != field]
    rows = [
        row
        for row in study["axes"][field][kind]
        if ({row["a"], row["b"]} == pair if "a" in row else row["method"] == said["method"])
        and (kind != "pairs" or row["value"] == at[field])
        and all(name not in at or _place(study, name, at[name]) == p for name, p in zip(others, row["at"], strict=True))
    ]
    return _first(rows, said), LEVEL


def _first(rows: Sequence[Mapping[str, Any]], said: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((row for row in rows if row["metric"] == said["by"]), None)


def _place(study: Mapping[str, Any], field: str, value: Any) -> int:
    return list(study["axes"][field]["values"]).index(value)


def _found(found: Mapping[str, Any]) -> str:
    rows = [*found[YES], *(row for row in found[NO] if row["shown"])]
    parts = [found["answer"].capitalize()]
    for word, shown in (("Shown", True), ("Not shown", False)):
        told = [
            f"{row['text']} ({row['estimate']}{', the reverse is shown' * row['reverse']})"
            for row in rows
            if row["shown"] == shown
        ]
        parts += [f"{word}: {'; '.join(told)}"] if told else []
    return f"{'. '.join(parts)}."


def _sure(study: Mapping[str, Any]) -> str:
    seeds, responses = study["seeds"], _responses(study)
    parts = [f"{seeds} seed{'s' * (seeds != 1)} of each method"]
    if responses:
        parts.append(f"{responses} held-out responses behind each mean")
    anew = [source.replace("_", " ") for source in study["per_seed"]]
    parts.append(f"with each seed another {listed(anew)}" if anew else "one SFT and one set of reward models in a run")
    failed = sum(len(run["failures"]) for run in study["runs"])
    parts.append(f"{failed} cell{'s' * (failed != 1)} failed" if failed else "no cell failed")
    gates = sum(said.startswith("gate ") for said in study["warnings"])
    parts.append(f"{gates} gate{'s' * (gates != 1)} not passed" if gates else "all gates passed")
    tests = len(named_before(study))
    named = f"the {tests} tests that were named before are corrected for each other"
    rest = named if tests > 1 else "the test that was named before needs no correction"
    return f"How sure: {', '.join(parts)}; {rest}, the others are corrected for all of the study by their score."


def _responses(study: Mapping[str, Any]) -> int | None:
    """The fewest values behind a mean of the scores that the design names."""
    named = {said["by"] for part in SIDES.values() for said in study["design"][part]}
    counts = [
        point["n"]
        for axis in study["axes"].values()
        for row in axis["curves"]
        if row["metric"] in named
        for point in row["points"]
    ]
    return min(counts, default=None)


def _not_shown(study: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    tuning = study["design"]["tuning"].rstrip(".")
    text = f"It shows nothing of another model than {study['model']}, other data than {study['preferences']}"
    none = found["answer"] == NOT_DECIDED and not any(row["shown"] for row in found[NO])
    also = "; nor is anything shown that was to make it a no" * none
    return f"{text}, or other settings ({tuning}){also}."


def _by(metric: str) -> str:
    family, _, scorer = metric.partition(".")
    if family == "win_rate":
        return f"win rate by {scorer_name(metric)}"
    if family == "reward" and metric not in NAMES and "." in scorer:
        return f"the {evaluator(scorer)}"  # one facet of it
    if family in ("reward", GAP):
        return scorer_name(metric)
    if family == "measure":
        return f"the measure {scorer}"
    return WORDS.get(metric) or title(metric)
