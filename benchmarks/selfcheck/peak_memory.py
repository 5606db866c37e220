"""The memory that a piece of work takes at its peak, beyond what was in use before."""

import gc
import threading
from types import TracebackType

from ...runtime.memory import give_back, resident

INTERVAL = 0.005  # seconds between two looks


class PeakMemory:
    """A context; `bytes` is afterwards the highest resident memory seen within it, less that at its beginning."""

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        give_back()
        self._start = self._highest = resident()
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
            self._highest = max(self._highest, resident())
            if self._done.wait(INTERVAL):
                return
