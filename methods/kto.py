"""KTO: Kahneman-Tversky optimization, Ethayarajh et al. (2024, arXiv:2402.01306)."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ..errors import TrainingError
from ..models.layout import Batch, Sequences, count_tokens
from ..models.policy import Policy
from ..results.lazy import LazySequence, chunks
from ..results.records import LEARNING_RATE, Range, RatedReply, rated_replies
from ..training.ledger import Ledger
from ..training.loop import Objective
from ..training.task import TrainingTask, shuffled
from . import losses
from .pairwise import OfflineMethod, signals


@dataclass(frozen=True)
class Couple:
    """Two replies, rated on their own, with their summed log-probs under the reference: what budgets call an example.

    Of a pair they are the chosen and the rejected one; unpaired they have nothing to do with each other.
    """

    id: str
    replies: tuple[RatedReply, RatedReply]
    reference: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class KTO(OfflineMethod):
    """Judges each response alone, as desirable or not, against the policy's mean drift."""

    batch_size: Annotated[int, Ge(2)] = 16
    """Pairs (or couples of unpaired replies) per optimizer step, at least 2: the drift is measured on replies after
    another's prompt."""
    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull towards the reference, above 0; 0.1 in the paper."""
    desirable_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the good responses. The paper has the two weights times their kinds' numbers within 1 to 4/3 of each
    other, which is 1 for pairs."""
    undesirable_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the others."""
    data: Literal["pairs", "unpaired"] = "pairs"
    """The data to learn from: the benchmark's pairs, chosen as good and rejected as not, or its unpaired replies."""

    # Meng et al. (2024, arXiv:2405.14734), table of search ranges: 0.01 to 0.1; here ten times as far, for the KL that
    # a beta leads to depends on the model.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "saturating"

    def objective(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> Objective:
        return Couples(self, policy, task, ledger)


class Couples(Objective[Couple]):
    """Couples with KTO's losses, beside the policy's drift at each step."""

    def __init__(self, method: KTO, policy: Policy, task: TrainingTask, ledger: Ledger):
        self.method, self.policy, self.ledger = method, policy, ledger
        self.frozen = Policy.open(task.sft, task.tuning, trainable=False)
        self.examples = self._of_pairs(task) if method.data == "pairs" else self._of_unpaired(task)
        self.drift = torch.zeros(())

    def sequences(self, example: Couple) -> Sequences:
        return [(reply.prompt.ids, reply.ids) for reply in example.replies]

    def prepare(self, examples: list[Couple]) -> None:
        replies = [reply for couple in examples for reply in couple.replies]
        self.drift = mismatched_log_ratio(self.policy, self.frozen, replies, self.ledger)

    def losses(self, batch: Batch[Couple]) -> tuple[Tensor, dict[str, Tensor]]:
        method, drift, device = self.method, self.drift, self.policy.device
        logps = self.policy.logps(batch.layout).sum().view(-1, 2)
        reference = torch.tensor([couple.reference for couple in batch.rows], device=device)
        good = torch.tensor([[reply.good for reply in couple.replies] for couple in batch.rows], device=device)
        desirable, undesirable = (
            losses.kto(logps, reference, drift, beta=method.beta, desirable=side) for side in (True, False)
        )
        each = torch.where(good, method.desirable_weight * desirable, method.undesirable_weight * undesirable)
        watched = {"drift": drift.expand(len(batch.rows))}
        if method.data == "pairs":
            watched |= signals(logps[:, 0], logps[:, 1], reference[:, 0], reference[:, 1])
        return each.mean(1), watched

    def _of_pairs(self, task: TrainingTask) -> Sequence[Couple]:
        chosen, rejected = task.pairs.reference()
        pairs = task.pairs.pairs

        def of_pair(place: int) -> Couple:
            pair = pairs[place]
            return Couple(pair.id, rated_replies(pair), (float(chosen[place]), float(rejected[place])))

        return LazySequence(len(pairs), of_pair)

    def _of_unpaired(self, task: TrainingTask) -> Sequence[Couple]:
        if len(task.unpaired) < 2:
            raise TrainingError("kto with data: unpaired needs rated replies; give the benchmark `unpaired: FILE`")
        order = array("q", islice(shuffled(len(task.unpaired), task.seed), len(task.unpaired)))
        replies = LazySequence(len(order), lambda place: task.unpaired[order[place]])
        parts = []
        for chunk in chunks(replies, "reference"):
            sequences = [(r.prompt.ids, r.ids) for r in chunk]
            self.ledger.scored_tokens += count_tokens(sequences)
            parts.append(self.frozen.total_logps(sequences, together=True))
        logps = torch.cat(parts)

        def of_two(number: int) -> Couple:
            places = slice(2 * number, 2 * number + 2)
            first, second = replies[places]
            return Couple(f"{first.id}+{second.id}", (first, second), tuple(logps[places].tolist()))

        return LazySequence(len(replies) // 2, of_two)


def mismatched_log_ratio(policy: Policy, reference: Policy, replies: Sequence[RatedReply], ledger: Ledger) -> Tensor:
    """Mean of log pi - log pi_ref over a batch's couples of replies, each after the next couple's prompt.

    A scalar, at least 0, without gradient. Ethayarajh et al. (2024), section 4.1: the estimate of the KL that costs no
    sampling.
    """
    following = [*replies[2:], *replies[:2]]
    sequences = [(other.prompt.ids, reply.ids) for reply, other in zip(replies, following, strict=True)]
    ledger.scored_tokens += 2 * count_tokens(sequences)
    ours, theirs = (each.total_logps(sequences, together=True) for each in (policy, reference))
    return (ours - theirs).mean().clamp(min=0).to(policy.device)
