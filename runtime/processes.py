"""The processes of one run: alone as a rule, several side by side under `accelerate launch`.

A step's rows are divided among them, and gradients and sums are added up over all, so that every process makes the same
update. Every process holds all weights (data parallel), unless accelerate asks for FSDP (`sharding.py` says what it
divides), and all of Adam's moments, unless it asks for DeepSpeed's ZeRO (`zero.py`). Whatever the processes tell each
other goes through one exchange, in which a process can also say that it failed: then the others fail with it and none
is left waiting. All of it does nothing in a run of one process.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import GateError, InputError
from .device import constants

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
LONGEST_WAIT = timedelta(days=30)  # of the others, while the first one samples, scores and judges
_RANK, _SIZE = 0, 1  # set by `join`
_WAITING = False  # in the first process: the others wait for work


class PeerError(Exception):
    """Another process of this run failed: which one and why."""


def join(rank: int, size: int) -> None:
    """Be process `rank`, counted from 0, of `size`."""
    global _RANK, _SIZE
    _RANK, _SIZE = rank, size


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Work of this process as if it were alone: nothing is exchanged, and no weights are divided."""
    global _RANK, _SIZE, _WAITING
    former = _RANK, _SIZE, _WAITING
    _RANK, _SIZE, _WAITING = 0, 1, False
    try:
        yield
    finally:
        _RANK, _SIZE, _WAITING = former


def is_true(variable: str) -> bool:
    """True if accelerate has set a variable of the environment."""
    return os.environ.get(variable, "false").lower() == "true"


def rank() -> int:
    """This process's number; 0 is the first, which alone writes the run and speaks."""
    return _RANK


def size() -> int:
    """The number of processes."""
    return _SIZE


def is_sharding() -> bool:
    """True if weights are divided among processes while they are trained: FSDP, and more than one process."""
    return _SIZE > 1 and is_true("ACCELERATE_USE_FSDP")


def is_dividing_moments() -> bool:
    """True if Adam's moments are divided among processes: DeepSpeed's ZeRO, and more than one process."""
    return _SIZE > 1 and is_true("ACCELERATE_USE_DEEPSPEED")


def shard(rows: Sequence[Value]) -> Sequence[Value]:
    """This process's shard of some rows; it may be empty."""
    return rows[_RANK::_SIZE] if _SIZE > 1 else rows


def all_gather(value: Value) -> list[Value]:
    """The values of all processes, the first one's first. An error that another process tells is raised here."""
    return _exchange(value)


def broadcast(value: Value | None) -> Value:
    """The first process's value, in all of them; those of the others are not looked at."""
    return _exchange(value if _RANK == 0 else None)[0]


def all_reduce_numbers(values: Mapping[str, float]) -> dict[str, float]:
    """Numbers by name, each added up over the processes that have it."""
    if _SIZE == 1:
        return dict(values)
    sums: dict[str, float] = {}
    for found in _exchange(dict(values)):
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def all_reduce(tensors: Sequence["Tensor"]) -> None:
    """Replace each tensor by its sum over all processes; the same shapes in the same order everywhere.

    Small ones go together, for each round of talk takes its time whatever is said in it.
    """
    if _SIZE == 1:
        return
    import torch
    from torch import distributed

    for bucket in _buckets(tensors):
        if len(bucket) == 1:
            distributed.all_reduce(bucket[0])
            continue
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [part.view_as(t) for part, t in zip(parts, bucket, strict=True)])


def _buckets(tensors: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Neighbours of one kind, together at most a bucket of their device, or one that is larger."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        alike = bucket and (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and not (alike and held + tensor.nbytes <= constants(tensor.device.type).bucket):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.nbytes
    if bucket:
        yield bucket


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """In the first process, while it works alone: the others `help`, until this ends without an error."""
    global _WAITING
    _WAITING = _SIZE > 1
    try:
        yield
        if _WAITING:
            broadcast(None)
    finally:
        _WAITING = False


def are_waiting() -> bool:
    """True in the first process while the others wait for work."""
    return _WAITING


@contextlib.contextmanager
def helped(work: Callable[..., None] | str, *arguments: Any) -> Iterator[None]:
    """In the first process: the others, which wait, call a function meanwhile, and share in what is done here.

    work: a function of a module, or the name of one that they know. An error in one of them is raised in all, and they
    wait again.
    """
    global _WAITING
    if not _WAITING:
        yield
        return
    broadcast((work, arguments))
    _WAITING = False
    try:
        with together():
            yield
            all_gather(None)
    except Exception as error:
        vars(error).pop("told", None)  # should it end the run, that is to be told as well
        raise
    finally:
        _WAITING = True


def help_first(known: Mapping[str, Callable[..., None]]) -> None:
    """In the other processes: do what the first one asks for, until it is done. known: functions by their names."""
    order: tuple[Any, tuple[Any, ...]] | None
    while order := broadcast(None):
        work, arguments = order
        with contextlib.suppress(Exception), together():  # told, and the first one knows what it means
            (known[work] if isinstance(work, str) else work)(*arguments)
            all_gather(None)


def end_all(error: Exception) -> None:
    """End this process where it fails in what all do together: they wait for it and cannot be told.

    The launcher ends them when it sees this one end. What was saved stays, and the same command goes on from there.
    """
    said = "failed in what all do together, so all end; if memory ran out, lower the tuning's micro_tokens"
    shown = "".join(traceback.format_exception(error))
    print(f"process {_RANK + 1} of {_SIZE} {said}\n{shown}", end="", file=sys.__stderr__, flush=True)
    os._exit(1)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Work of all processes: an error in one of them is told to the others, once, and raised in all."""
    try:
        yield
    except Exception as error:
        if _SIZE > 1 and not getattr(error, "told", False):
            _exchange(None, error)
        raise


def _exchange(value: Any, error: Exception | None = None) -> list[Any]:
    """One round in which every process gives a value, or the error that it is about to raise."""
    if _SIZE == 1:
        return [value]
    from torch import distributed

    kinds = {InputError: "input", GateError: "gate"}
    kind = next((name for cls, name in kinds.items() if isinstance(error, cls)), "")
    failed = (kind, type(error).__name__, str(error)) if error else None
    heard: list[Any] = [None] * _SIZE
    distributed.all_gather_object(heard, (value, failed))
    if error is not None:
        vars(error)["told"] = True  # a mark on any exception; `together` looks for it
        return []
    for i, (_, failed) in enumerate(heard):
        if failed:
            kind, name, said = failed
            peer: Exception
            if kind:
                peer = {"input": InputError, "gate": GateError}[kind](said)
            else:
                peer = PeerError(f"process {i + 1} of {_SIZE}: {name}: {said}")
            vars(peer)["told"] = True
            raise peer
    return [given for given, _ in heard]
