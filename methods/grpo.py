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
    """PPO with the group's mean and deviation in place of a critic, and the KL in the loss."""

    beta: Annotated[float, Ge(0)] = 0.04
    """Weight of the KL to the SFT checkpoint (the k3 estimate at every token), at least 0; 0.04 in the paper."""
    clip: Annotated[float, Gt(0), Le(1)] = 0.2
    """Range of a token's probability ratio, 1 - clip to 1 + clip."""

    # Around the paper's 0.04, as far as for PPO and RLOO.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        """(r - mean) / deviation within the group (section 4.1.2)."""
        centred = rewards - rewards.mean(1, keepdim=True)
        return centred / (rewards.std(1, keepdim=True) + 1e-4)

    def loss(self, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 3 with the KL estimate of eq. 4: the mean over a response's tokens, then over the group."""
        new, mask = group.new.values, group.new.mask
        surrogate = losses.clipped_surrogate(new - group.old, group.advantages.flatten()[:, None], clip=self.clip)
        kl = losses.kl_estimate(new, group.reference, "k3")
        each = ((surrogate + self.beta * kl) * mask).sum(1) / mask.sum(1)
        outside = (losses.outside_clip(new - group.old, clip=self.clip) * mask).sum(1) / mask.sum(1)
        watched = {"clip_fraction": outside.view_as(group.advantages).mean(1)}
        return each.view_as(group.advantages).mean(1), watched
