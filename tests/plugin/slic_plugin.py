"""A third party's method (SLiC-HF), a method that goes wrong, and an evaluator (sentences a response)."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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


@dataclass(frozen=True, kw_only=True)
class Faulty(SLiC):
    """SLiC that goes wrong in its third step."""

    how: Literal["raise", "hang", "exit", "kill", "die-once"] = "raise"
    """The fault: an error, no end, an exit of the process, a signal; the last happens once in a folder."""
    once: str = ""
    """File that says that it has happened."""

    def loss(self, logps):
        counted = self.__dict__.setdefault("calls", [])
        counted.append(1)
        if len(counted) == 3:
            if self.how == "raise":
                raise ValueError("nothing fits")
            if self.how == "hang":
                time.sleep(3600)
            if self.how == "exit":
                os._exit(3)
            if self.how == "kill" or not Path(self.once).exists():
                if self.once:
                    Path(self.once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(logps)


@dataclass(frozen=True)
class Sentences:
    """Number of sentences in a response."""

    marks: str = ".?!"
    """Characters that end a sentence."""

    def score(self, responses, baseline):
        for generation in responses:
            yield Score("sentences", generation.prompt_id, float(sum(generation.response.count(m) for m in self.marks)))
