"""The task of every method: pairs, prompts, budget. This is the fairness contract."""

import contextlib
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..models.checkpoint import Checkpoint
from ..models.layout import Sequences, count_tokens
from ..models.policy import Policy
from ..models.tuning import Tuning
from ..results.lazy import chunks
from ..results.records import Pair, Prompt, RatedReply, Reward


@dataclass(frozen=True)
class PairDataset:
    """Preference pairs, tokenized once for everyone; a benchmark's lie on disk and are read when they are looked at.

    `reference`: summed response log-probs (chosen, rejected), each [pairs], under the SFT checkpoint; computed at
    the first call and shared over methods and seeds. NaN for a pair that no training of the run's seeds draws.
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
    """Limits of a method's spending."""

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
    """The model that `sft` was tuned from, for methods that replace SFT as well."""
    reward_model: Checkpoint | None = None
    """The model behind `reward`, for a critic that starts from it."""
    more_rewards: Sequence[Reward] = ()
    """Rewards beside `reward`, for a method that says how many `reward_models` it wants: models with other seeds."""
    unpaired: Sequence[RatedReply] = ()
    """Replies rated on their own, where the benchmark has such; their prompts are not evaluated."""
    along: int = 0
    """Checkpoints to save on the way, denser at the start, into `out / "along"`; `Snapshots` does it."""
    checkpoint_every: float | None = None
    """Seconds between the checkpoints from which a training that was stopped goes on; None: see training/resume.py."""

    @property
    def made(self) -> Checkpoint:
        """The policy that the training makes; whoever keeps it gives it a key."""
        return Checkpoint(self.out / "policy", key="")


@contextlib.contextmanager
def trained_policy(task: TrainingTask, start: Checkpoint | None = None) -> Iterator[Policy]:
    """A policy to be trained, from the SFT checkpoint or another start; saved in `task.made` if nothing failed."""
    policy = Policy.open(start or task.sft, task.tuning, trainable=True)
    with contextlib.closing(policy.network):
        yield policy
        policy.save(task.made.path)


def sides_of(pair: Pair) -> Sequences:
    """A pair's prompt with each of its replies."""
    return (pair.prompt.ids, pair.chosen), (pair.prompt.ids, pair.rejected)


def reference_logps(reference: Policy, pairs: Sequence[Pair], *, together: bool = False) -> tuple[Tensor, Tensor, int]:
    """Summed log-probs of chosen and rejected replies, each [pairs], under the SFT checkpoint, and tokens read.

    together: see `shared_work.py`.
    """
    logps, tokens = [], 0
    for chunk in chunks(pairs, "reference"):
        sequences = [s for p in chunk for s in sides_of(p)]
        tokens += count_tokens(sequences)
        logps.append(reference.total_logps(sequences, together=together))
    chosen, rejected = torch.cat(logps).view(-1, 2).T.contiguous()
    return chosen.clone(), rejected.clone(), tokens


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Endless indices below `count`: a fresh permutation each epoch, the same for everyone with the same seed."""
    rng = random.Random(seed)
    while True:
        order = array("q", range(count))  # 8 bytes an index
        rng.shuffle(order)
        yield from order
