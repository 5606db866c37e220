"""Memory of this process: what it holds, the most that it held, and what happens to what it frees."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import psutil

from .device import kind_of

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names for them, of <malloc.h>
LARGEST, LARGEST_BEFORE_2_35 = 2**30, 2**25  # thresholds in bytes that glibc takes


def resident() -> int:
    """Bytes that are held now."""
    return psutil.Process().memory_info().rss


def reset_peak() -> None:
    """Measure the peak from now on, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes that were held at most since `reset_peak`, or ever where the system cannot tell."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def free_on(device: str) -> int | None:
    """Bytes that a GPU of CUDA can still give this process; None for another device."""
    if kind_of(device) != "cuda":
        return None
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def total_on(device: str) -> int | None:
    """Bytes that a GPU of CUDA has; None for another device."""
    if kind_of(device) != "cuda":
        return None
    import torch

    return int(torch.cuda.mem_get_info(device)[1])


def give_back() -> None:
    """Let the system have what was freed; kept for reuse, it would hide the growth of what comes next."""
    with contextlib.suppress(OSError, AttributeError):  # where it is not the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed() -> None:
    """Let glibc keep what is freed for the next tensors, from now on and until `give_back`.

    Else it takes each tensor of some size from the system and gives it back at once, and the system hands the memory
    out anew page by page, each filled with zeros: several percent of a training. With another C library nothing
    happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if libc.mallopt(MMAP_THRESHOLD, LARGEST) or libc.mallopt(MMAP_THRESHOLD, LARGEST_BEFORE_2_35):
            libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
