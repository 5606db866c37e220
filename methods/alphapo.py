"""AlphaPO: SimPO with a reward of another shape, Gupta et al. (2025, arXiv:2501.03884)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..results.records import Range
from . import losses
from .pairwise import PairLogps
from .simpo import SimPO


@dataclass(frozen=True, kw_only=True)
class AlphaPO(SimPO):
    """SimPO whose reward is (1 - p^-alpha) / alpha of the mean probability p a token, in place of log p."""

    alpha: float = 0.25
    """Shape of the reward; 0 is SimPO, above 0 unlikely responses weigh more; 0.25 for Mistral-Instruct in the
    paper (table 3)."""

    # SimPO's, and alpha on both sides of 0.
    space: ClassVar[dict[str, Range]] = {**SimPO.space, "alpha": Range(-0.5, 0.5, "linear")}

    def loss(self, logps: PairLogps) -> Tensor:
        chosen, rejected = (
            losses.alpha_reward(side.mean(), alpha=self.alpha) for side in (logps.chosen, logps.rejected)
        )
        return losses.simpo(chosen, rejected, beta=self.beta, gamma=self.gamma)
