"""SFT on the chosen responses, continued: the control for "more training on the same pairs"."""

from dataclasses import dataclass

from torch import Tensor

from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class SFTChosen(PairwiseMethod):
    """Imitates the chosen response and ignores the rejected one: what a method must beat to claim the preference."""

    def loss(self, logps: PairLogps) -> Tensor:
        return -logps.chosen.mean()
