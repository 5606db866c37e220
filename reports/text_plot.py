"""Plots of text, for terminals and Markdown: an interval on a line, and win rates beside what they cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.elsewhere import is_elsewhere, marked
from ..analysis.grids import SFT
from ..analysis.metric_names import title
from ..analysis.quantities import MISSING, cost, measured
from ..analysis.verdict import leading

Line = tuple[str, str, str, str]


def interval_plot(
    low: float | None,
    mean: float,
    high: float | None,
    *,
    start: float = 0.0,
    end: float = 1.0,
    mark: float,
    width: int = 41,
) -> str:
    """A line of `width` characters from start to end with the interval, the mean and a mark on it."""

    def place(value: float) -> int:
        share = (value - start) / (end - start)
        return round(min(1.0, max(0.0, share)) * (width - 1))

    line = [" "] * width
    line[place(mark)] = "│"
    if low is not None and high is not None:
        line[place(low) : place(high) + 1] = "─" * (place(high) - place(low) + 1)
    line[place(mean)] = "●"
    return "".join(line)


def rates_and_costs(summary: Mapping[str, Any], width: int = 25) -> tuple[str, Line, list[Line]]:
    """Win rates against SFT with intervals beside the training time of one seed, the cheapest first.

    Returns the title, the heads with the drawings' scale, and the rows: name, drawing of `width` characters, win rate,
    time. No rows where nothing was scored.
    """
    methods = summary["methods"]
    if (metric := leading(summary)) is None:
        return "", ("", "", "", ""), []
    cells = {m: row["metrics"].get(metric) or {} for m, row in methods.items() if m != SFT}
    cells = {m: cell for m, cell in cells.items() if measured(cell.get("mean"))}
    ends = [v for cell in cells.values() for v in (cell["mean"], cell.get("low"), cell.get("high")) if measured(v)]
    start = max(0.0, math.floor(min([*ends, 0.4]) * 10) / 10)
    end = min(1.0, math.ceil(max([*ends, 0.6]) * 10) / 10)
    times = {m: (methods[m].get("cost") or {}).get("seconds") for m in cells}
    heads, rows = ("", _scale(start, end, width), "win rate", "time"), []
    for m, cell in sorted(cells.items(), key=lambda item: times[item[0]] or 0.0):
        drawn = interval_plot(
            cell.get("low"), cell["mean"], cell.get("high"), start=start, end=end, mark=0.5, width=width
        )
        known = measured(cell.get("low")) and measured(cell.get("high"))
        limits = f" [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]" if known else ""
        spent = cost(times[m], "seconds") if times[m] else MISSING if is_elsewhere(methods[m]) else "none"
        rows.append((marked(m, methods), drawn, f"{100 * cell['mean']:.0f}%{limits}", spent))
    return f"{title(metric)} and training time of one seed", heads, rows


def block(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as lines whose columns stand below each other, the first ones to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _scale(start: float, end: float, width: int) -> str:
    """The ends of a drawing, and where one half, SFT, lies on it."""
    left, right, middle = f"{100 * start:.0f}%", f"{100 * end:.0f}%", "SFT"
    place = round((0.5 - start) / (end - start) * (width - 1)) - len(middle) // 2
    place = max(len(left) + 1, min(place, width - len(right) - len(middle) - 1))
    return (left.ljust(place) + middle).ljust(width - len(right)) + right
