"""Robust DPO, Chowdhury et al. (2024, arXiv:2403.00409)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class RobustDPO(PairwiseMethod):
    """DPO with a loss that flipped labels leave unbiased."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull towards the reference, above 0; 0.1 in the paper."""
    flip_rate: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    """Share of flipped labels, 0 to below 0.5; 0.1 in the paper."""

    # DPO's beta; flips from nearly clean labels to badly flipped ones.
    space: ClassVar[dict[str, Range]] = {
        "lr": LEARNING_RATE,
        "beta": Range(0.01, 5.0, "log"),
        "flip_rate": Range(0.01, 0.3, "linear"),
    }
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "flipped_labels"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.robust_dpo(
            logps.chosen.sum(),
            logps.rejected.sum(),
            logps.reference_chosen,
            logps.reference_rejected,
            beta=self.beta,
            flip_rate=self.flip_rate,
        )
