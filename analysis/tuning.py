"""What a tuning says: of each method's trials, and, of a run at tuned settings, under which tuning its rows stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from .elsewhere import is_elsewhere
from .quantities import measured
from .selection import CALLED, LEARNT, Trial, pick, ranked
from .tuning_curve import expected_after

Rule = Mapping[str, Any]  # {"by", "at_most_kl", "margin"}
HALF = 0.5  # what SFT has by every scorer: a win rate against itself, and an implicit reward that ties


def of_method(trials: Sequence[Trial], rule: Rule, criteria: Sequence[str]) -> dict[str, Any]:
    """What a method's trials show.

    `picked`: the number of the rule's trial, None where none has a score. `picks`: by criterion what it would have
    picked, alone and under the rule's limit of the KL. `sensitivity`: by criterion the best, median and worst score and
    the share of trials that beat SFT by it. `expected`: by criterion its expected value after 1, 2, ... trials picked
    by the rule. `warnings`: sentences.
    """
    by, limit = rule["by"], rule["at_most_kl"]
    chosen = pick(trials, by, limit, rule["margin"])
    order = ranked(trials, by, limit)
    picks = {
        criterion: {
            "alone": _number(pick(trials, criterion)),
            "within": _number(pick(trials, criterion, limit)) if limit is not None else None,
        }
        for criterion in criteria
    }
    return {
        "picked": _number(chosen),
        "picks": picks,
        "sensitivity": {criterion: found for criterion in criteria if (found := _sensitivity(trials, criterion))},
        "expected": {
            criterion: expected_after([t["scores"][criterion] for t in order])
            for criterion in criteria
            if order and all(measured(t["scores"].get(criterion)) for t in order)
        },
        "warnings": _warnings(trials, chosen, rule),
    }


def _number(trial: Trial | None) -> int | None:
    return None if trial is None else trial["number"]


def _sensitivity(trials: Sequence[Trial], criterion: str) -> dict[str, float] | None:
    scores = [t["scores"][criterion] for t in trials if measured(t["scores"].get(criterion))]
    if not scores:
        return None
    beat = sum(score > HALF for score in scores) / len(scores)
    return {"best": max(scores), "median": median(scores), "worst": min(scores), "beat_sft": beat}


def _warnings(trials: Sequence[Trial], chosen: Trial | None, rule: Rule) -> list[str]:
    """Reasons to look again at a pick: beyond the limit, the highest KL of all, or nothing tried on one side of it."""
    failed = [t["number"] for t in trials if t["failed"]]
    said = [f"{len(failed)} of {len(trials)} trials failed."] if failed else []
    if chosen is None:
        return [*said, f"No trial has a score by {CALLED[rule['by']]}, so the benchmark's own settings are kept."]
    kl, limit = chosen["kl"], rule["at_most_kl"]
    if limit is not None and kl > limit:
        said.append(f"Every trial is beyond {limit:g} nats of KL; the pick is the one that comes nearest ({kl:.2f}).")
    known = [t["kl"] for t in trials if measured(t["kl"])]
    if len(known) > 1 and kl == max(known):
        said.append(
            f"The pick has the highest KL of all trials ({kl:.2f} nats), where a scorer that can be over-optimized "
            f"errs most."
        )
    for field, value in chosen["settings"].items():
        others = [t["settings"][field] for t in trials]
        end = "lowest" if value == min(others) else "highest" if value == max(others) else ""
        if end and len(set(others)) > 1:
            said.append(f"The pick has the {end} {field} that was tried ({value:g}); a wider range may hold better.")
    return said


def rule_in_words(rule: Rule) -> str:
    """The rule as a phrase: the selection reward model with KL at most 1 nat."""
    limit = rule["at_most_kl"]
    said = CALLED[rule["by"]] + (f" with KL at most {limit:g} nat{'s' * (limit != 1)}" if limit is not None else "")
    if limit is None and rule["by"] in LEARNT:
        said += " alone"
    return said + (f" (within {rule['margin']:g} of the best the lowest KL)" if rule["margin"] else "")


def tuned_with(summary: Mapping[str, Any]) -> list[str]:
    """The tuning under which a run's rows stand, in a sentence; none for a run at settings that were not tuned."""
    if not (tuned := _tuned(summary)):
        return []
    counts: dict[int, list[str]] = {}
    for name, count in tuned["trials"].items():
        if name in summary["methods"]:
            counts.setdefault(count, []).append(name)
    how = f"({tuned['optimizer']}), picked by {rule_in_words(tuned['rule'])}"
    if len(counts) == 1:
        return [f"Tuned with {next(iter(counts))} trials each {how}."]
    parts = "; ".join(f"{', '.join(names)} with {count} trials" for count, names in sorted(counts.items()))
    return [f"Tuned: {parts} {how}."] if counts else []


def not_tuned_alike(summary: Mapping[str, Any]) -> list[str]:
    """The rows of a tuned run that were not tuned, in a sentence."""
    others = untuned(summary)
    are = "was" if len(others) == 1 else "were"
    named = ", ".join(others)
    return [f"{named} {are} not tuned like the others: part of a difference may be its settings'."] if others else []


def untuned(summary: Mapping[str, Any]) -> list[str]:
    """The rows of a tuned run that were trained here and not tuned; none in a run without tuning."""
    tuned = _tuned(summary)
    methods = summary["methods"] if tuned else {}
    return [n for n, row in methods.items() if n != "sft" and n not in tuned["trials"] and not is_elsewhere(row)]


def _tuned(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    contract = summary.get("contract")
    return (contract.get("tuned") or {}) if isinstance(contract, Mapping) else {}
