"""How much memory a piece of work takes at its peak, beyond what was in use before."""

import contextlib
import ctypes
import gc
import threading
from types import TracebackType

import psutil

INTERVAL = 0.005  # seconds between two looks


class PeakMemory:
    """A context; `bytes` is afterwards the highest resident memory seen within it, less that at its beginning."""

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # where it is not the C library of GNU
            ctypes.CDLL(None).malloc_trim(0)  # or what earlier work has freed would hide this one's growth
        self._start = self._highest = self._now()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._watch.join()
        self.bytes = self._highest - self._start

    def _look(self) -> None:
        while True:
            self._highest = max(self._highest, self._now())
            if self._done.wait(INTERVAL):
                return

    @staticmethod
    def _now() -> int:
        return psutil.Process().memory_info().rss
