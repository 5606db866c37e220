"""IPO: identity preference optimization, Azar et al. (2024, arXiv:2310.12036)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class IPO(PairwiseMethod):
    """Regresses the log-ratio margin onto a constant, so that certain labels cannot push it without end."""

    beta: Annotated[float, Gt(0)] = 0.1
    """The paper's tau, above 0: the margin's goal is 1 / (2 beta) nats."""
    length: Literal["sum", "mean"] = "sum"
    """Log-probs summed over a response, as in the paper, or their mean over its tokens, as in TRL."""

    # Meng et al. (2024, arXiv:2405.14734), table of search ranges: 0.01 to 1.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}
    needs_reference: ClassVar[bool] = True

    def loss(self, logps: PairLogps) -> Tensor:
        chosen, rejected = logps.chosen.sum(), logps.rejected.sum()
        reference_chosen, reference_rejected = logps.reference_chosen, logps.reference_rejected
        if self.length == "mean":
            tokens_chosen, tokens_rejected = logps.chosen.mask.sum(1), logps.rejected.mask.sum(1)
            chosen, reference_chosen = chosen / tokens_chosen, reference_chosen / tokens_chosen
            rejected, reference_rejected = rejected / tokens_rejected, reference_rejected / tokens_rejected
        return losses.ipo(chosen, rejected, reference_chosen, reference_rejected, beta=self.beta)
