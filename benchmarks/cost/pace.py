"""The pace of a model on this machine: seconds a token that is trained on, read or sampled, timed on a few rows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from ...models.checkpoint import Checkpoint
from ...models.policy import Policy
from ...models.sampler_torch import sample_rows
from ...models.tuning import Tuning
from ...results.records import Prompt
from ...runtime import processes

ROWS, FEW, NEW_TOKENS = 16, 4, 16  # sequences of a timed pass, of one that takes long, and tokens of a response
TIMES = 3  # the best counts, for others may be at work here
BRIEF, ENOUGH = 0.5, 5.0  # seconds of a pass of a few rows that takes more, and of all passes of a kind


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
    watch = Watch(tuning.device)
    with processes.apart():  # of several each times it for itself
        policy = Policy.open(base, tuning, trainable=True)
    opened = watch.seconds
    try:
        words = [
            i for i in range(3, policy.network.model.get_input_embeddings().num_embeddings) if i not in policy.stops
        ]
        rows = [tuple(words[(row + 7 * i) % len(words)] for i in range(prompt + reply)) for row in range(ROWS)]
        sequences = [(row[:prompt], row[prompt:]) for row in rows]

        def train(count: int) -> int:
            policy.logps(sequences[:count]).sum().sum().backward()
            return count * (prompt + reply)

        @torch.no_grad()
        def read(count: int) -> int:
            float(policy.logps(sequences[:count]).sum().sum())  # reading a number waits for the device
            return count * (prompt + reply)

        def draw(count: int) -> int:
            asked = [Prompt(str(i), (), row[:prompt]) for i, row in enumerate(rows[:count])]
            drawn = sample_rows(
                policy, asked, range(count), streams=range(count), max_new_tokens=min(reply, NEW_TOKENS), seed=0,
                temperature=1.0, top_p=1.0, progress=None,
            )  # fmt: skip
            return sum(len(sample.ids) for sample in drawn)

        trained, seen = _each(train, tuning.device), _each(read, tuning.device)
        return Pace(trained, seen, seen if tuning.sampler == "vllm" else _each(draw, tuning.device), opened)
    finally:
        policy.network.close()
        torch.set_num_threads(there)


class Watch:
    """Seconds since it was made, without those that a CPU gave to others.

    On a CPU all threads' time together, where that is less: on one that is idle it never is.
    """

    def __init__(self, device: str):
        self.on_cpu, self.began, self.used = device == "cpu", time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        passed, used = time.perf_counter() - self.began, time.process_time() - self.used
        return min(passed, used) if self.on_cpu else passed


def _each(work: Callable[[int], int], device: str) -> float:
    """Seconds for each token of some work on so many rows, the best of several times, after it was done once.

    A few rows tell enough of work that takes long; of what is brief most would be what comes with every pass.
    """
    began = time.perf_counter()
    work(FEW)
    rows = ROWS if time.perf_counter() - began < BRIEF else FEW
    found: list[float] = []
    while len(found) < TIMES and (not found or time.perf_counter() - began < ENOUGH):
        watch = Watch(device)
        tokens = work(rows)
        found.append(watch.seconds / max(tokens, 1))
    return min(found)
