"""RLOO: REINFORCE with a leave-one-out baseline, Ahmadian et al. (2024, arXiv:2402.14740)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .grouped import Group, GroupedMethod


@dataclass(frozen=True, kw_only=True)
class RLOO(GroupedMethod):
    """Whole responses as single actions; each is compared with the mean of the others to its prompt; no critic."""

    beta: Annotated[float, Ge(0)] = 0.05
    """Weight of the KL penalty in the reward, in (normalized) rewards per nat, at least 0."""
    clip: Annotated[float, Gt(0), Le(1)] = 0.2
    """Range of the response's probability ratio; acts only from the second step on a round on."""

    # Around the paper's 0.03 and 0.10, up to a whole unit of (normalized) reward for a nat.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}
    goal: ClassVar[str] = "kl_regularized_reward"

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        """R_i less the mean of the other R_j, with R = reward - beta log-ratio."""
        returns = rewards - self.beta * log_ratios
        k = returns.shape[1]
        return (returns - returns.mean(1, keepdim=True)) * k / (k - 1)

    def loss(self, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        log_ratios = group.new.sum().view_as(group.advantages) - group.old.sum(1).view_as(group.advantages)
        outside = losses.outside_clip(log_ratios, clip=self.clip)
        surrogate = losses.clipped_surrogate(log_ratios, group.advantages, clip=self.clip)
        return surrogate.mean(1), {"clip_fraction": outside.mean(1)}
