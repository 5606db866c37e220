"""DPO: direct preference optimization, Rafailov et al. (2023, arXiv:2305.18290)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class DPO(PairwiseMethod):
    """Raises the margin between chosen and rejected log-probs relative to the SFT reference; no reward model."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull towards the reference, above 0; 0.1 to 0.5 is usual."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Assumed share of flipped labels (conservative DPO), 0 to below 0.5."""

    # From the lowest beta of Meng et al. (2024, arXiv:2405.14734), table of search ranges, to
    # the highest of Rafailov et al., section 6.1.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 5.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "kl_regularized_reward"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.dpo(
            logps.chosen.sum(),
            logps.rejected.sum(),
            logps.reference_chosen,
            logps.reference_rejected,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )
