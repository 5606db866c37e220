"""A training's spending, its log, and the policies that it saves on the way."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..models.network import Network
from ..results.store import ALONG, COST, METRICS
from ..runtime import memory
from .task import TrainingTask


@dataclass
class Ledger:
    """A method's spending and its log; what is spent on looking at it stands apart."""

    out: Path
    network_size: int
    """Weights that a token passes through."""
    trainable_share: float = 1.0
    """Share of the weights whose gradients are computed; with LoRA that part of the backward pass falls away."""
    examples: int = 0
    optimizer_steps: int = 0
    trained_tokens: int = 0
    scored_tokens: int = 0
    """Tokens of forward passes without a backward pass (reference log-probs, values)."""
    generated_tokens: int = 0
    reward_queries: int = 0
    looking_scored_tokens: int = 0
    """As above, of ours: what a user who only trains does not spend."""
    looking_generated_tokens: int = 0
    looking_seconds: float = 0.0
    device: str = "cpu"
    """Where memory is measured."""
    started: float = field(default_factory=time.monotonic)
    phases: int = 0
    """Trainings begun in this folder, one after another."""

    @classmethod
    def of(cls, network: Network, out: Path) -> "Ledger":
        """The ledger of a run that trains this network."""
        _reset_peak_memory(device := network.tuning.device)
        trainable = sum(p.numel() for p in network.parameters)
        size = network.size + (trainable if network.is_adapter else 0)
        return cls(out, size, min(1.0, trainable / size), device=device)

    def phase(self, label: str) -> str:
        """The name of a training that begins now, for its checkpoints; the first one begins the log anew."""
        if not self.phases:
            (self.out / METRICS).unlink(missing_ok=True)
        self.phases += 1
        return f"{self.phases} {label}"

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Time that passes within is spent on looking at the policy, and is none of the method's."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.looking_seconds += time.monotonic() - began

    @property
    def seconds(self) -> float:
        """The method's own so far, those before an interruption included."""
        return time.monotonic() - self.started - self.looking_seconds

    def state_dict(self) -> dict[str, Any]:
        """All counts, and the seconds so far."""
        return self._counts() | {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._counts():
            setattr(self, name, state[name])
        self.started = time.monotonic() - state["seconds"] - self.looking_seconds

    def _counts(self) -> dict[str, float]:
        skip = ("out", "network_size", "trainable_share", "device", "started", "phases")
        return {name: value for name, value in asdict(self).items() if name not in skip}

    def log(self, **values: float) -> None:
        """Append a line to metrics.jsonl, with the step, the examples and the seconds so far."""
        row = {
            "step": self.optimizer_steps,
            "examples": self.examples,
            "seconds": round(self.seconds, 3),
            **values,
        }
        with open(self.out / METRICS, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Write cost.json. FLOPs: 2 a weight and token forward, 2 back through activations, 2 into weight gradients.

        Keys that begin with looking_ are ours; peak memory is of both, for it cannot be told apart.
        """
        forward = 2.0 * self.network_size
        flops = self.trained_tokens * forward * (2 + self.trainable_share)
        flops += (self.scored_tokens + self.generated_tokens) * forward
        looking = (self.looking_scored_tokens + self.looking_generated_tokens) * forward
        costs = self.state_dict() | {
            "flops": flops,
            "looking_flops": looking,
            "peak_memory_mb": _peak_memory(self.device),
        }
        (self.out / COST).write_text(json.dumps(costs, indent=2))


FIRST = 1 / 50  # of the budget, from which on shares grow by one factor up to the whole


class Snapshots:
    """Saves the policy along training, the first time that each share of the budget is spent.

    The shares grow by one factor and so are dense at the start, where policies move away fastest: with even steps all
    checkpoints of PPO lay at one distance. They are fixed before, so that they are the same for every seed.
    """

    def __init__(self, task: TrainingTask):
        self.folder = task.out / ALONG
        shares = [FIRST ** (1 - k / (task.along + 1)) for k in range(1, task.along + 1)]
        self.marks = [task.budget.examples * share for share in shares]

    def state_dict(self) -> dict[str, Any]:
        return {"marks": self.marks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.marks = state["marks"]

    def reached(self, examples: int, save: Callable[[Path], None]) -> None:
        """Call with the examples spent so far, after an update of the policy; save(folder) writes the policy.

        The folder is named by the examples. Several marks passed in one step make one checkpoint.
        """
        if self.marks and examples >= self.marks[0]:
            self.marks = [mark for mark in self.marks if mark > examples]
            save(self.folder / f"{examples:09d}")


def _reset_peak_memory(device: str) -> None:
    """Start to measure the peak anew, where the system can: one process trains many methods after another."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    memory.give_back()  # what was kept of the work before would count as this one's
    memory.reset_peak()


def _peak_memory(device: str) -> float:
    """Peak memory in MiB: of the CUDA device on which the network lies, else of the process."""
    return (torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else memory.peak()) / 2**20
