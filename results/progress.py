"""The progress of a run at work, kept beside it for those who look on: its steps, what they took, what is left."""

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .integrity import write_text, writing
from .store import METRICS, finished, read_json

PROGRESS = ".progress.json"  # in a run's folder; while the run has none yet, in one beside it whose name begins so:
BEGUN = ".begun-"
WAITING, AT_WORK, DONE, FAILED, STOPPED = "waiting", "at work", "done", "failed", "stopped"
CELL = " seed "  # between method and seed in a cell's label
NAMED = 6  # cells that a sentence names


@dataclass
class StepProgress:
    """One step of a run's order."""

    label: str
    name: str
    """The step as people read it, without its cell."""
    cell: str = ""
    """The cell as it is called; empty for what all cells share."""
    alike: str = ""
    """Equal for steps that may take as long as each other."""
    trains: bool = False
    expected: float | None = None
    """Seconds by what earlier runs took; None where nothing is known."""
    state: str = WAITING
    began: float | None = None
    """Seconds since 1970."""
    seconds: float | None = None
    """None where it was found on disk."""
    folder: str | None = None
    """Of a training's stage, with its log; while it is made another one, with the log as far as it is."""


@dataclass
class Progress:
    """The steps of a run in their order, and whether somebody is at work on them."""

    steps: list[StepProgress] = field(default_factory=list)
    at_once: int = 1
    """Cells that are trained side by side."""
    failures: dict[str, str] = field(default_factory=dict)
    """By cell the reason."""
    state: str = AT_WORK
    why: str = ""
    """The reason for which it stopped."""
    closing: float | None = None
    """Seconds that the summary and the report took."""
    began: float = field(default_factory=time.time)
    process: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=platform.node)

    @property
    def is_at_work(self) -> bool:
        """A process makes this run now, as far as this machine can know; a killed one leaves no word."""
        if self.state != AT_WORK or self.machine != platform.node():
            return self.state == AT_WORK
        with contextlib.suppress(PermissionError):  # of another user, and there
            try:
                os.kill(self.process, 0)
            except ProcessLookupError:
                return False
        return True

    @property
    def cells(self) -> dict[str, str]:
        """By cell what is done with it: waiting, the name of its step at work, done or failed."""
        found: dict[str, list[StepProgress]] = {}
        for step in self.steps:
            if step.cell:
                found.setdefault(step.cell, []).append(step)
        return {cell: self._state(cell, steps) for cell, steps in found.items()}

    def _state(self, cell: str, steps: Sequence[StepProgress]) -> str:
        if cell in self.failures:
            return FAILED
        if all(step.state == DONE for step in steps):
            return DONE
        if not self.is_at_work:
            return WAITING
        return next((step.name for step in steps if step.state == AT_WORK), WAITING)

    def left(self) -> tuple[float, int]:
        """Seconds that the rest may take, and the number of its steps of which nothing is known."""
        took: dict[str, list[float]] = {}
        for step in self.steps:
            if step.seconds is not None:
                took.setdefault(step.alike, []).append(step.seconds)
        total, unknown, now = 0.0, 0, time.time()
        for step in self.steps:
            if step.state == DONE or step.cell in self.failures:
                continue
            here = took.get(step.alike)
            seconds = sum(here) / len(here) if here else step.expected
            if seconds is None:
                unknown += 1
                continue
            gone = now - step.began if step.state == AT_WORK and step.began else 0.0
            total += max(0.0, seconds - gone) / (self.at_once if step.trains and step.cell else 1)
        return total, unknown

    def logs(self) -> dict[str, list[dict[str, Any]]]:
        """By cell the log of its training, as far as it is; the last line may be half there and is left out."""
        found: dict[str, list[dict[str, Any]]] = {}
        for step in self.steps:
            if step.cell and step.folder:
                with contextlib.suppress(OSError, ValueError):  # not begun yet, or just finished
                    lines = (Path(step.folder) / METRICS).read_text(encoding="utf-8").split("\n")[:-1]
                    found[step.cell] = [json.loads(line) for line in lines]
        return found

    def sentence(self) -> str:
        """How far the run is: "2 of 9 cells are done; at work: dpo seed 0 (training); waiting: ..."."""
        cells = self.cells
        done = sum(state == DONE for state in cells.values())
        said = [f"{done} of {len(cells)} cells are done"]
        shared = [step.name for step in self.steps if not step.cell and step.state == AT_WORK]
        busy = [f"{cell} ({state})" for cell, state in cells.items() if state not in (WAITING, DONE, FAILED)]
        if self.is_at_work and (shared or busy):
            said.append(f"at work: {_listed([*shared, *busy])}")
        if waiting := [cell for cell, state in cells.items() if state == WAITING]:
            said.append(f"waiting: {_listed(waiting)}")
        if self.failures:
            said.append(f"failed: {_listed([f'{cell} ({why})' for cell, why in self.failures.items()])}")
        if self.state == STOPPED:
            said.append(f"stopped: {self.why}")
        elif self.state == AT_WORK and not self.is_at_work:
            said.append("its process is gone; the same command goes on from there")
        return "; ".join(said)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


