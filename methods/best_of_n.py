"""Best-of-n: no training, but the best of n responses at every answer; Stiennon et al. (2020, arXiv:2009.01325)."""

import shutil
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from ..models.checkpoint import Checkpoint
from ..models.policy import Policy
from ..results.records import Range
from ..training.ledger import Ledger
from ..training.task import TrainingTask


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Answers with the best of n responses of the SFT checkpoint by the training reward model."""

    n: Annotated[int, Ge(2)] = 4
    """Responses that are sampled and scored for each answer, at least 2."""

    # Up to a KL of log 16 - 15/16, or 1.8 nats.
    space: ClassVar[dict[str, Range]] = {"n": Range(2, 16, "log")}
    needs_reward: ClassVar[bool] = True
    goal: ClassVar[str] = "best_of_n"

    @property
    def responses_per_answer(self) -> int:
        """Whoever samples from the policy draws so many and takes the best."""
        return self.n

    def train(self, task: TrainingTask) -> Checkpoint:
        """The policy is the SFT checkpoint as it is."""
        ledger = Ledger.of(Policy.open(task.sft, task.tuning, trainable=False).network, task.out)
        shutil.copytree(task.sft.path, task.made.path)
        ledger.close()
        return task.made
