"""GRPO: group relative policy optimization, Shao et al. (2024, arXiv:2402.03300)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .grouped import Group, GroupedMethod


@dataclass(frozen=True, kw_only=True)
class GRPO(GroupedMethod):
    """PPO with the group's mean and deviation in place of a critic: the paper's eq. 3 (TRL's default is DAPO's loss).

    Eq. 3 takes the mean over each response's tokens, then over the group; the KL to SFT stands in the loss.
    """

    beta: Annotated[float, Ge(0)] = 0.04
    """Weight of the KL to the SFT checkpoint (the k3 estimate at every token), at least 0; 0.04 in the paper."""
    clip: Annotated[float, Gt(0), Le(1)] = 0.2
    """Range of a token's probability ratio, 1 - clip to 1 + clip."""

    # Around the paper's 0.04, as far as for PPO and RLOO.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}
    goal: ClassVar[str] = "group_deviation"

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        """(r - mean) / deviation within the group (section 4.1.2)."""
        centred = rewards - rewards.mean(1, keepdim=True)
        return centred / (rewards.std(1, keepdim=True) + 1e-4)

    def loss(self, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """The surrogate and the KL estimate of eq. 4 at every token, summed and divided by `tokens`."""
        new, mask = group.new.values, group.new.mask
        surrogate, outside = self.surrogate(group, new - group.old, group.advantages.flatten()[:, None])
        kl = losses.kl_estimate(new, group.reference, "k3")
        each = ((surrogate + self.beta * kl) * mask).sum(1) / self.tokens(group)
        clipped = (outside * mask).sum(1) / mask.sum(1)
        watched = {"clip_fraction": clipped.view_as(group.advantages).mean(1)}
        return each.view_as(group.advantages).mean(1), watched

    def surrogate(self, group: Group, log_ratios: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimized at each token, and 1 where it is clipped; [responses, time] or [responses, 1] for all.

        advantages: [responses, 1].
        """
        loss = losses.clipped_surrogate(log_ratios, advantages, clip=self.clip)
        return loss, losses.outside_clip(log_ratios, clip=self.clip)

    def tokens(self, group: Group) -> Tensor | float:
        """The number of tokens by which a response's sum is divided: its own length."""
        return group.new.mask.sum(1)
