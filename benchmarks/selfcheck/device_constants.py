"""A device's constants (`runtime/device.py`), measured: `bench doctor --measure`.

Seconds of a pass that computes next to nothing, of packed attention in one block and in many, and in longer ones,
operations a second of matrix products, and bytes a second of copying.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from ...errors import InputError
from ...models.packed_attention import Row, attend, pack
from ...results.integrity import write_json
from ...runtime import device as devices
from ...runtime.device import kind_of

LAYERS = 24  # of the pass, as many as a model of 0.5B has
TRIES = 10
ROWS = 8  # of packed attention, in one block or in one each


def seconds_of(work: Callable[[], Any], device: str, times: int = 1) -> float:
    """Seconds that a piece of work takes: the least of some tries, for what else runs on a machine only adds.

    times: that it is done in a try.
    """
    cuda, taken = kind_of(device) == "cuda", []
    for _ in range(TRIES):
        if cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(times):
            work()
        if cuda:
            torch.cuda.synchronize(device)
        taken.append((time.perf_counter() - started) / times)
    return min(taken)


@torch.no_grad()
def measure(device: str) -> dict[str, float]:
    """Seconds of a pass's start, of a block's start and of a pair in it; operations and copied bytes a second."""
    cuda = kind_of(device) == "cuda"
    numbers, size, held = (torch.bfloat16, 4096, 2**28) if cuda else (torch.float32, 1024, 2**26)
    config = LlamaConfig(
        vocab_size=16, hidden_size=64, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=2
    )
    model = LlamaModel(config).to(device)
    ids = torch.zeros((1, 8), dtype=torch.long, device=device)
    with torch.autocast(kind_of(device), torch.bfloat16, enabled=cuda):
        start = seconds_of(lambda: model(ids, use_cache=False), device)
    a, b = (torch.randn(size, size, device=device, dtype=numbers) for _ in range(2))
    product = seconds_of(lambda: a @ b, device)
    of, to = (torch.empty(held, dtype=torch.uint8, device=device) for _ in range(2))
    copied = seconds_of(lambda: to.copy_(of), device)

    block, pair = _blocks(device, numbers, long=1024 if cuda else 128)
    return {
        "pass_start_seconds": start,
        "block_start_seconds": block,
        "pair_seconds": pair,
        "operations_a_second": 2 * size**3 / product,
        "bytes_a_second": 2 * held / copied,
    }


def _blocks(device: str, numbers: torch.dtype, long: int) -> tuple[float, float]:
    """Seconds that starting a block takes in a layer's packed attention, and a pair of a query and a key in it.

    The same rows in one block and in one each differ by so many starts, less the pairs of the padding; blocks of rows
    twice as long differ by pairs alone.
    """

    def seconds(lengths: Sequence[int], *, apart: bool = False) -> float:
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        rows = [Row(range(0), range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
        packing = pack(rows, device, cut=apart, start=0)
        states = torch.randn(1, 8, ends[-1], 64, device=device, dtype=numbers)
        return seconds_of(lambda: attend(layer, states, states, states, None, packing), device, times=5)

    layer = nn.Module()
    half = long // 2
    pair = max(1e-12, (seconds([long] * ROWS) - seconds([half] * ROWS)) / (ROWS * (long**2 - half**2)))
    lengths = range(65 - ROWS, 65)  # all different, or those that are equal would stay in one block
    padding = ROWS * 64**2 - sum(length**2 for length in lengths)
    more = seconds(lengths, apart=True) - seconds(lengths)
    return max(1e-12, (more + pair * padding) / (ROWS - 1)), pair


def fields(figures: dict[str, float]) -> dict[str, float]:
    """The constants that follow, to two digits: what is measured again by chance a little otherwise cuts alike.

    rows: beyond that many responses a step at 2 bytes a weight is bound by arithmetic, not by reading weights; the next
    power of two.
    """
    rate = figures["operations_a_second"]
    return {
        "pass_start": float(f"{figures['pass_start_seconds'] * rate:.1e}"),
        "block_start": max(1, int(float(f"{figures['block_start_seconds'] / figures['pair_seconds']:.1e}"))),
        "rows": 2 ** math.ceil(math.log2(max(1.0, rate / figures["bytes_a_second"]))),
    }


def keep(device: str) -> dict[str, Any]:
    """Measure a GPU and keep what came out beside that of others; returns it."""
    figures = measure(device)
    found = {**fields(figures), "figures": figures, "date": datetime.now(UTC).date().isoformat()}
    path = devices.measured_file()
    try:
        devices.measured_of(devices.gpu_name(device))
        others = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except InputError:  # a file that is damaged
        others = {}
    write_json(path, {**others, devices.gpu_name(device): found})
    devices.measured_of.cache_clear()
    return found
