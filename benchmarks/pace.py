"""The pace of a model on this machine: seconds a token that is trained on, read or sampled, timed on a few rows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..models.checkpoint import Checkpoint
from ..models.policy import Policy
from ..models.sampler_torch import sample_rows
from ..models.tuning import Tuning
from ..results.records import Prompt

ROWS, DRAWN, NEW_TOKENS = 4, 16, 16  # sequences of a timed pass, responses of a timed batch, and their tokens
TIMES = 3  # the best counts, for others may be at work here


@dataclass(frozen=True)
class Pace:
    """Seconds that a model takes here."""

    trained: float
    """A token, forward and backward."""
    read: float
    """A token, forward alone."""
    sampled: float
    """A token of a batch of responses."""
    opened: float
    """To open the model, once."""


@lru_cache
def pace_of(base: Checkpoint, tuning: Tuning, prompt: int, reply: int, threads: int) -> Pace:
    """Time the model on rows of so many tokens with so many threads; each pass is done once before it is timed."""
    there = torch.get_num_threads()
    torch.set_num_threads(threads)
    began = time.perf_counter()
    policy = Policy.open(base, tuning, trainable=True)
    opened = time.perf_counter() - began
    try:
        words = [
            i for i in range(3, policy.network.model.get_input_embeddings().num_embeddings) if i not in policy.stops
        ]
        rows = [tuple(words[(row + 7 * i) % len(words)] for i in range(prompt + reply)) for row in range(DRAWN)]
        sequences = [(row[:prompt], row[prompt:]) for row in rows[:ROWS]]
        tokens = ROWS * (prompt + reply)

        def train() -> int:
            policy.logps(sequences).sum().sum().backward()
            return tokens

        @torch.no_grad()
        def read() -> int:
            float(policy.logps(sequences).sum().sum())  # reading a number waits for the device
            return tokens

        def draw() -> int:
            asked = [Prompt(str(i), (), row[:prompt]) for i, row in enumerate(rows)]
            drawn = sample_rows(
                policy, asked, range(DRAWN), streams=range(DRAWN), max_new_tokens=min(reply, NEW_TOKENS), seed=0,
                temperature=1.0, top_p=1.0, progress=None,
            )  # fmt: skip
            return sum(len(sample.ids) for sample in drawn)

        trained, seen = _each(train), _each(read)
        return Pace(trained, seen, seen if tuning.sampler == "vllm" else _each(draw), opened)
    finally:
        policy.network.close()
        torch.set_num_threads(there)


def _each(work: Callable[[], int]) -> float:
    """Seconds for each token of some work, the best of several times, after it was done once."""
    work()
    best = float("inf")
    for _ in range(TIMES):
        began = time.perf_counter()
        tokens = work()
        best = min(best, (time.perf_counter() - began) / max(tokens, 1))
    return best
