"""Groups of rows for one pass through a model: so that all passes cost least, and smaller when memory runs out."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from ..runtime.device import constants


def start_tokens(weights: int, device: str) -> float:
    """Tokens (2 operations a weight each) that a model could have gone through while a pass is started."""
    return constants(device).pass_start / (2 * weights)


def micro_batches(lengths: Sequence[int], tokens: int, overhead: float, *, padded: bool = True) -> list[list[int]]:
    """Indices of rows that go through the model together, so that all passes cost least.

    A pass costs its size and an overhead, both in tokens. Its size is that of its rows, padded to the longest or not,
    and stays within `tokens` unless it is a single row.
    """

    if not padded and sum(lengths) <= tokens:  # one pass holds all and pads nothing, so no cut is cheaper
        return [sorted(range(len(lengths)), key=lambda i: lengths[i])] if lengths else []

    def cost(rows: int, longest: int, total: int) -> float:
        size = rows * longest if padded else total
        return size + overhead if size <= tokens or rows == 1 else math.inf

    return cheapest_groups(lengths, cost)


def cheapest_groups(lengths: Sequence[int], cost: Callable[[int, int, int], float]) -> list[list[int]]:
    """Indices of rows, sorted by length and cut at the best places (dynamic programming).

    cost(rows, the longest one's length, their total length): of one group; once infinite it stays so for more rows.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    until = [0, *accumulate(lengths[i] for i in order)]
    best: list[tuple[float, int]] = [(0.0, 0)]  # by how many rows are placed: the least cost, and where the last begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        options = []
        for start in range(end - 1, -1, -1):
            group = cost(end - start, longest, until[end] - until[start])
            if math.isinf(group):
                break
            options.append((best[start][0] + group, start))
        best.append(min(options))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


class OutOfMemory(Exception):
    """The memory does not hold one row: one sentence with what to do."""


def halved(size: int, error: Exception, device: str) -> int:
    """Half of the size that went through at once when memory ran out. Any other error is raised again.

    OutOfMemory where the size was 1: a single row at a time was too much already.
    """
    if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)):
        raise error
    if size == 1:
        raise OutOfMemory(
            "out of memory with one row at a time: shorten the rows, train LoRA adapters (lora_rank), or take a "
            "smaller model or larger machine"
        ) from None
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return size // 2
