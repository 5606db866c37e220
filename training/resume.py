"""Step checkpoints: what lets a training that was stopped, or killed, go on as if nothing had happened.

A checkpoint holds weights, optimizers, schedules, random states, the ledger and the log, so the weights at the end are
bit-identical to those of a training that was never stopped. It lies in the stage's unfinished folder and is gone when
the stage is finished.
"""

import contextlib
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import Stopped
from ..results.integrity import is_whole, seal
from ..results.store import METRICS, STEPS
from ..runtime import processes
from ..runtime.sharding import divided_like, full

KEPT = 2  # checkpoints on disk: should the newest be damaged, there is one before it
STATE, TENSORS = "state.json", "tensors.safetensors"


class Stateful(Protocol):
    """Something whose state is a flat dict of tensors and JSON values."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Weights:
    """Parameters that are being trained."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = parameters

    def state_dict(self) -> dict[str, Tensor]:
        return {str(i): p.detach() for i, p in enumerate(self.parameters)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(divided_like(state[str(i)], parameter))


class RandomState:
    """The random generators of torch that everyone shares."""

    def state_dict(self) -> dict[str, Tensor]:
        found = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            found |= {f"cuda {i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
        return found

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        for i in range(len(state) - 1):
            torch.cuda.set_rng_state(state[f"cuda {i}"], i)


class StepCheckpoints:
    """The steps of one training, saved on the way: `restore`, then go over the rest with `steps`."""

    def __init__(self, out: Path, phase: str, total: int, parts: Mapping[str, Stateful], *, every: float):
        """out: the stage's unfinished folder. phase: says which of several trainings in it this is. every: seconds
        between checkpoints."""
        self.out, self.phase, self.total, self.every = out, phase, total, every
        self.folder = out / STEPS
        self.parts = {**parts, "random": RandomState()}
        self.asked: int | None = None  # the signal by which this process was asked to stop

    def restore(self) -> int:
        """Put the newest whole checkpoint back into the parts; returns how many steps it has done, 0 without one."""
        for folder in self._found():
            if not is_whole(folder):
                print(f"checkpoint {folder} is damaged; going on from the one before it", file=sys.stderr)
                continue
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            if state["phase"] != self.phase:  # of another training in this folder, whose end is not on disk
                shutil.rmtree(folder)
                continue
            tensors = load_file(folder / TENSORS)
            for part, stateful in self.parts.items():
                own = {n.removeprefix(f"{part}/"): t for n, t in tensors.items() if n.startswith(f"{part}/")}
                stateful.load_state_dict({**state["values"][part], **own})
            if (folder / METRICS).exists():
                shutil.copyfile(folder / METRICS, self.out / METRICS)
            return state["done"]
        return 0

    def steps(self, first: int, label: str, unit: str = "step") -> Iterator[int]:
        """Numbers of the steps to do, from `first` on, with a progress bar.

        After each step the state is saved if it is time, or if a person (Ctrl-C) or the system (SIGTERM) asked to
        stop: then Stopped follows. Asked twice, it stops at once. Where the step fails, whoever listened before hears
        of it.
        """
        saved, failed = time.monotonic(), False
        former = self._listen()
        try:
            rest = range(first, self.total)
            for number in tqdm(rest, label, self.total, initial=first, unit=unit, leave=False, disable=None):
                yield number
                done = number + 1
                due = time.monotonic() - saved >= self.every and done < self.total
                stop, dues = self._agreed(due)
                if stop or dues[0]:
                    self._save(done)
                    saved = time.monotonic()
                if stop:
                    raise self._stopped(done, label, unit)
        except GeneratorExit:
            failed = True
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
        if failed:
            if self.asked is not None:
                signal.raise_signal(self.asked)
            return
        stop, _ = self._agreed()
        if stop:  # asked when the last step had been looked at
            self._save(self.total)
            raise self._stopped(self.total, label, unit)

    def _agreed(self, due: bool = False) -> tuple[bool, tuple[bool, ...]]:
        """Agreement to stop, after the same step in all where one of them is asked; and what was due in each."""
        asked, dues = zip(*processes.all_gather((self.asked is not None, due)), strict=True)
        return any(asked), dues

    def _stopped(self, done: int, label: str, unit: str) -> Stopped:
        return Stopped(
            f"stopped after {unit} {done} of {self.total} of {label}, which is saved; the same command goes on from "
            f"there"
        )

    def _listen(self) -> dict[int, Any]:
        """Wait for the end of the step when asked to stop; returns the handlers from before."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        former: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def asked(number: int, frame: Any) -> None:
            if self.asked is not None:
                self.asked = None
                signal.signal(number, former[number])
                signal.raise_signal(number)
                return
            self.asked = number
            with contextlib.suppress(RuntimeError):  # it came within another line's writing, as Python cannot twice
                print("stopping after this step, to save it; once more to stop at once", file=sys.stderr)

        for number in former:
            signal.signal(number, asked)
        return former

    def _save(self, done: int) -> None:
        tensors: dict[str, Tensor] = {}
        values: dict[str, dict[str, Any]] = {}
        for part, stateful in self.parts.items():
            values[part] = {}
            for name, value in stateful.state_dict().items():
                if isinstance(value, Tensor):
                    whole = full(value.detach())  # which takes all processes, where weights are divided
                    if not processes.rank():
                        tensors[f"{part}/{name}"] = whole.cpu().contiguous()
                else:
                    values[part][name] = value
        if processes.rank():  # the first process saves for all
            return
        folder = self.folder / f"{done:09d}"
        partial = self.folder / f".{done:09d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one of the same step
        partial.mkdir(parents=True)
        save_file(tensors, partial / TENSORS)
        (partial / STATE).write_text(json.dumps({"phase": self.phase, "done": done, "values": values}))
        if (self.out / METRICS).exists():
            shutil.copyfile(self.out / METRICS, partial / METRICS)
        seal(partial, {"step": done})
        partial.rename(folder)
        for old in self._found()[KEPT:]:
            shutil.rmtree(old)

    def _found(self) -> list[Path]:
        """The checkpoints on disk, the newest first."""
        return sorted(self.folder.glob("[0-9]*"), reverse=True)
