"""The interface of a method: what every method is given, and what it must return. This is the fairness contract."""

import json
import random
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..results import memory, processes
from ..results.checkpoint import Checkpoint, Network, Tuning
from ..results.layout import Ids
from ..results.records import Message, Reward
from ..results.store import ALONG, COST, METRICS
from .resume import EVERY


class TrainingError(Exception):
    """Training cannot go on (a non-finite loss, say): one sentence with the step and the rows; fails this cell only."""


@dataclass(frozen=True)
class Prompt:
    """A conversation up to the assistant's turn, and its token ids."""

    id: str
    messages: tuple[Message, ...]
    ids: Ids


@dataclass(frozen=True)
class Pair:
    """A prompt with a preferred and a rejected reply; the replies' ids end with EOS."""

    id: str
    prompt: Prompt
    chosen: Ids
    rejected: Ids


@dataclass(frozen=True)
class RatedReply:
    """A reply to a prompt that people found good, or not, on its own; the ids end with EOS."""

    id: str
    prompt: Prompt
    ids: Ids
    good: bool


def rated_replies(pair: Pair) -> tuple[RatedReply, RatedReply]:
    """A pair's chosen reply as a good one and its rejected as not."""
    return RatedReply(pair.id, pair.prompt, pair.chosen, True), RatedReply(pair.id, pair.prompt, pair.rejected, False)


@dataclass(frozen=True)
class PairDataset:
    """Preference pairs, tokenized once for everyone; a benchmark's lie on disk and are read when they are looked at.

    `reference`: summed response log-probs (chosen, rejected), each [pairs], under the SFT checkpoint; computed at
    the first call and shared over methods and seeds.
    """

    pairs: Sequence[Pair]
    reference: Callable[[], tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True)
class PromptDataset:
    """Prompts to sample from: those of the training pairs, each once."""

    prompts: Sequence[Prompt]
    max_new_tokens: int
    """Longest response that is sampled, in tokens, here and in the evaluation."""

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Budget:
    """What a method may spend."""

    examples: int
    """Preference pairs drawn (offline methods) or responses sampled and scored (online methods), repeats counted."""


@dataclass(frozen=True)
class TrainingTask:
    """Identical for every method of a run but for `out`."""

    sft: Checkpoint
    pairs: PairDataset
    prompts: PromptDataset
    reward: Reward | None
    budget: Budget
    seed: int
    out: Path
    tuning: Tuning = field(default_factory=Tuning)
    base: Checkpoint | None = None
    """What `sft` was tuned from, for methods that replace SFT as well."""
    reward_model: Checkpoint | None = None
    """The model behind `reward`, for a critic that starts from it."""
    unpaired: Sequence[RatedReply] = ()
    """Replies rated on their own, where the benchmark has such; their prompts are not evaluated."""
    along: int = 0
    """Checkpoints to save on the way, evenly spaced over the budget, into `out / "along"`; `Snapshots` does it."""
    checkpoint_every: float = EVERY
    """Seconds between the checkpoints from which a training that was stopped goes on."""


class Method(Protocol):
    """A frozen dataclass of hyperparameters IS the method.

    `train` writes the policy to `task.out / "policy"` (Hugging Face layout), a log to `task.out / "metrics.jsonl"`
    (one object with `step` a line) and what it cost to `task.out / "cost.json"`; `Ledger` does the last two.
    An attribute `responses_per_answer` of n says that each answer is the best of n samples by the training reward.
    """

    def train(self, task: TrainingTask) -> Checkpoint: ...


@dataclass
class Ledger:
    """What a method has spent, and its log."""

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
    started: float = field(default_factory=time.monotonic)
    phases: int = 0
    """Trainings begun in this folder, one after another."""

    @classmethod
    def of(cls, network: Network, out: Path) -> "Ledger":
        """The ledger of a run that trains this network."""
        _reset_peak_memory()
        trainable = sum(p.numel() for p in network.parameters)
        return cls(out, network.size, min(1.0, trainable / network.size))

    def phase(self, label: str) -> str:
        """The name of a training that begins now, for its checkpoints; the first one begins the log anew."""
        if not self.phases:
            (self.out / METRICS).unlink(missing_ok=True)
        self.phases += 1
        return f"{self.phases} {label}"

    def state_dict(self) -> dict[str, Any]:
        """All counts, and the seconds so far."""
        return self._counts() | {"seconds": time.monotonic() - self.started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.started = time.monotonic() - state["seconds"]
        for name in self._counts():
            setattr(self, name, state[name])

    def _counts(self) -> dict[str, int]:
        skip = ("out", "network_size", "trainable_share", "started", "phases")
        return {name: value for name, value in asdict(self).items() if name not in skip}

    def add_up_tokens(self, since: int) -> None:
        """Count the tokens that all processes trained on since there were so many, not this one's alone."""
        self.trained_tokens = since + sum(processes.gather(self.trained_tokens - since))

    def log(self, **values: float) -> None:
        """Append a line to metrics.jsonl, with the step, the examples and the seconds so far."""
        row = {
            "step": self.optimizer_steps,
            "examples": self.examples,
            "seconds": round(time.monotonic() - self.started, 3),
            **values,
        }
        with open(self.out / METRICS, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Write cost.json. FLOPs: 2 a weight and token forward, 2 back through activations, 2 into weight gradients."""
        forward = 2.0 * self.network_size
        flops = self.trained_tokens * forward * (2 + self.trainable_share)
        flops += (self.scored_tokens + self.generated_tokens) * forward
        costs = self.state_dict() | {"flops": flops, "peak_memory_mb": _peak_memory()}
        (self.out / COST).write_text(json.dumps(costs, indent=2))


class Snapshots:
    """Saves the policy along training, the first time that each share of the budget is spent."""

    def __init__(self, task: TrainingTask):
        self.folder = task.out / ALONG
        self.marks = [task.budget.examples * k / (task.along + 1) for k in range(1, task.along + 1)]

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


def _reset_peak_memory() -> None:
    """Start to measure the peak anew, where the system can: one process trains many methods after another."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    memory.give_back()  # what was kept of the work before would count as this one's
    memory.reset_peak()


def _peak_memory() -> float:
    """Peak memory in MiB: of the CUDA device where there is one, else of the process."""
    return (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak()) / 2**20


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Endless indices below `count`: a fresh permutation each epoch, the same for everyone with the same seed."""
    rng = random.Random(seed)
    while True:
        order = array("q", range(count))  # 8 bytes an index
        rng.shuffle(order)
        yield from order
