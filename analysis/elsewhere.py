"""Rows whose policy was trained elsewhere: marked as such, one training each, with nothing claimed of a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .grids import SFT
from .metric_names import title

MARK = "not trained here"
TRAINED_HERE = "trained_here"  # of a row in run.json and summary.json; there, and false, where it was not


def is_elsewhere(row: Mapping[str, Any]) -> bool:
    """True for a row, of a run's record or its summary, that was not trained here."""
    return row.get(TRAINED_HERE) is False


def elsewhere(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The rows that were not trained here; methods: those of a run's record or of its summary."""
    return [name for name, row in methods.items() if is_elsewhere(row)]


def marked(name: str, methods: Mapping[str, Mapping[str, Any]]) -> str:
    """A row's name with the mark that it was not trained here, if so."""
    return f"{name} ({MARK})" if is_elsewhere(methods.get(name) or {}) else name


def sentences(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know of the rows that were not trained here, and the measures that are left out for them."""
    said = []
    for name in elsewhere(methods):
        said.append(
            f"{name}: {MARK}; what it learnt from, whether it saw the held-out prompts and what it cost are not known, "
            "and it is one policy, however many seeds it was sampled with, not a method"
        )
        known = (methods.get(SFT) or {}).get("metrics") or {}
        if lost := [title(metric) for metric in known if metric not in methods[name]["metrics"]]:
            said.append(f"{name}: left out, for its tokens or its template are not SFT's; {', '.join(lost)}")
    return said


def costs_unknown(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line: the rows of whose training no cost is known."""
    names = elsewhere(methods)
    return [f"{', '.join(names)}: {MARK}, so what training took is not known."] if names else []
