"""ORPO: monolithic odds-ratio preference optimization, Hong et al. (2024, arXiv:2403.07691)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class ORPO(PairwiseMethod):
    """SFT on the chosen response plus a penalty on the odds of the rejected one; no reference, no reward model."""

    weight: Annotated[float, Gt(0)] = 0.1
    """Weight of the odds-ratio term (the paper's lambda), above 0; 0.1 to 0.25 in the paper."""

    def loss(self, logps: PairLogps) -> Tensor:
        # the NLL is the mean over the chosen response's tokens; the prompt is not learnt
        chosen = logps.chosen.mean()
        return losses.orpo(chosen, logps.rejected.mean(), -chosen, weight=self.weight)
