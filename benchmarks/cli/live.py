"""The view of a run at work: a table of its cells in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOBase
from typing import TYPE_CHECKING, Any

from ...results.progress import CELL, DONE, FAILED, WAITING
from .terminal import console, duration, table

if TYPE_CHECKING:
    from rich.console import Console, Group


@dataclass(frozen=True)
class Watcher:
    """Listener to a run's progress."""

    say: Callable[[str], None]
    """A line that stays."""
    watch: Callable[[str, str], None]
    """A cell or shared stage by its label, and what is done with it now."""


@contextmanager
def watching() -> Iterator[Watcher]:
    """A live table on stderr where that is a terminal; else each line as it comes. NO_COLOR is honoured."""
    to = console(stderr=True)
    if not to.is_terminal or to.is_dumb_terminal:
        yield Watcher(lambda line: print(line, file=sys.stderr), lambda label, state: None)
        return
    view = View(to)
    from rich.live import Live

    stderr, tap = sys.stderr, Tap(view)
    with Live(get_renderable=view.draw, console=to, refresh_per_second=4, redirect_stdout=False, redirect_stderr=False):
        sys.stderr = tap
        try:
            yield Watcher(view.say, view.watch)
        finally:
            sys.stderr = stderr
            view.progress = ""


class View:
    """The live table: a row a method, a column a seed, and the progress of the step at work."""

    def __init__(self, to: "Console"):
        self.to = to
        self.states: dict[str, str] = {}
        self.started: dict[str, float] = {}
        self.shared = ""
        self.progress = ""

    def say(self, line: str) -> None:
        self.to.print(line, soft_wrap=True)

    def watch(self, label: str, state: str) -> None:
        if CELL not in label:
            self.shared = "" if state == DONE else f"{label}: {state}"
            return
        if state not in (WAITING, DONE, FAILED):
            self.started.setdefault(label, time.monotonic())
        if state == DONE and label in self.started:
            state = f"{DONE}, {duration(time.monotonic() - self.started[label])}"
        self.states[label] = state

    def draw(self) -> "Group":
        from rich.console import Group

        found: dict[str, dict[str, str]] = {}
        for label, state in list(self.states.items()):  # a copy: it is drawn by a thread of its own
            method, _, seed = label.rpartition(CELL)
            found.setdefault(method, {})[seed] = state
        seeds = list(dict.fromkeys(seed for row in found.values() for seed in row))
        rows = [(method, *(row.get(seed, "") for seed in seeds)) for method, row in found.items()]
        parts: list[Any] = [table(("", *(f"seed {seed}" for seed in seeds)), rows)] if rows else []
        return Group(*parts, self.shared, self.progress)


class Tap(TextIOBase):
    """Stands for stderr while the table is drawn: a progress bar's line goes into the table, other lines above it.

    tqdm writes a carriage return and the whole bar, with the time that is left, again and again.
    """

    def __init__(self, view: View):
        self.view, self.pending = view, ""

    def write(self, text: str) -> int:
        *lines, self.pending = (self.pending + text).split("\n")
        for line in lines:
            if shown := line.rpartition("\r")[2].strip():
                self.view.say(shown)
        self.pending = self.pending.rpartition("\r")[2]
        self.view.progress = self.pending.strip()
        return len(text)

    def isatty(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed lets it be set
        return self.view.to.encoding

    def flush(self) -> None:
        """Nothing waits: what is shown is drawn by the table."""
