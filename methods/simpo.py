"""SimPO: simple preference optimization, Meng et al. (2024, arXiv:2405.14734)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class SimPO(PairwiseMethod):
    """Margin of mean log-probs beyond a target; no reference, no reward model."""

    beta: Annotated[float, Gt(0)] = 2.0
    """Scale of the mean log-probs, above 0; 2 to 10 in the paper."""
    gamma: Annotated[float, Ge(0)] = 1.0
    """Target margin, at least 0; 0.3 to 1.6 in the paper."""

    # The paper's.
    space: ClassVar[dict[str, Range]] = {
        "lr": LEARNING_RATE,
        "beta": Range(2.0, 10.0, "log"),
        "gamma": Range(0.3, 1.6, "linear"),
    }
    goal: ClassVar[str] = "least_loss"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.simpo(logps.chosen.mean(), logps.rejected.mean(), beta=self.beta, gamma=self.gamma)
