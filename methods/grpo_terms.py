"""GRPO with another divisor, ratio or clipping: the rows that differ from it in a term."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor

from . import losses
from .grouped import Group
from .grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class DrGRPO(GRPO):
    """GRPO without its two biases: no division by the group's deviation, nor by a response's own length.

    Liu et al. (2025, arXiv:2503.20783), section 3.2. Sums over a response's tokens are divided by the longest length
    that is sampled, a constant.
    """

    beta: Annotated[float, Ge(0)] = 0.0
    """Weight of the KL to the SFT checkpoint, at least 0; 0 in the paper."""

    goal: ClassVar[str] = "forward_kl"

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        return rewards - rewards.mean(1, keepdim=True)

    def tokens(self, group: Group) -> float:
        return group.longest


@dataclass(frozen=True, kw_only=True)
class DAPO(GRPO):
    """GRPO with every token of a round weighing alike, and more room above than below.

    Yu et al. (2025, arXiv:2503.14476), eq. 8; the loss is TRL's default for GRPO. Left out: dynamic sampling, for
    continuous rewards hardly ever tie in a whole group, and the shaped penalty of length, for which
    `missing_eos_penalty` stands.
    """

    beta: Annotated[float, Ge(0)] = 0.0
    """Weight of the KL to the SFT checkpoint, at least 0; 0 in the paper."""
    clip_high: Annotated[float, Gt(0)] = 0.28
    """A token's probability ratio goes up to 1 + clip_high, above 0; 0.28 in the paper."""

    def surrogate(self, group: Group, log_ratios: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        ends = {"clip": self.clip, "clip_high": self.clip_high}
        return losses.clipped_surrogate(log_ratios, advantages, **ends), losses.outside_clip(log_ratios, **ends)

    def tokens(self, group: Group) -> float:
        return group.mean_tokens


@dataclass(frozen=True, kw_only=True)
class GSPO(GRPO):
    """GRPO with one probability ratio a response: the geometric mean of its tokens' ratios.

    Zheng et al. (2025, arXiv:2507.18071), eqs. 5 to 7.
    """

    beta: Annotated[float, Ge(0)] = 0.0
    """Weight of the KL to the SFT checkpoint, at least 0; 0 in the paper."""
    clip: Annotated[float, Gt(0), Le(1)] = 3e-4
    """The response's ratio stays above 1 - clip; 0.0003 in the paper. It acts from the second step on a round on."""
    clip_high: Annotated[float, Gt(0)] = 4e-4
    """And below 1 + clip_high, above 0; 0.0004 in the paper."""

    def surrogate(self, group: Group, log_ratios: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        mask, ends = group.new.mask, {"clip": self.clip, "clip_high": self.clip_high}
        mean = (log_ratios * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return losses.clipped_surrogate(mean, advantages, **ends), losses.outside_clip(mean, **ends)


@dataclass(frozen=True, kw_only=True)
class CISPO(GRPO):
    """REINFORCE with each token's probability ratio as a capped weight, so that no token is left out by clipping.

    Chen et al. (2025, arXiv:2506.13585), eqs. 4 and 5: no lower end, no gradient through the weight, all tokens of a
    round weigh alike.
    """

    clip: ClassVar[None] = None  # type: ignore[misc]  # it has no such setting
    beta: Annotated[float, Ge(0)] = 0.0
    """Weight of the KL to the SFT checkpoint, at least 0; 0 in the paper."""
    ratio_cap: Annotated[float, Gt(1)] = 5.0
    """Largest weight of a token, above 1: the paper's 1 + epsilon high, which it does not tell; 5 in Khatri et al.
    (2025, arXiv:2510.13786)."""

    def surrogate(self, group: Group, log_ratios: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        ratios = log_ratios.detach().exp()
        return -ratios.clamp(max=self.ratio_cap) * advantages * group.new.values, (ratios > self.ratio_cap).float()

    def tokens(self, group: Group) -> float:
        return group.mean_tokens
