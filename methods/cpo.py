"""CPO: contrastive preference optimization, Xu et al. (2024, arXiv:2401.08417)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class CPO(PairwiseMethod):
    """DPO with the reference left out, held in place by SFT on the chosen response."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Scale of the log-prob margin, above 0; 0.1 in the paper."""
    nll_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the chosen response's NLL, a mean over its tokens; 1 in the paper."""

    # Meng et al. (2024, arXiv:2405.14734), table of search ranges: 0.01 to 0.1; here ten times as far, for the KL that
    # a beta leads to depends on the model.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}
    goal: ClassVar[str] = "least_loss"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.cpo(
            logps.chosen.sum(),
            logps.rejected.sum(),
            -logps.chosen.mean(),
            beta=self.beta,
            nll_weight=self.nll_weight,
        )
