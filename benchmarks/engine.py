"""The place where a cell is trained: this process, one of its own, or a Ray cluster.

A cell that is trained elsewhere leaves its stage in the store, where the run finds it, so results are the same. What
crosses over is the request as JSON; a worker finds the shared stages on disk.
"""

import contextlib
import importlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import InputError, Stopped, TrainingError
from .request import Cell, Request, pack

WORKER = f"{__package__}.worker"  # by name: it opens a harness, which stands above this module

# How a cell's process begins: Ctrl-C ends it without a word until it can say how far it came. It is started deaf, for
# while Python itself begins it would say where it was interrupted.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    f"signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT]); from {WORKER} import main; main()"
)


def train_apart(request: Request, cell: Cell, limit: float | None) -> None:
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
                f"it took longer than {limit:g} s and was stopped; allow more with --cell-timeout, or fix the method"
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
        raise TrainingError(f"its process {how} before the training was done; fix the method")


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C waits until this ends; a child that is started within is deaf and hears it later."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def train_on_ray(
    request: Request, cells: Iterable[Cell], resources: Mapping[str, float], address: str | None
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
    return importlib.import_module(WORKER).train_or_tell(packed)


def reason(error: BaseException) -> str:
    """A cell's failure, in a line."""
    kind = "" if isinstance(error, TrainingError) else f"{type(error).__name__}: "
    return (f"{kind}{error}".strip().splitlines() or [kind])[0].rstrip(": ")
