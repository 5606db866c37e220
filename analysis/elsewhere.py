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
    if not (names := elsewhere(methods)):
        return []
    said = [
        f"{', '.join(names)}: {MARK}; what was learnt from, whether the held-out prompts were seen and what it cost is "
        "not known, and each is one policy, however many seeds it was sampled with, not a method"
    ]
    known = (methods.get(SFT) or {}).get("metrics") or {}
    for name in names:
        if lost := [title(metric) for metric in known if metric not in methods[name]["metrics"]]:
            said.append(f"{name}: {', '.join(lost)} left out; its tokens or its template are not those of SFT")
    return said


def costs_unknown(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line: the rows of whose training no cost is known."""
    names = elsewhere(methods)
    return [f"{', '.join(names)}: {MARK}, so what training took is not known."] if names else []
