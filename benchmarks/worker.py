"""The training of a packed request's cell: a child of the engine's, and a task on Ray."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any

from ..errors import Stopped
from ..runtime import launch, processes
from ..runtime.quiet import hearing, quiet
from .definition.spec import BenchmarkSpec
from .engine import reason
from .harness import Harness
from .request import Request


def train_packed(packed: str) -> None:
    """Train the cell of a packed request; its stage lies in the store then."""
    quiet()
    values = json.loads(packed)
    label, seed = values.pop("cell")
    values["device"] = launch.start(values["device"]) if processes.size() == 1 else values["device"]
    with processes.together():
        _harness(json.dumps(values)).make((label, seed))


@lru_cache(maxsize=1)
def _harness(packed: str) -> Harness:
    """The harness of a packed request, for one cell after another."""
    values = json.loads(packed)
    root, spec = Path(values.pop("root")), BenchmarkSpec.model_validate(values.pop("spec"))
    values["methods"] = tuple(values["methods"])
    return Harness(Request(spec=spec, root=root, say=lambda line: None, **values))


def train_or_tell(packed: str) -> str | None:
    """Train a cell; returns why it failed. Only a dead worker is an error to Ray, and tried again."""
    return _reason(lambda: train_packed(packed))


def _reason(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except (Exception, SystemExit) as error:
        return reason(error)
    return None


def main(parent: int) -> None:
    """The child of `train_apart`: a packed request on stdin, the path of the outcome as the argument."""
    end_with(parent)
    Path(sys.argv[1]).write_text(json.dumps(_outcome(sys.stdin.read())))


def serve(parent: int) -> None:
    """A child of `train_side_by_side`: a packed request a line on stdin, an outcome a line on what was stdout."""
    end_with(parent)
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "w") as outcomes:
        os.dup2(2, 1)  # whatever else is printed goes elsewhere
        while packed := sys.stdin.readline():
            said = _outcome(packed)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            print(json.dumps(said), file=outcomes, flush=True)


def end_with(parent: int, every: float = 1.0) -> None:
    """Save and end as at Ctrl-C once the parent, which waits for this process, is gone; every: seconds to a look."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=look, daemon=True).start()


def _outcome(packed: str) -> dict[str, Any]:
    """Train a cell, and say how it ended; Ctrl-C before there is anything to save ends the process."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with hearing():
            failed = _reason(lambda: train_packed(packed))
    except Stopped as stopped:
        return {"stopped": str(stopped)}
    except KeyboardInterrupt:
        sys.exit(130)
    return {"failed": failed} if failed else {"done": True}
