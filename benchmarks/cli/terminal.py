"""The commands' output: tables for people, in colour only where a terminal shows it.

All that is printed passes `visible`: names and texts come from runs, endpoints and files of others, and a terminal
obeys what it reads. Our tables pass it text by text (`console`), all else stream by stream (`streams`).
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas
    from rich.console import Console
    from rich.table import Table

WIDE = 200  # columns where nobody looks: a file or a pipe is not wrapped
# what a terminal obeys, what turns the order of letters round, and letters that nobody sees
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\U000e0000-\U000e007f]"
)
BAR = re.compile("(\n|\x1b\\[A)*")  # tqdm's way to another bar's line
GAP = 3  # columns between two of a table
BARS = "▁▂▃▄▅▆▇█"


def console(*, stderr: bool = False) -> "Console":
    """The console, which makes all texts visible. NO_COLOR is honoured by rich."""
    from rich.console import Console

    class Visible(Console):
        def render_str(self, text: str, **settings: Any) -> Any:
            return super().render_str(visible(text), **settings)

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    stream = stream.stream if isinstance(stream, Filtered) else stream
    return Visible(file=stream, width=width, markup=False, highlight=False, emoji=False)


def visible(text: str) -> str:
    """A text without what a terminal obeys or hides: control characters are written out, as \\x1b; \\n and \\t stay."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Filtered:
    """A stream whose texts are made visible; a progress bar may return to the start of its line, and go lines up."""

    def __init__(self, stream: Any, bars: bool):
        self.stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        inner = text.strip("\r") if self._bars else text
        if not (self._bars and BAR.fullmatch(inner)):
            text = text.replace(inner, visible(inner)) if inner else text
        self.stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def streams() -> Iterator[None]:
    """Standard output and error filtered, whatever they are: closed, or of an encoding that lacks our characters."""
    import typer.rich_utils

    typer.rich_utils.COLOR_SYSTEM = None  # its help goes through the filter, colours would not
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:  # a file opened later would be written to as if it were one
        pass
    os.close(spare)
    before = sys.stdout, sys.stderr
    try:
        for name, bars in (("stdout", False), ("stderr", True)):
            stream = getattr(sys, name)
            if stream is None:
                stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the process ends)
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
            setattr(sys, name, Filtered(stream, bars))
        yield
    finally:
        sys.stdout, sys.stderr = before


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    right: Iterable[str] = (),
    whole: Iterable[str] = (),
) -> "Table":
    """A plain table; `right`: heads of the columns of numbers; `whole`: of those that are never wrapped (drawings)."""
    from rich import box
    from rich.table import Table

    right, whole = set(right), set(whole)
    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, title_style="bold")
    for head in heads:
        longest = max(map(len, head.split()), default=0)  # a head is not broken within its words
        side: Literal["left", "right"] = "right" if head in right else "left"
        made.add_column(head, justify=side, overflow="fold", no_wrap=head in whole, min_width=longest)
    for row in rows:
        made.add_row(*row)
    return made


def narrower(head: str, frame: "pandas.DataFrame", width: int) -> "list[Table]":
    """A frame of texts as tables of whole words, side by side in one where the width allows it.

    Where not, its columns come some at a time; rows and columns change places where that makes fewer tables.
    """
    shown = min((frame, frame.T), key=lambda each: len(_pieces(head, each, width)))
    tables = []
    for names in _pieces(head, shown, width):
        rows = [(name, *row) for name, *row in shown[names].itertuples()]
        tables.append(table((head, *names), rows, right=names, whole=names))
    return tables


def _pieces(head: str, frame: "pandas.DataFrame", width: int) -> list[list[str]]:
    """A frame's columns in as many parts as it takes to have each fit beside the rows' names."""
    first = left = max(len(head), *map(len, frame.index))
    pieces: list[list[str]] = [[]]
    for name in map(str, frame):
        needed = GAP + max(len(name), *map(len, frame[name]))
        if pieces[-1] and left + needed > width:
            pieces.append([])
            left = first
        pieces[-1].append(name)
        left += needed
    return pieces


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 40 s, 3 min, 2.5 h."""
    if seconds is None:
        return "?"
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def size(bytes_: float) -> str:
    """Bytes in the binary unit that keeps the number short."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if bytes_ < 1000 or unit == "GiB":
            return f"{bytes_:.0f} {unit}" if bytes_ >= 10 or unit == "B" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1024
    raise AssertionError


def count(number: float | None) -> str:
    """A number of tokens or rows, in thousands or millions where it is large."""
    if number is None:
        return ""
    for unit, one in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 10 * one:
            return f"{number / one:,.0f} {unit}"
    return f"{number:,.0f}"


def say(to: "Console", text: str, indent: str = "", first: str | None = None) -> None:
    """Print a text: wrapped between words at the width of a terminal, as one line where nobody looks.

    indent: before every line; first: before the first, in place of it.
    """
    import textwrap

    first = indent if first is None else first
    if to.is_terminal:
        to.print(textwrap.fill(text, to.width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False))
    else:
        to.print(f"{first}{text}", soft_wrap=True)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A row of bars from the lowest to the highest value; a longer series is drawn by the means of equal parts."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    parts = min(width, len(finite))
    cuts = [round(i * len(finite) / parts) for i in range(parts + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
    low, high = min(means), max(means)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((mean - low) / step)] for mean in means)
