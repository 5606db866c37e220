"""KTO: Kahneman-Tversky optimization, Ethayarajh et al. (2024, arXiv:2402.01306)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class KTO(PairwiseMethod):
    """Judges each response alone, chosen as desirable and rejected as not, against the policy's mean drift."""

    batch_size: Annotated[int, Ge(2)] = 16
    """Pairs per optimizer step, at least 2: the drift is measured on replies after another pair's prompt."""
    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull towards the reference, above 0; 0.1 in the paper."""
    desirable_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the chosen responses; 1 in the paper where both kinds are equally many."""
    undesirable_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the rejected responses."""

    needs_reference: ClassVar[bool] = True
    needs_baseline: ClassVar[bool] = True

    def loss(self, logps: PairLogps) -> Tensor:
        z = logps.baseline
        good = losses.kto(logps.chosen.sum(), logps.reference_chosen, z, beta=self.beta, desirable=True)
        bad = losses.kto(logps.rejected.sum(), logps.reference_rejected, z, beta=self.beta, desirable=False)
        return (self.desirable_weight * good + self.undesirable_weight * bad) / 2
