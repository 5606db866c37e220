"""A third party's method (SLiC-HF) and evaluator (sentences a response)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from alignment_bench.methods.pairwise import PairwiseMethod
from alignment_bench.results.records import Score


@dataclass(frozen=True, kw_only=True)
class SLiC(PairwiseMethod):
    """Hinge on the log-prob margin of chosen over rejected, Zhao et al. (2023, arXiv:2305.10425), eq. 1."""

    delta: Annotated[float, Gt(0)] = 1.0
    """Margin in nats below which a pair still counts, above 0."""

    def loss(self, logps):
        return (self.delta - logps.chosen.sum() + logps.rejected.sum()).clamp(min=0)


@dataclass(frozen=True)
class Sentences:
    """Number of sentences in a response."""

    marks: str = ".?!"
    """Characters that end a sentence."""

    def score(self, responses, baseline):
        for generation in responses:
            yield Score("sentences", generation.prompt_id, float(sum(generation.response.count(m) for m in self.marks)))
