"""Online DPO: DPO on the policy's own responses, Guo et al. (2024, arXiv:2402.04792)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .grouped import Group, GroupedMethod


@dataclass(frozen=True, kw_only=True)
class OnlineDPO(GroupedMethod):
    """Two responses to a prompt, the reward model as the labeller, DPO's loss."""

    samples_per_prompt: Annotated[int, Ge(2), Le(2)] = 2
    """Two: a pair."""
    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull towards the SFT checkpoint, above 0."""

    # DPO's.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 5.0, "log")}
    goal: ClassVar[str] = "sampled_preferences"

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        """1 for the better of the two and -1 for the other; 0 for both where they tie, which teaches nothing."""
        sign = (rewards[:, :1] - rewards[:, 1:]).sign()
        return sign * rewards.new_tensor([[1.0, -1.0]])

    def loss(self, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = group.new.sum().view(-1, 2).unbind(1)
        reference_first, reference_second = group.reference.sum(1).view(-1, 2).unbind(1)
        sign = group.advantages[:, 0]
        one = losses.dpo(first, second, reference_first, reference_second, beta=self.beta)
        other = losses.dpo(second, first, reference_second, reference_first, beta=self.beta)
        margin = sign * losses.log_ratio_margin(first, second, reference_first, reference_second).detach()
        watched = {"margin": margin, "accuracy": (margin > 0).float()}
        return one * (sign > 0) + other * (sign < 0), watched
