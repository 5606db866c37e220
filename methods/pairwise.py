"""What the offline methods share: settings, one training from start to end, and the pass over both responses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint
from ..models.layout import Sequences, count_tokens
from ..models.policy import Policy, TokenValues
from ..results.lazy import LazySequence
from ..results.records import Pair
from ..training.ledger import Ledger, Snapshots
from ..training.loop import Recipe, fit
from ..training.probe import Probe
from ..training.task import TrainingTask, sides_of


@dataclass(frozen=True, kw_only=True)
class OfflineMethod:
    """A method that learns from given replies: a subclass is a dataclass with `fit`, which calls `run` once."""

    lr: Annotated[float, Gt(0)] = 1e-5
    """Peak learning rate of AdamW, above 0."""
    batch_size: Annotated[int, Gt(0)] = 16
    """Pairs per optimizer step."""
    warmup: Annotated[float, Ge(0), Le(1)] = 0.05
    """Share of the steps over which the learning rate rises, 0 to 1; then it falls linearly to 0."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """Gradients are scaled down to this norm."""

    needs_pairs: ClassVar[bool] = True

    def fit(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> None:
        """Train the policy."""
        raise TypeError(f"{type(self).__name__} must define fit(policy, task, ledger)")

    def starts_from(self, task: TrainingTask) -> Checkpoint:
        """What the policy begins as."""
        return task.sft

    def train(self, task: TrainingTask) -> Checkpoint:
        policy = Policy.open(self.starts_from(task), task.tuning, trainable=True)
        try:
            ledger = Ledger.of(policy.network, task.out)
            self.fit(policy, task, ledger)
            ledger.close()
            policy.save(task.out / "policy")
        finally:
            policy.network.close()
        return Checkpoint(task.out / "policy", key="")

    def run(
        self,
        policy: Policy,
        task: TrainingTask,
        ledger: Ledger,
        examples: Sequence[Any],
        loss: Callable[[list[Any]], tuple[Tensor, dict[str, Tensor]]],
        sequences: Callable[[Any], Sequences],
        prepare: Callable[[list[Any]], None] = lambda batch: None,
    ) -> None:
        """`loop.fit` with this method's settings and the task's budget, order and limits."""
        if not examples:
            raise TrainingError(
                f"{type(self).__name__} learns from preference pairs and the benchmark has none; give --preferences"
            )
        probe, snapshots = Probe(task, policy, ledger, with_samples=True), Snapshots(task)

        def watch(share: float) -> dict[str, float]:
            snapshots.reached(ledger.examples, policy.save)
            return probe(share)

        recipe = Recipe(
            examples=task.budget.examples,
            batch_size=self.batch_size,
            lr=self.lr,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            seed=task.seed,
            label=f"{type(self).__name__} seed {task.seed}",
            checkpoint_every=task.checkpoint_every,
        )
        parts = {"probe": probe, "snapshots": snapshots}
        fit(
            examples,
            policy.network,
            loss,
            sequences,
            ledger=ledger,
            recipe=recipe,
            prepare=prepare,
            watch=watch,
            parts=parts,
        )


@dataclass(frozen=True)
class PairLogps:
    """Log-probs of a batch of pairs: per token for the policy, summed [batch] for the reference (if one is needed)."""

    chosen: TokenValues
    rejected: TokenValues
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_prompt: TokenValues | None
    """Of the prompt's tokens from the second on, beside the chosen response; if `needs_prompt`."""


@dataclass(frozen=True)
class PlacedPair:
    """A pair, and its place among the data set's, at which its log-probs under the reference stand."""

    place: int
    pair: Pair

    @property
    def id(self) -> str:
        return self.pair.id


@dataclass(frozen=True, kw_only=True)
class PairwiseMethod(OfflineMethod):
    """A subclass is a dataclass with a `loss` and, if it uses them, `needs_reference` or `needs_prompt`."""

    needs_reference: ClassVar[bool] = False
    needs_prompt: ClassVar[bool] = False

    def loss(self, logps: PairLogps) -> Tensor:
        """Losses [batch] of a batch of pairs."""
        raise TypeError(f"{type(self).__name__} must define loss(logps)")

    def fit(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> None:
        reference = task.pairs.reference() if self.needs_reference else None
        pairs = task.pairs.pairs
        examples = LazySequence(len(pairs), lambda place: PlacedPair(place, pairs[place]))

        def loss(batch: list[PlacedPair]) -> tuple[Tensor, dict[str, Tensor]]:
            sides = None
            if reference:
                places = [example.place for example in batch]
                sides = tuple(part[places].to(policy.device) for part in reference)
            logps = pair_logps(policy, [example.pair for example in batch], sides, with_prompt=self.needs_prompt)
            ledger.trained_tokens += sum(count_tokens(sides_of(example.pair)) for example in batch)
            return self.loss(logps), signals(
                logps.chosen.sum(), logps.rejected.sum(), logps.reference_chosen, logps.reference_rejected
            )

        self.run(policy, task, ledger, examples, loss, lambda example: sides_of(example.pair))


def pair_logps(
    policy: Policy, batch: list[Pair], reference: tuple[Tensor, Tensor] | None, *, with_prompt: bool = False
) -> PairLogps:
    """One pass over both responses of some pairs; reference: their log-probs under it, chosen and rejected [batch]."""
    n, prompt = len(batch), None
    sequences = [(p.prompt.ids, p.chosen) for p in batch] + [(p.prompt.ids, p.rejected) for p in batch]
    both = policy.logps(sequences, with_prompt=range(n) if with_prompt else ())
    chosen = TokenValues(both.values[:n], both.mask[:n])
    rejected = TokenValues(both.values[n:], both.mask[n:])
    if with_prompt:
        ends = torch.tensor([len(p.prompt.ids) - 1 for p in batch], device=both.mask.device)
        in_prompt = torch.arange(both.mask.shape[1], device=both.mask.device)[None] < ends[:, None]
        prompt, chosen = chosen.where(in_prompt), chosen.where(~in_prompt)
    return PairLogps(chosen, rejected, *(reference or (None, None)), prompt)


@torch.no_grad()
def signals(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor | None, reference_rejected: Tensor | None
) -> dict[str, Tensor]:
    """What to watch, each [batch]: summed log-probs of both sides, their margin, and how often it is positive."""
    margin = chosen - rejected
    if reference_chosen is not None:
        margin = margin - (reference_chosen - reference_rejected)
    return {
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        "margin": margin,
        "accuracy": (margin > 0).float(),
    }
