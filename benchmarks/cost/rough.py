"""What a stage takes by its tokens and the pace of the model here, where nothing like it has run."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch

from ...evaluators.base import Traits
from ...methods.pairwise import PairwiseMethod
from ...models.checkpoint import Checkpoint
from ...models.four_bits import BYTES
from ...models.lora import base_layers
from ...models.network import packed_tokens
from ...models.tuning import Tuning
from ...results.records import Pair
from ...runtime.device import constants
from ...runtime.memory import free_on, resident
from ...training.probe import PAIRS, PROMPTS, SHARES
from .pace import Pace, pace_of
from .reckoning import weights_of, without_numbers
from .step_cost import TRAINED, Step, StepCost, StepKind, step_cost

FROZEN = {"fp32": 4, "bf16": 2}  # bytes a weight of a model that is only read; in bf16 embeddings and norms take 4
MIB = 2**20
BY_PACE = "a few rows timed here"  # the basis of a rough estimate


class Drawn(Protocol):
    """The part of a shared stage's settings that its cost hangs on."""

    examples: int
    batch_size: int


@dataclass(frozen=True)
class Estimate:
    """Seconds, MiB and tokens of one stage, each None where nothing is known; `basis` says where they come from."""

    basis: str = ""
    seconds: float | None = None
    memory_mb: float | None = None
    tokens: float | None = None


MOMENT = Estimate("assumed, a moment", 0.5)  # of scores for which no model is asked


