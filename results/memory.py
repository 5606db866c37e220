"""Memory of this process: what it holds, and the most that it held."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import psutil


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
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def give_back() -> None:
    """Let the system have what was freed; kept for reuse, it would hide the growth of what comes next."""
    with contextlib.suppress(OSError, AttributeError):  # where it is not the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)
