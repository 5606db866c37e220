"""Devices: their names, and how much they do at once; without torch, whose import takes seconds."""

import json
import os
import platform
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError

MICRO_TOKENS = 8192  # most tokens of a pass, padding included, where nobody says otherwise; of all devices


@dataclass(frozen=True)
class Constants:
    """How much a kind of device does at once; results depend on it by rounding alone."""

    pass_start: float
    """Operations in the time that starting a pass takes."""
    pass_tokens: int
    """Tokens with which a packed pass is large enough, if they take long enough beside its start."""
    pass_starts: int
    """Times that a pass takes as long as its start, and is then long enough."""
    block_start: int
    """Pairs of a query and a key in the time that starting a block of a packed pass's attention takes."""
    head_rows: int
    """States that go through the vocabulary's head at once, at least."""
    head_numbers: int
    """Logits that are made at once for targets' log-probs, where that is more than those of `head_rows`."""
    vocabulary_numbers: int
    """Logits of which an entropy and a KL are taken at once; a few times as much lies beside them."""
    rows: int
    """Responses that are sampled at once, at most; on CUDA as many of them as the free memory holds."""
    steps: int
    """Tokens that are drawn to each row before a look at them, for which the CPU waits."""
    mask_columns: int
    """Rows of masks begin at multiples of so many numbers."""
    bucket: int
    """Bytes of gradients that are sent to other processes at once."""
    training_share: float
    """Of the free memory, what a training may take; the rest goes to fragments and the kernels' own."""
    sampling_share: float
    """Of the free memory, what sampled rows may take."""
    bf16_width: int
    """Hidden size from which on a model's products in bf16 take no longer than in fp32, given units for them."""


# Measured on two CPU cores: a start of 3 ms at 1e11 operations a second; passes of 1,300 and 2,600 tokens, with 7M and
# 135M weights, that were no faster than smaller ones; blocks of attention; more than 64 rows that were no faster. By
# reckoning: 2**20 logits in fp32 are 4 MiB, which a processor's caches hold; 2**26 are 256 MiB. The bucket is that of
# torch's DistributedDataParallel (bucket_cap_mb). The width: seconds of a DPO training in bf16 over those in fp32, on
# one core of an Intel Xeon with AMX, were 2.2, 1.4, 1.2, 1.4 and 1.0 (1.1 with LoRA) at hidden sizes 96, 192, 288, 384
# and 576.
_CPU = Constants(
    pass_start=3e8,
    pass_tokens=1024,
    pass_starts=32,
    block_start=5_000,
    head_rows=128,
    head_numbers=2**20,
    vocabulary_numbers=2**26,
    rows=64,
    steps=1,
    mask_columns=8,
    bucket=25 * 2**20,
    training_share=0.9,
    sampling_share=0.8,
    bf16_width=576,
)

# By reckoning, until `bench doctor --measure` has put what it measured on the GPU in the places of `MEASURED`: a start
# of 7 ms at 1e14 operations a second; 512 states, for a GPU reads the whole head for each piece and would wait for that
# with fewer. Rows: beyond 295 a step takes as long for each as with fewer, for it is bound by arithmetic and no more by
# reading weights: 989e12 operations a second over 3.35e12 bytes a second at 2 bytes a weight (NVIDIA's data sheet of
# the H100 SXM); the next power of two. CUDA's attention copies a mask in each layer whose rows do not begin at
# multiples of 8. What is not said here is as on a CPU.
_CUDA = replace(_CPU, pass_start=7e11, block_start=50_000, head_rows=512, rows=512, steps=8, bf16_width=0)

CONSTANTS = {
    "cpu": _CPU,
    "cuda": _CUDA,
    "mps": replace(_CUDA, rows=_CPU.rows),  # what is free there is not known
    "meta": _CUDA,  # tensors without data, on which a GPU's passes are counted
}
KINDS = ("cpu", "cuda", "mps")
MEASURED = ("pass_start", "block_start", "rows")
"""Those that `bench doctor --measure` measures once a GPU."""


def constants(device: str) -> Constants:
    """Those of the device's kind; of a GPU what was measured on it in their places."""
    found = CONSTANTS[kind_of(device)]
    if (name := gpu_name(device)) and (measured := measured_of(name)):
        return replace(found, **{field: measured[field] for field in MEASURED})
    return found


def gpu_name(device: str) -> str:
    """Its vendor's name for a CUDA device; empty for another, where there is none, or nobody has imported torch yet."""
    torch: Any = sys.modules.get("torch") if kind_of(device) == "cuda" else None
    return str(torch.cuda.get_device_name(device)) if torch and torch.cuda.is_available() else ""


@lru_cache
def measured_of(name: str) -> dict[str, Any] | None:
    """What was measured on GPUs of this name, its date among it; InputError for a file that says no such thing."""
    if not (path := measured_file()).exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(name)
        if found is not None and not all(0 < float(found[field]) < float("inf") for field in MEASURED):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not what bench doctor --measure writes; remove it, and measure again") from None
    return found


def measured_file() -> Path:
    """The file with what was measured on GPUs, by their names; of this account on this machine."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "alignment-bench" / "gpus.json"


def kind_of(device: str) -> str:
    """A device without its number: cpu, cuda, mps."""
    return device.partition(":")[0]


def processor() -> str:
    """The processor's name, as Linux has it, else as Python does, which often knows its architecture alone."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8", errors="replace").splitlines() if cpus.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "") or platform.processor() or platform.machine()


def keep_order() -> None:
    """Have torch take sums in one order each time, until the process ends; before a GPU's first matrix product.

    What it cannot is done as ever, with a warning. https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True, warn_only=True)


def check_device(device: str) -> str:
    """The device as it is given; InputError for one that no machine has."""
    kind, colon, number = device.partition(":")
    if device != "auto" and (kind not in KINDS or colon and not number.isdecimal()):
        raise InputError(f"--device {device} is not known; give cpu, cuda, cuda:N, mps or auto")
    return device
