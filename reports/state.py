"""The page of the state of the methods: situations by methods, each cell with what was shown and where from."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.answer import EQUAL, NOT_DECIDED
from ..analysis.metric_names import title
from ..analysis.quantities import signed
from ..analysis.state import ABOVE, BELOW, THAN
from .drawing import INK, SIZE, Chart, finish_chart, literal, new_canvas

MARK, NOT_TRIED = "?", "–"  # of what is not decided, and of what is not there
STATES = (ABOVE, EQUAL, BELOW, NOT_DECIDED)
LEGIBLE = 2  # settings of a method in a situation whose numbers have room in its cell; of more it has the range
WIDTH = 60  # characters of a situation's name in a line of the chart
FILLS = {ABOVE: "#a6cde8", EQUAL: "#dfe3e6", BELOW: "#f3b98d", NOT_DECIDED: "none"}  # of a cell of the chart


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
        "states": STATES,
        "counts": {
            name: [sum((cell["method"], cell["state"]) == (name, state) for cell in cells) for state in STATES]
            for name in methods
        },
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
    return signed(100 * share).replace("-", "−")


def state_chart(sources: Sequence[Mapping[str, Any]]) -> Chart:
    """The table as a picture: a row a situation, a column a method, a cell's colour for what was shown.

    A method with several settings in a situation has as many parts of its cell, in their order, and the range of its
    numbers where they are too many.
    """
    page = state_page(sources, [])
    methods = page["methods"]
    situations = [(source["name"], each) for source in sources for each in source["situations"]]
    names = [f"{source}: {each['name']}" for source, each in situations]
    canvas, plot = new_canvas(1.2 + 0.36 * len(situations))
    canvas.set_size_inches(0.075 * min(WIDTH, max(map(len, names))) + 0.62 * len(methods), canvas.get_figheight())
    spoken = []
    for row, (_, each) in enumerate(situations):
        for column, method in enumerate(methods):
            found = [cell for cell in each["cells"].values() if cell["method"] == method]
            for part, cell in enumerate(found):
                left, width = column - 0.5 + part / len(found), 1 / len(found)
                plot.barh(row, width, 0.86, left, color=FILLS[cell["state"]], edgecolor="white", linewidth=1)
                if len(found) <= LEGIBLE:
                    text = _points(cell["difference"]) + MARK * (cell["state"] == NOT_DECIDED)
                    plot.text(left + width / 2, row, text, ha="center", va="center", size=SIZE - 2, color=INK)
            if len(found) > LEGIBLE:
                least, most = (_points(end(cell["difference"] for cell in found)) for end in (min, max))
                plot.text(column, row, f"{least} to {most}", ha="center", va="center", size=SIZE - 3, color=INK)
            spoken += [f"{names[row]}, {method} {cell['state']} {_points(cell['difference'])}" for cell in found]
    plot.set_xlim(-0.5, len(methods) - 0.5)
    plot.set_ylim(len(names) - 0.5, -0.5)
    plot.set_xticks(range(len(methods)), [literal(name) for name in methods], rotation=30, ha="left")
    plot.set_yticks(range(len(names)), [literal(textwrap.fill(name, WIDTH)) for name in names])
    plot.xaxis.tick_top()
    plot.tick_params(length=0, labelsize=SIZE - 1)
    plot.spines["bottom"].set_visible(False)
    plot.grid(visible=False)
    said = f"Points of win rate over {THAN}, by the truth where no scorer is named"
    colours = "Blue: shown to be above, orange: below, grey: equal, ?: not decided"
    return finish_chart(canvas, "state", said, f"{said}. {colours}. {'; '.join(spoken)}")
