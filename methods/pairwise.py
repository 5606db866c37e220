"""The offline methods' base: settings, one training from start to end, and the pass over both responses."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint
from ..models.layout import Batch, Sequences
from ..models.policy import Policy, TokenValues
from ..results.lazy import LazySequence
from ..results.records import Pair
from ..training.ledger import Ledger, Snapshots
from ..training.loop import Objective, Recipe, fit
from ..training.probe import Probe
from ..training.resume import Stateful
from ..training.task import TrainingTask, sides_of, trained_policy


@dataclass(frozen=True, kw_only=True)
class OfflineMethod:
    """A method that learns from given replies: a subclass is a dataclass with `objective`."""

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

    def objective(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> Objective:
        """The examples of one training, with their losses under the policy; passes of its own it puts in the ledger."""
        raise TypeError(f"{type(self).__name__} must define objective(policy, task, ledger)")

    def starts_from(self, task: TrainingTask) -> Checkpoint:
        """The policy's first checkpoint."""
        return task.sft

    def train(self, task: TrainingTask) -> Checkpoint:
        with trained_policy(task, self.starts_from(task)) as policy:
            ledger = Ledger.of(policy.network, task.out)
            objective = self.objective(policy, task, ledger)
            if not objective.examples:
                raise TrainingError(
                    f"{type(self).__name__} learns from preference pairs and the benchmark has none; give --preferences"
                )
            probe, snapshots = Probe(task, policy, ledger, with_samples=True), Snapshots(task)

            def watch(share: float) -> dict[str, float]:
                with ledger.looking():
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
            parts: dict[str, Stateful] = {"probe": probe, "snapshots": snapshots}
            fit(objective, policy.network, ledger=ledger, recipe=recipe, watch=watch, parts=parts)
            ledger.close()
        return task.made


class PairLogps:
    """Log-probs of a batch of pairs: per token for the policy, summed [batch] for the reference (if one is needed)."""

    def __init__(
        self,
        chosen: TokenValues,
        rejected: TokenValues,
        reference_chosen: Tensor | None,
        reference_rejected: Tensor | None,
        chosen_prompt: TokenValues | None,
    ):
        """chosen_prompt: of the prompt's tokens from the second on, beside the chosen response; if `needs_prompt`."""
        self.chosen, self.rejected, self.chosen_prompt = chosen, rejected, chosen_prompt
        self._reference_chosen, self._reference_rejected = reference_chosen, reference_rejected

    @property
    def reference_chosen(self) -> Tensor:
        """TypeError for a method that does not say `needs_reference`."""
        return _of_reference(self._reference_chosen)

    @property
    def reference_rejected(self) -> Tensor:
        """TypeError for a method that does not say `needs_reference`."""
        return _of_reference(self._reference_rejected)

    @property
    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log pi - log pi_SFT of the chosen and the rejected responses, each [batch]."""
        return self.chosen.sum() - self.reference_chosen, self.rejected.sum() - self.reference_rejected

    @property
    def mean_log_ratios(self) -> tuple[Tensor, Tensor]:
        """The same a token of the response."""
        chosen, rejected = self.log_ratios
        return chosen / self.chosen.mask.sum(1), rejected / self.rejected.mask.sum(1)


def _of_reference(logps: Tensor | None) -> Tensor:
    if logps is None:
        raise TypeError("a loss that uses the reference's log-probs must say needs_reference = True")
    return logps


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

    @property
    def needs_prompt(self) -> bool:
        """True if `loss` uses the log-probs of the prompt's tokens too; a class may set it like `needs_reference`."""
        return False

    def loss(self, logps: PairLogps) -> Tensor:
        """Losses [batch] of a batch of pairs."""
        raise TypeError(f"{type(self).__name__} must define loss(logps)")

    def objective(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> Objective:
        return Pairs(self, policy, task)


class Pairs(Objective[PlacedPair]):
    """Pairs with the losses that a pairwise method gives them."""

    by_place = True  # chosen replies first, then the rejected ones

    def __init__(self, method: PairwiseMethod, policy: Policy, task: TrainingTask):
        pairs = task.pairs.pairs
        self.method, self.policy, self.with_prompt = method, policy, method.needs_prompt
        self.reference = task.pairs.reference() if method.needs_reference else None
        self.examples = LazySequence(len(pairs), lambda place: PlacedPair(place, pairs[place]))

    def sequences(self, example: PlacedPair) -> Sequences:
        return sides_of(example.pair)

    def losses(self, batch: Batch[PlacedPair]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.losses_of(batch.rows, self.policy.logps(batch.layout))

    def losses_of(self, rows: list[PlacedPair], both: TokenValues) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and values to watch from the log-probs of pairs, laid out as for `logps_of`."""
        logps = self.logps_of(rows, both)
        reference = (logps.reference_chosen, logps.reference_rejected) if self.reference else (None, None)
        return self.method.loss(logps), signals(logps.chosen.sum(), logps.rejected.sum(), *reference)

    def logps_of(self, rows: list[PlacedPair], both: TokenValues) -> PairLogps:
        """Log-probs of pairs from those of the chosen replies, below which stand those of the rejected ones."""
        n, prompt, reference = len(rows), None, None
        chosen = TokenValues(both.values[:n], both.mask[:n])
        rejected = TokenValues(both.values[n:], both.mask[n:])
        if self.with_prompt:
            ends = torch.tensor([len(row.pair.prompt.ids) - 1 for row in rows], device=both.mask.device)
            in_prompt = torch.arange(both.mask.shape[1], device=both.mask.device)[None] < ends[:, None]
            prompt, chosen = chosen.where(in_prompt), chosen.where(~in_prompt)
        if self.reference:
            places = [row.place for row in rows]
            reference = [part[places].to(both.mask.device) for part in self.reference]
        reference_chosen, reference_rejected = reference or (None, None)
        return PairLogps(chosen, rejected, reference_chosen, reference_rejected, prompt)


@torch.no_grad()
def signals(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor | None, reference_rejected: Tensor | None
) -> dict[str, Tensor]:
    """Values to watch, each [batch]: summed log-probs of both sides, their margin, and how often it is positive.

    The margin is against the reference, or `logp_margin`, by log-probs alone, where there is none.
    """
    margin, kind = chosen - rejected, "logp_"
    if reference_chosen is not None and reference_rejected is not None:
        margin, kind = margin - (reference_chosen - reference_rejected), ""
    return {
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        f"{kind}margin": margin,
        f"{kind}accuracy": (margin > 0).float(),
    }
