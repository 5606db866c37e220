"""Memory that tensors give back, on a CPU."""

import contextlib
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names for them, of <malloc.h>


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next tensors, from now on and in the whole process.

    Else it takes each tensor of some size from the system and gives it back at once, and the system hands the memory
    out anew page by page, each filled with zeros: a few percent of a training. Nothing happens with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 2**30)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
