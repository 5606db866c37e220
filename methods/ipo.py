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
    """Regresses the margin of mean log-ratios onto a constant; sums with `length: sum`.

    Certain labels cannot push a margin without end. The paper writes whole log-probs; its authors told TRL's that what
    they report averages over a response's tokens, which is the default here as there.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """The paper's tau, above 0: the margin's goal is 1 / (2 beta) nats, of a token or, with sums, of a response."""
    length: Literal["mean", "sum"] = "mean"
    """Log-probs as means over a response's tokens, or summed over them, as the paper's eq. 17 is written."""

    # Meng et al. (2024, arXiv:2405.14734), table of search ranges: 0.01 to 1, goals of 50 to 0.5 nats a token; here
    # 5 to 0.05, for beyond a few nats a response the KL is large.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.1, 10.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "ipo"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.ipo(*(logps.mean_log_ratios if self.length == "mean" else logps.log_ratios), beta=self.beta)
