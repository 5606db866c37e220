"""SFT on the chosen responses, continued: the control for "more training on the same pairs"."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..models.layout import Batch
from ..models.policy import Policy
from ..results.records import LEARNING_RATE, Range
from ..training.ledger import Ledger
from ..training.loop import Objective
from ..training.sft import Example, Imitation, examples
from ..training.task import TrainingTask
from .pairwise import OfflineMethod


@dataclass(frozen=True, kw_only=True)
class SFTChosen(OfflineMethod):
    """Imitates the chosen response and ignores the rejected one: what a method must beat to claim the preference."""

    # It has nothing else to tune.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE}
    goal: ClassVar[str] = "chosen_replies"

    def objective(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> Objective:
        return ChosenReplies(policy, examples(task.pairs.pairs, both=False))


class ChosenReplies(Imitation):
    """SFT's objective, which also tells the log-probs."""

    def losses(self, batch: Batch[Example]) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = self.policy.logps(batch.layout).sum()
        return -chosen / self.tokens, {"chosen_logps": chosen}