class Rough:
    """What a stage takes by its tokens and the pace of the base model on this machine, which is timed on a few rows.

    The memory of what trains is counted on tensors without data (`step_cost.py`), for rows as long as the pairs' mean.
    Of an architecture that cannot be counted so, and of what does not train, it is weights, gradients, Adam's moments
    and the largest logits. On a CPU what the process holds already comes on top.
    """

    def __init__(
        self, base: Checkpoint, tuning: Tuning, pairs: Sequence[Pair], micro_tokens: int, threads: int | None = None
    ):
        """threads: of a cell that is trained, where those are others than there are."""
        config = base.config
        model = without_numbers(config)
        self.size = sum(p.numel() for p in model.parameters())
        self.frozen = FROZEN[tuning.precision] * self.size  # bytes
        if tuning.base_bits:
            rounded = sum(model.get_submodule(path).weight.numel() for path in base_layers(model))
            self.frozen -= round((FROZEN[tuning.precision] - BYTES) * rounded)
        self.tuning, self.base, self.looked_at, self.config = tuning, base, min(PAIRS, len(pairs)), config
        self.tokens = min(micro_tokens, packed_tokens(self.size, tuning.device))  # of a pass
        self.logits = 4 * micro_tokens * config.get_text_config().vocab_size
        self.counted: dict[Step, StepCost | None] = {}
        self.prompt = statistics.fmean(len(p.prompt.ids) for p in pairs)
        self.reply = statistics.fmean((len(p.chosen) + len(p.rejected)) / 2 for p in pairs)
        self.threads = threads if threads and tuning.device == "cpu" else torch.get_num_threads()

    @cached_property
    def pace(self) -> Pace:
        """With all threads, as what cells share is trained."""
        return self._timed(torch.get_num_threads())

    @cached_property
    def pace_of_cells(self) -> Pace:
        """With those that train a cell."""
        return self.pace if self.threads == torch.get_num_threads() else self._timed(self.threads)

    def _timed(self, threads: int) -> Pace:
        return pace_of(self.base, self.tuning, max(1, round(self.prompt)), max(1, round(self.reply)), threads)

    def stage(
        self,
        *,
        trained: float = 0,
        sampled: float = 0,
        read: float = 0,
        trainable: int = 0,
        frozen: int = 1,
        by_cell: bool = False,
        with_samples: bool = False,
        step: Step | None = None,
    ) -> Estimate:
        """trained: tokens with a backward pass; sampled and read: without; trainable and frozen: models in memory.

        step: one of the training, whose memory is counted.
        by_cell: with a cell's threads, and the probes of its training; with_samples: those draw responses as well.
        """
        pace = self.pace_of_cells if by_cell else self.pace
        sequence = self.prompt + self.reply
        seconds = (
            trained * pace.trained + sampled * pace.sampled + read * pace.read + (trainable + frozen) * pace.opened
        )
        if by_cell:  # SFT's log-probs of the probe's pairs, then at each look the policy's
            seconds += (1 + len(SHARES)) * 2 * self.looked_at * sequence * pace.read
            if with_samples:
                seconds += len(SHARES) * PROMPTS * (self.reply * pace.sampled + 2 * sequence * pace.read)
        if self.tuning.lora_rank:  # one frozen model under all adapters
            trainable, frozen = 0, 1
        cost = self.count(step) if step else None
        memory = cost.peak if cost else self.size * trainable * TRAINED + frozen * self.frozen + self.logits
        if self.tuning.device == "cpu":
            memory += resident()
        return Estimate(BY_PACE, seconds, memory / MIB, trained + sampled)

    def count(self, step: Step) -> StepCost | None:
        """The cost of a step, counted once; None for an architecture whose code asks for numbers of its tensors.

        Of a GPU whose free memory a pass would not fit into, with gradient checkpointing.
        """
        if step not in self.counted:
            try:
                self.counted[step] = self._count(step)
            except Exception:  # what an architecture raises on tensors without data is its own affair
                self.counted[step] = None
        return self.counted[step]

    def _count(self, step: Step) -> StepCost:
        asked, free = self.tuning.gradient_checkpointing, free_on(self.tuning.device)
        found = step_cost(self.config, replace(self.tuning, gradient_checkpointing=asked is True), step)
        if asked == "auto" and free is not None and found.peak > constants("cuda").training_share * free:
            found = step_cost(self.config, replace(self.tuning, gradient_checkpointing=True), step)
        return found

    def step(self, kind: StepKind, rows: int, method: Any = None) -> Step:
        """A step's largest pass: its rows, or as many as fit into one."""
        prompt, reply = max(1, round(self.prompt)), max(1, round(self.reply))
        each = prompt + reply * (2 if kind in ("reward_model", "pairs") else 1)
        return Step(kind, min(self.tokens, rows * each), prompt, reply, method)

    def step_of(self, method: Any, budget: int) -> Step:
        """A step of a method, by what it says it needs."""
        if getattr(method, "needs_reward", False):
            rows = min(budget, getattr(method, "minibatch_size", budget))
            return self.step("online with critic" if getattr(method, "needs_critic", False) else "online", rows)
        rows = min(budget, getattr(method, "batch_size", budget))
        return self.step("pairs", rows, method) if isinstance(method, PairwiseMethod) else self.step("sft", 2 * rows)

    def supervised_step(self, kind: StepKind, settings: Drawn) -> Step:
        return self.step(kind, min(settings.examples, settings.batch_size))

    def sft(self, settings: Drawn) -> Estimate:
        tokens = settings.examples * (self.prompt + self.reply)
        return self.stage(trained=tokens, trainable=1, frozen=0, step=self.supervised_step("sft", settings))

    def reward_model(self, settings: Drawn, examples: int) -> Estimate:
        tokens = 2 * examples * (self.prompt + self.reply)
        return self.stage(trained=tokens, trainable=1, frozen=0, step=self.supervised_step("reward_model", settings))

    def reference(self, pairs: int) -> Estimate:
        return self.stage(read=2 * pairs * (self.prompt + self.reply))

    def training(self, method: Any, budget: int) -> Estimate:
        """Of a method by what it says it needs; replies are taken to be as long as those of the pairs."""
        sequence, critic = self.prompt + self.reply, getattr(method, "needs_critic", False)
        if getattr(method, "responses_per_answer", 1) > 1:
            return MOMENT
        if not getattr(method, "needs_reward", False):
            trained, step = 2 * budget * sequence, self.step_of(method, budget)
            return self.stage(trained=trained, trainable=1, frozen=1, by_cell=True, with_samples=True, step=step)
        passes = getattr(method, "epochs", 1) * (2 if critic else 1)
        # sampled once, with log-probs; read by the reference, the reward model and the critic
        return self.stage(
            trained=budget * passes * sequence,
            sampled=budget * self.reply,
            read=budget * (2 + critic) * sequence,
            trainable=1 + critic,
            frozen=2,
            by_cell=True,
            step=self.step_of(method, budget),
        )

    def generations(self, prompts: int, responses: int) -> Estimate:
        """Sampling, and two passes for the KL."""
        sequence = self.prompt + self.reply
        return self.stage(sampled=prompts * responses * self.reply, read=prompts * 2 * sequence, frozen=2)

    def scores(self, traits: Traits, prompts: int, pairs: int) -> Estimate | None:
        """Of responses by a reward model, of held-out pairs by policy and reference, or of responses that are drawn.

        None where it asks other models, or draws nobody knows how many.
        """
        sequence = self.prompt + self.reply
        if traits.asks_models or traits.is_judge or traits.keeps_answers:
            return None
        if traits.needs_policy and not traits.needs_pairs:
            return self.stage(sampled=traits.draws * self.reply, frozen=2) if traits.draws else None
        if traits.needs_policy:
            return self.stage(read=2 * 2 * pairs * sequence, frozen=2)
        return self.stage(read=prompts * sequence) if traits.needs_reward_model else MOMENT

    def judged(self, judges: Sequence[Checkpoint], questions: int, template: float) -> Estimate:
        """Of so many questions to each local judge, by its weights beside the model's: the question's text of so many
        tokens, a prompt and two replies are read."""
        weights = sum(weights_of(judge.config) for judge in judges)
        tokens = questions * (template + self.prompt + 2 * self.reply)
        return Estimate(BY_PACE, tokens * self.pace.read * weights / self.size)
