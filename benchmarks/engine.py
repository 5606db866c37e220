"""Where a cell is trained: in this process, in one of its own, or on a Ray cluster.

A cell that is trained elsewhere leaves its stage in the store, where the run finds it, so results are the same. What
crosses over is the request as JSON; a worker finds the shared stages on disk.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..methods.base import TrainingError
from ..results.records import InputError, Stopped
from .spec import BenchmarkSpec
from .terminal import hearing, quiet

if TYPE_CHECKING:
    from .harness import Request

Cell = tuple[str, int]  # label of the row, and seed
Engine = Literal["local", "ray"]
# How a cell's process begins: Ctrl-C ends it without a word until it can say how far it came. It is started deaf, for
# while Python itself begins it would say where it was interrupted.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    f"signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT]); from {__name__} import main; main()"
)
# fields of a request that are JSON as they are
PLAIN = ("methods", "seeds", "device", "gate", "checkpoint_every", "trust_remote_code")


def pack(request: "Request", cell: Cell) -> str:
    """A request and one of its cells as JSON."""
    values = {name: getattr(request, name) for name in PLAIN}
    root, spec = str(request.root.resolve()), request.spec.model_dump(mode="json")
    return json.dumps({**values, "root": root, "spec": spec, "cell": cell})


def train_packed(packed: str) -> None:
    """Train the cell of a packed request; its stage lies in the store then."""
    from .harness import Harness, Request

    quiet()
    values = json.loads(packed)
    label, seed = values.pop("cell")
    root, spec = Path(values.pop("root")), BenchmarkSpec.model_validate(values.pop("spec"))
    values["methods"] = tuple(values["methods"])
    harness = Harness(Request(spec=spec, root=root, say=lambda line: None, **values))
    harness.train_shared()
    harness.train(label, seed)


def train_apart(request: "Request", cell: Cell, limit: float | None) -> None:
    """Train a cell in a process of its own, for whatever it does there stays there.

    limit: seconds it may take. TrainingError where it fails, takes longer, or its process ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "outcome.json"
        with _deaf():
            process = subprocess.Popen([sys.executable, "-c", START, str(outcome)], stdin=subprocess.PIPE, text=True)
        pressed = False
        try:
            process.communicate(pack(request, cell), timeout=limit)
        except subprocess.TimeoutExpired:
            raise TrainingError(
                f"it took longer than {limit:g} s and was stopped; allow more with --cell-timeout, or mend the method"
            ) from None
        except KeyboardInterrupt:
            pressed = True
            process.wait()  # it got Ctrl-C too, and saves
        finally:
            process.kill()
            process.wait()
        said = json.loads(outcome.read_text()) if outcome.exists() else {}
    if said.get("stopped"):
        raise Stopped(said["stopped"])
    if pressed or process.returncode in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if said.get("failed"):
        raise TrainingError(said["failed"])
    if not said.get("done"):
        code = process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended by itself with exit code {code}"
        raise TrainingError(f"its process {how} before the training was done; mend the method")


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C waits until this ends; a child that is started within is deaf and hears it later."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def train_on_ray(
    request: "Request", cells: Iterable[Cell], resources: dict[str, float], address: str | None
) -> Iterator[tuple[Cell, str | None]]:
    """Train cells on a Ray cluster that sees the same files; yields each as it ends, with the reason if it failed.

    resources: num_cpus and num_gpus of a cell. A cell whose worker dies is begun again, from its last checkpoint.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray, which is not installed; pip install 'alignment-bench[ray]'") from None
    threads = str(max(1, int(resources["num_cpus"])))
    quiet = {"log_to_driver": False, "include_dashboard": False, "logging_level": "ERROR"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # where Ray says what it has to say
        ray.init(address=address, **(quiet if address is None else {}))
        stack.callback(ray.shutdown)
        remote = ray.remote(_on_ray).options(
            **resources, max_retries=3, runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}}
        )
        waiting = {remote.remote(pack(request, cell)): cell for cell in cells}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(ended)
            try:
                yield cell, ray.get(ended)
            except ray.exceptions.RayError as error:
                yield cell, f"its worker died: {str(error).strip().splitlines()[0]}"


def _on_ray(packed: str) -> str | None:
    """Train a cell; returns why it failed. Only a dead worker is an error to Ray, and tried again."""
    return _reason(lambda: train_packed(packed))


def _reason(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except (Exception, SystemExit) as error:
        return reason(error)
    return None


def reason(error: BaseException) -> str:
    """Why a cell failed, in a line."""
    kind = "" if isinstance(error, TrainingError) else f"{type(error).__name__}: "
    return (f"{kind}{error}".strip().splitlines() or [kind])[0].rstrip(": ")


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