class Recorder:
    """Writes a run's progress as it goes; one that was not begun writes nothing."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.progress = Progress()
        self._lock = threading.Lock()  # cells side by side are begun in threads of their own

    @contextlib.contextmanager
    def kept(self, folder: Path, steps: Iterable[StepProgress], at_once: int) -> Iterator[None]:
        """Keep the progress of these steps in a folder (see `move`) until the block ends, and how it ended."""
        self.folder, self.progress = folder, Progress([*steps], at_once)
        self._write()
        try:
            yield
        except BaseException as error:
            self.progress.state = STOPPED
            self.progress.why = " ".join(str(error).split()) or type(error).__name__
            with contextlib.suppress(Exception):  # what ended the run is to be told, and not that this failed too
                self._write()
            raise
        self.progress.state = DONE
        self._write()

    def move(self, folder: Path) -> None:
        """Keep it in the run's folder, which is there from now on."""
        before, self.folder = self.folder, folder
        self._write()
        if before and before != folder:
            (before / PROGRESS).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there is more in it
                before.rmdir()

    def begin(self, label: str, partial: Path | None = None) -> None:
        """A step is at work; partial: the folder in which its stage is made."""
        if (step := self._step(label)) and step.state == WAITING:
            step.state, step.began = AT_WORK, time.time()
            step.folder = str(partial.resolve()) if partial else None
            self._write()

    def done(self, label: str, *, fresh: bool) -> None:
        """A step is done; fresh: it was made, and not found on disk."""
        if (step := self._step(label)) and step.state != DONE:
            step.state = DONE
            if step.folder:
                step.folder = str(finished(Path(step.folder)))
            step.seconds = round(time.time() - step.began, 3) if fresh and step.began else None
            self._write()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """The run is summed up and its report written."""
        began = time.monotonic()
        yield
        self.progress.closing = round(time.monotonic() - began, 3)

    def failed(self, cell: str, why: str) -> None:
        self.progress.failures[cell] = why
        self._write()

    def _step(self, label: str) -> StepProgress | None:
        return next((step for step in self.progress.steps if step.label == label), None)

    def _write(self) -> None:
        if self.folder:
            with self._lock, writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                steps = [vars(step) for step in self.progress.steps]  # asdict and an indent take ten times as long
                text = json.dumps({**vars(self.progress), "steps": steps}, ensure_ascii=False, allow_nan=False)
                # twice a step, so it does not wait for the disk: a run goes on by its stages, and a progress that a
                # power cut has torn is none to those who look on
                with contextlib.suppress(FileNotFoundError):  # the same command, given twice, wrote at this moment too
                    write_text(self.folder / PROGRESS, text, lasting=False)


def read_progress(folder: Path) -> Progress | None:
    """The progress that lies in a folder; None where there is none that can be read."""
    try:
        found: dict[str, Any] = read_json(folder / PROGRESS)
        return Progress(**{**found, "steps": [StepProgress(**step) for step in found["steps"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None
