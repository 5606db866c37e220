"""ORPO: monolithic odds-ratio preference optimization, Hong et al. (2024, arXiv:2403.07691)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt
from torch import Tensor

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint
from ..results.records import LEARNING_RATE, Range
from ..training.task import TrainingTask
from . import losses
from .pairwise import PairLogps, PairwiseMethod


@dataclass(frozen=True, kw_only=True)
class ORPO(PairwiseMethod):
    """SFT on the chosen response plus a penalty on the odds of the rejected one; no reference, no reward model."""

    weight: Annotated[float, Gt(0)] = 0.1
    """Weight of the odds-ratio term (the paper's lambda), above 0; 0.1 to 0.25 in the paper."""
    start: Literal["sft", "base"] = "sft"
    """The checkpoint that is tuned: the shared SFT one, or the base model, for in the paper ORPO replaces SFT."""
    nll_scope: Literal["response", "prompt+response"] = "response"
    """Tokens whose NLL is learnt: the chosen response's, or the prompt's as well, as in the authors' code and TRL."""

    # Meng et al. (2024, arXiv:2405.14734), table of search ranges: 0.1 to 2.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "weight": Range(0.1, 2.0, "log")}
    goal: ClassVar[str] = "least_loss"

    @property
    def needs_prompt(self) -> bool:
        return self.nll_scope == "prompt+response"

    def starts_from(self, task: TrainingTask) -> Checkpoint:
        if self.start == "sft":
            return task.sft
        if task.base is None:
            raise TrainingError("orpo with start: base needs the base model, and this task has none; use start: sft")
        return task.base

    def loss(self, logps: PairLogps) -> Tensor:
        chosen = logps.chosen.mean()
        nll = -chosen
        if logps.chosen_prompt is not None:
            tokens = logps.chosen.mask.sum(1) + logps.chosen_prompt.mask.sum(1)
            nll = -(logps.chosen.sum() + logps.chosen_prompt.sum()) / tokens
        return losses.orpo(chosen, logps.rejected.mean(), nll, weight=self.weight)
