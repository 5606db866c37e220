"""The training of a packed request's cell: the child of `train_apart`, and a task on Ray."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import Stopped
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
    root, spec = Path(values.pop("root")), BenchmarkSpec.model_validate(values.pop("spec"))
    values["methods"] = tuple(values["methods"])
    harness = Harness(Request(spec=spec, root=root, say=lambda line: None, **values))
    harness.make((label, seed))


def train_or_tell(packed: str) -> str | None:
    """Train a cell; returns why it failed. Only a dead worker is an error to Ray, and tried again."""
    return _reason(lambda: train_packed(packed))


def _reason(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except (Exception, SystemExit) as error:
        return reason(error)
    return None


def main() -> None:
    """The child of `train_apart`: a packed request on stdin, the path of the outcome as the argument."""
    said: dict[str, Any] = {"done": True}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with hearing():
            if failed := _reason(lambda: train_packed(sys.stdin.read())):
                said = {"failed": failed}
    except Stopped as stopped:
        said = {"stopped": str(stopped)}
    except KeyboardInterrupt:
        sys.exit(130)
    Path(sys.argv[1]).write_text(json.dumps(said))
