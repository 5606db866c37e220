"""People's labels of a run's responses: how many there are, and how far the labellers agree."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .agreement import agreement_interval, alpha_interval
from .quantities import measured

LABEL = {"a": "a", "b": "b", "tie": "tie", "both_bad": "tie"}


def labelling(served: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The labelling of a run's pairs, for summary.json; served: of each pair who answered what.

    `pairs`: those that have a label; `served`, `labels`, `skips`, `labellers`: counts; `agreement`, `alpha`: the chance
    that two labellers of a pair give the same label (ties of both kinds are one label), and Krippendorff's alpha, each
    {"mean", "low", "high", "n"} with n the pairs of two labels or more.
    """
    units = [[LABEL[answer] for answer in given.values() if answer in LABEL] for given in served]
    return {
        "served": len(served),
        "pairs": sum(map(bool, units)),
        "labels": sum(map(len, units)),
        "skips": sum(answer not in LABEL for given in served for answer in given.values()),
        "labellers": len({name for given in served for name in given}),
        "agreement": asdict(agreement_interval(units)),
        "alpha": asdict(alpha_interval(units)),
    }


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """How much people labelled and how far they agree; nothing where they labelled nothing."""
    found = summary.get("people")
    if not found:
        return []
    pairs, labels, labellers = (_counted(found[name], name) for name in ("pairs", "labels", "labellers"))
    said = f"People labelled {pairs} of responses ({labels} by {labellers})"
    agreement, alpha = found["agreement"], found["alpha"]
    if not measured(agreement["mean"]):
        return [f"{said}; no pair was seen by two of them, so how far they agree is not known."]
    kappa = f", Krippendorff's alpha {alpha['mean']:.2f}" if measured(alpha["mean"]) else ""
    both = f"; two of them give the same label with a chance of {agreement['mean']:.0%}"
    return [f"{said}{both} (on {_counted(agreement['n'], 'pairs')}{kappa})."]


def _counted(number: int, things: str) -> str:
    return f"{number} {things[:-1] if number == 1 else things}"
