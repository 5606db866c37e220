"""The page of the state of the methods: situations by methods, each cell with what was shown and where from."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.metric_names import title
from ..analysis.state import NOT_DECIDED, THAN

MARK, NOT_TRIED = "?", "–"  # of what is not decided, and of what is not there


def state_page(sources: Sequence[Mapping[str, Any]], known: Sequence[str]) -> dict[str, Any]:
    """The contents of `state.md.j2`.

    sources: `name`, `link`, `said` (a sentence), `made` (the day), `situations` as `analysis.state` gives them.
    known: all methods, of which those that no source has are named.
    """
    cells = [each for source in sources for situation in source["situations"] for each in situation["cells"].values()]
    tried = {cell["method"] for cell in cells}
    methods = sorted(tried, key=lambda name: (-sum(cell["method"] == name for cell in cells), name))
    return {
        "than": THAN,
        "methods": methods,
        "rows": [
            {
                "name": situation["name"],
                "by": title(situation["metric"]),
                "source": source,
                "cells": [_cell(situation["cells"], method) for method in methods],
            }
            for source in sources
            for situation in source["situations"]
        ],
        "sources": sources,
        "untried": sorted(set(known) - tried - {THAN}),
    }


def _cell(cells: Mapping[str, Mapping[str, Any]], method: str) -> str:
    """The rows of one method in one situation."""
    found = [_text(label, cell) for label, cell in cells.items() if cell["method"] == method]
    return "; ".join(found) or NOT_TRIED


def _text(label: str, cell: Mapping[str, Any]) -> str:
    span = "" if cell["low"] is None else f" ({_points(cell['low'])} to {_points(cell['high'])})"
    settings = label.partition(":")[2].replace(":", ", ")
    mark = MARK if cell["state"] == NOT_DECIDED else cell["state"]
    return f"{settings + ': ' if settings else ''}{mark} {_points(cell['difference'])}{span}"


def _points(share: float) -> str:
    return f"{round(100 * share):+d}".replace("-", "−")
