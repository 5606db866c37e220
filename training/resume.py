"""Step checkpoints: what lets a training that was stopped, or killed, go on as if nothing had happened.

A checkpoint holds weights, optimizers, schedules, random states, the ledger and the log, so the weights at the end are
those of a training that was never stopped: bit-identical on a CPU, and on CUDA where `deterministic` is set; else some
of CUDA's sums are taken in an order that differs each time, and they are the same to rounding. It lies in the stage's
unfinished folder and is gone when the stage is finished.
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
from ..results.integrity import file_digest, is_whole, move, seal
from ..results.store import METRICS, STEPS
from ..runtime import processes
from ..runtime.sharding import divided_like, full

KEPT = 2  # checkpoints on disk: should the newest be damaged, there is one before it
STATE, TENSORS = "state.json", "tensors-{:05d}.safetensors"
EVERY = 120.0  # seconds between checkpoints, where nobody says otherwise and SHARE allows it
SHARE = 0.03  # of the time, at most, that goes into checkpoints
PIECE = 2**30  # bytes of a file of tensors, at least; so much of a model is beside it in memory while it is saved


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
    """The random generators of torch that everyone shares: of the CPU, and of each GPU that is visible."""

    def state_dict(self) -> dict[str, Tensor]:
        found = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            found |= {f"cuda {i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
        return found

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        here = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for i in range(min(len(state) - 1, here)):  # there may be fewer than when it was saved
            torch.cuda.set_rng_state(state[f"cuda {i}"], i)


class StepCheckpoints:
    """The steps of one training, saved on the way: `restore`, then go over the rest with `steps`."""

    def __init__(self, out: Path, phase: str, total: int, parts: Mapping[str, Stateful], *, every: float | None):
        """out: the stage's unfinished folder. phase: says which of several trainings in it this is. every: seconds
        between checkpoints; None: EVERY, or as many more as keep their cost below SHARE."""
        self.out, self.phase, self.total, self.every = out, phase, total, every
        self.folder = out / STEPS
        self.parts = {**parts, "random": RandomState()}
        self.asked: int | None = None  # the signal by which this process was asked to stop
        self.cost: float | None = None  # seconds that the last one took, or the next would

    def restore(self) -> int:
        """Put the newest whole checkpoint back into the parts; returns how many steps it has done, 0 without one.

        The first process says which it is, and all read it there.
        """
        folder: Path | None = processes.broadcast(None if processes.rank() else self._newest())
        if folder is None:
            return 0
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        tensors = {n: t for path in sorted(folder.glob("*.safetensors")) for n, t in load_file(path).items()}
        for part, stateful in self.parts.items():
            own = {n.removeprefix(f"{part}/"): t for n, t in tensors.items() if n.startswith(f"{part}/")}
            stateful.load_state_dict({**state["values"][part], **own})
        if (folder / METRICS).exists():
            shutil.copyfile(folder / METRICS, self.out / METRICS)
        processes.all_gather(None)  # all have read it
        return state["done"]

    def _newest(self) -> Path | None:
        """The newest checkpoint of this training that is whole."""
        for folder in self._found():
            if not is_whole(folder):
                print(f"checkpoint {folder} is damaged; going on from the one before it", file=sys.stderr)
                continue
            if json.loads((folder / STATE).read_text(encoding="utf-8"))["phase"] == self.phase:
                return folder
            shutil.rmtree(folder)  # of another training in this folder, whose end is not on disk
        return None

    def steps(self, first: int, label: str, unit: str = "step") -> Iterator[int]:
        """Numbers of the steps to do, from `first` on, with a progress bar.

        After each step the state is saved if it is time, or if a person (Ctrl-C) or the system (SIGTERM) asked to
        stop: then Stopped follows. Asked twice, it stops at once. Where the step fails, whoever listened before hears
        of it.
        """
        saved, failed = time.monotonic(), False  # when the last checkpoint was there, or the training began
        former = self._listen()
        try:
            rest = range(first, self.total)
            for number in tqdm(rest, label, self.total, initial=first, unit=unit, leave=False, disable=None):
                yield number
                done = number + 1
                passed = time.monotonic() - saved
                stop, dues = self._agreed(passed >= self._pause() and done < self.total)
                if (stop or dues[0]) and self._save(done, None if stop else passed):
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

    def _pause(self) -> float:
        """Seconds from one checkpoint to the next."""
        if self.every is not None:
            return self.every
        return max(EVERY, (self.cost or 0.0) / SHARE)

    def _save(self, done: int, passed: float | None = None) -> bool:
        """Write a checkpoint, a piece at a time; all processes call this, and the first one writes for all.

        passed: seconds since the last one, for one that may wait. Where none was measured so far it is given up after
        its first piece if all of it would take more than its SHARE of them; returns whether it is there.
        """
        began, is_first = time.monotonic(), not processes.rank()
        values: dict[str, dict[str, Any]] = {}
        tensors: list[tuple[str, Tensor]] = []
        for part, stateful in self.parts.items():
            state = stateful.state_dict()
            tensors += [(f"{part}/{n}", v.detach()) for n, v in state.items() if isinstance(v, Tensor)]
            values[part] = {n: v for n, v in state.items() if not isinstance(v, Tensor)}
        may_wait = passed is not None and self.every is None and self.cost is None
        folder = self.folder / f"{done:09d}"
        partial = self.folder / f".{done:09d}.partial"
        if is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        size, written = sum(_bytes(tensor) for _, tensor in tensors), 0
        for number, piece in enumerate(_pieces(tensors)):
            held: dict[str, Tensor] = {}
            for name, tensor in piece:
                whole = full(tensor)  # which takes all processes, where it is divided
                if is_first:
                    held[name] = whole.cpu().contiguous()
            if is_first:
                save_file(held, partial / TENSORS.format(number))
            processes.all_gather(None)  # should the disk be full, all hear it before the next piece takes them
            written += sum(_bytes(tensor) for _, tensor in piece)
            if passed is not None and may_wait and number == 0 and written < size:
                if is_first:
                    file_digest(partial / TENSORS.format(number))  # as when it is sealed
                self.cost = processes.broadcast((time.monotonic() - began) * size / written)
                if processes.broadcast(passed < self._pause()):
                    shutil.rmtree(partial, ignore_errors=True)
                    return False
        if is_first:
            (partial / STATE).write_text(json.dumps({"phase": self.phase, "done": done, "values": values}))
            if (self.out / METRICS).exists():
                shutil.copyfile(self.out / METRICS, partial / METRICS)
            seal(partial, {"step": done})
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one of the same step
            move(partial, folder)
            for old in self._found()[KEPT:]:
                shutil.rmtree(old)
        self.cost = time.monotonic() - began
        return True

    def _found(self) -> list[Path]:
        """The checkpoints on disk, the newest first."""
        return sorted(self.folder.glob("[0-9]*"), reverse=True)


def _bytes(tensor: Tensor) -> int:
    """Of a whole tensor, also where this process holds a shard of it."""
    return tensor.numel() * tensor.element_size()


def _pieces(tensors: Sequence[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Tensors in their order, in pieces of PIECE bytes that the last one may exceed; the same in all processes."""
    piece: list[tuple[str, Tensor]] = []
    for named in tensors:
        piece.append(named)
        if sum(_bytes(tensor) for _, tensor in piece) >= PIECE:
            yield piece
            piece = []
    if piece:
        yield piece
