"""One call of `bench run`: what it asks for, and how it goes to a worker as JSON."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from .definition.spec import BenchmarkSpec

Cell = tuple[str, int]  # label of the row, and seed


AT_ONCE = 2  # cells that are trained at once on a CPU, each with half of its threads

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


# fields of a request that are JSON as they are
PLAIN = ("methods", "seeds", "first_seed", "trials", "device", "gate", "checkpoint_every", "trust_remote_code")


def pack(request: "Request", cell: Cell, threads: int | None = None) -> str:
    """A request and one of its cells as JSON; threads: those that train it on a CPU."""
    values = {name: getattr(request, name) for name in PLAIN}
    root, spec = str(request.root.resolve()), request.spec.model_dump(mode="json")
    return json.dumps({**values, "root": root, "spec": spec, "threads": threads, "cell": cell})


Gate = Literal["warn", "fail", "ignore"]
GATES: tuple[Gate, ...] = get_args(Gate)


@dataclass(frozen=True)
class Request:
    """The request of one call of `bench run`."""

    spec: BenchmarkSpec
    methods: tuple[str, ...]
    seeds: int
    """Cells of each method."""
    root: Path
    """Folder of the cache and of new runs."""
    out: Path | None = None
    """Folder of this run; None: <root>/runs/<benchmark>/<run-id>."""
    device: str = "auto"
    gate: Gate = "warn"
    engine: Engine = "local"
    """Place of training: one cell after another here, or a Ray cluster that sees the same files."""
    ray_address: str | None = None
    """Of the cluster; None starts one on this machine."""
    cell_cpus: int = 1
    """CPU cores of a cell on Ray."""
    cell_gpus: int = 1
    """GPUs of a cell on Ray, where the device is CUDA, each with a process of its own on one machine."""
    at_once: int | None = None
    """Cells that are trained side by side in processes of their own, where the engine is local; None: see `AT_ONCE`."""
    threads: int | None = None
    """Threads that train a cell on a CPU, however many cells are trained at once; None: half of what there are."""
    cell_timeout: float | None = None
    """Seconds that a cell's training may take; each cell is then trained in a process of its own."""
    checkpoint_every: float | None = None
    """Seconds between the checkpoints from which a training that was stopped goes on; None: see training/resume.py."""
    wait: bool = False
    """Wait for another process that makes the same run, in place of an InputError."""
    trust_remote_code: bool = False
    """Permission to run code that comes with a model."""
    first_seed: int = 0
    """The cells' seeds count up from here."""
    trials: bool = False
    """A tuning's trials: they answer its prompts and are scored by its reward model, not by those of the evaluation."""
    tuned: dict[str, Any] | None = None
    """For the contract: how the methods' settings were chosen, where `bench tune` chose them."""
    round: dict[str, Any] | None = None
    """For the contract: the round of labels and training that this is, where a run is continued; and the `folder` of
    that run, which is no part of the contract."""
    say: Callable[[str], None] = field(default=lambda line: print(line, file=sys.stderr))
    watch: Callable[[str, str], None] = field(default=lambda label, state: None)
    """Told what is done now with a cell or a shared stage, by its label."""
