"""Quiet libraries in a process, and its handling of Ctrl-C."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def quiet() -> None:
    """Keep libraries from writing between our lines."""
    import logging as standard_logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # where it is installed accelerate imports it as a model is saved, and its logger writes to stdout
    standard_logging.getLogger("DeepSpeed").disabled = True
    standard_logging.getLogger("bitsandbytes").setLevel(standard_logging.ERROR)  # kernels for CPUs that it has not
    warnings.filterwarnings("ignore", module="(torch|peft|transformers|huggingface_hub).*")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def hearing() -> Iterator[None]:
    """Ctrl-C counts wherever it comes; in a finalizer (`__del__`, a weak reference's callback) Python but tells it."""
    former = sys.unraisablehook

    def press_again(lost: Any) -> None:
        if lost.exc_type is KeyboardInterrupt:
            # a signal, which ends what the main thread waits for; seconds in which the finalizer ends
            press = (threading.main_thread().ident, signal.SIGINT)
            threading.Timer(0.01, signal.pthread_kill, press).start()
        else:
            former(lost)

    sys.unraisablehook = press_again
    try:
        yield
    finally:
        sys.unraisablehook = former
