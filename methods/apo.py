"""APO: anchored preference optimization, D'Oosterlinck et al. (2024, arXiv:2408.06266)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class APOZero(PairwiseMethod):
    """Raises chosen and lowers rejected replies, each against SFT: for pairs better than SFT (eq. 7)."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Scale of the log-ratios, above 0; 0.1 in the paper."""

    # DPO's, for the log-ratios are on the same scale.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 5.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "boundary"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.apo_zero(*logps.log_ratios, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class APODown(APOZero):
    """Lowers both replies, the rejected one more: for pairs worse than SFT's own responses (eq. 8)."""

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.apo_down(*logps.log_ratios, beta=self.beta)
