"""The place where a cell is trained: this process, one of its own, one of several side by side, or a Ray cluster.

A cell that is trained elsewhere leaves its stage in the store, where the run finds it, so results are the same. What
crosses over is the request as JSON; a worker finds the shared stages on disk.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from ..errors import InputError, Stopped, TrainingError
from .request import Cell, Request, pack

INTERRUPTED = (-signal.SIGINT, 130)  # exit codes of a process that Ctrl-C ended
WORKER = f"{__package__}.worker"  # by name: it opens a harness, which stands above this module

# How a cell's process begins: Ctrl-C ends it without a word until it can say how far it came. It is started deaf, for
# while Python itself begins it would say where it was interrupted.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    f"signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT]); from {WORKER} import "
)


def train_apart(request: Request, cell: Cell, limit: float | None, threads: int | None = None) -> None:
    """Train a cell in a process of its own, for whatever it does there stays there.

    limit: seconds it may take. threads: those that train it on a CPU. TrainingError where it fails, takes longer, or
    its process ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "outcome.json"
        with _deaf():
            command = [sys.executable, "-c", f"{START}main; main({os.getpid()})", str(outcome)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        pressed = False
        try:
            process.communicate(pack(request, cell, threads), timeout=limit)
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
        said = json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else {}
    if said.get("stopped"):
        raise Stopped(said["stopped"])
    if pressed or process.returncode in INTERRUPTED:
        raise KeyboardInterrupt
    if said.get("failed"):
        raise TrainingError(said["failed"])
    if not said.get("done"):
        raise TrainingError(f"{_ended(process)}; fix the method")


def _ended(process: subprocess.Popen, name: str = "its process") -> str:
    """The end of a process that told of none."""
    code = process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended by itself with exit code {code}"
    return f"{name} {how} before the training was done"


def train_side_by_side(
    request: Request,
    cells: Collection[Cell],
    at_once: int,
    threads: int,
    alone: Callable[[Cell], bool],
    begun: Callable[[Cell], None],
) -> Iterator[tuple[Cell, str | None]]:
    """Train cells in `at_once` processes; yields each as it ends, with the reason if it failed.

    threads: of each process. alone: true for a cell that is to have a process of its own. begun: told of each cell as
    its training begins. Where one is stopped by Ctrl-C so are all, and this ends with Stopped or KeyboardInterrupt.
    """
    waiting: SimpleQueue[Cell] = SimpleQueue()
    ended: SimpleQueue[tuple[Cell, str | None | BaseException]] = SimpleQueue()
    pressed = Event()
    for cell in cells:
        waiting.put(cell)

    def work() -> None:
        with _Trainer(threads) as trainer, contextlib.suppress(Empty):
            while not pressed.is_set():
                cell = waiting.get_nowait()
                outcome: str | None | BaseException = None
                try:
                    begun(cell)
                    train = train_apart if alone(cell) else trainer.train
                    train(request, cell, request.cell_timeout, threads)
                except TrainingError as error:
                    outcome = str(error)
                except BaseException as error:  # noqa: BLE001 Ctrl-C, or our own mistake: told where cells are waited for
                    pressed.set()
                    outcome = error
                ended.put((cell, outcome))

    workers = [Thread(target=work, daemon=True) for _ in range(min(at_once, len(cells)))]
    try:
        for worker in workers:
            worker.start()
        for _ in cells:
            cell, outcome = ended.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield cell, outcome
    except BaseException as error:
        pressed.set()
        for worker in workers:
            worker.join()  # each process got Ctrl-C too, and saves
        others = [outcome for _, outcome in _all(ended) if isinstance(outcome, Stopped)]
        raise (others[0] if others and isinstance(error, KeyboardInterrupt) else error) from None
    for worker in workers:
        worker.join()


def _all(queue: SimpleQueue) -> Iterator[Any]:
    with contextlib.suppress(Empty):
        while True:
            yield queue.get_nowait()


class _Trainer:
    """A process that trains one cell after another, and one in its place where it ends."""

    def __init__(self, threads: int):
        self.threads = threads
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "_Trainer":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process:
            self.process.kill()
            self._end(self.process)

    def train(self, request: Request, cell: Cell, limit: float | None, threads: int) -> None:
        """Train a cell, or raise TrainingError; `limit` is for cells that have a process of their own."""
        process = self.process or self._begin()
        said: dict[str, Any] = {}
        if process.stdin and process.stdout:
            with contextlib.suppress(BrokenPipeError):
                print(pack(request, cell, threads), file=process.stdin, flush=True)
                said = json.loads(process.stdout.readline() or "{}")
        if said.get("stopped"):
            raise Stopped(said["stopped"])
        if said.get("failed"):
            raise TrainingError(said["failed"])
        if not said.get("done"):
            self._end(process)
            if process.returncode in INTERRUPTED:
                raise KeyboardInterrupt
            raise TrainingError(f"{_ended(process)}; where memory is short, train one cell at a time with --at-once 1")

    def _begin(self) -> subprocess.Popen:
        # bars of several would be drawn over each other
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "TQDM_DISABLE": "1"}
        command, pipe = [sys.executable, "-c", f"{START}serve; serve({os.getpid()})"], subprocess.PIPE
        with _deaf():
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        return self.process

    def _end(self, process: subprocess.Popen) -> None:
        self.process = None
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C waits until this ends; a child that is started within is deaf and hears it later."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster or to one that is started here."""
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray, which is not installed; pip install 'alignment-bench[ray]'") from None
    quiet = {"log_to_driver": False, "include_dashboard": False, "logging_level": "ERROR"}
    with contextlib.redirect_stdout(sys.stderr):  # where Ray says what it has to say
        ray.init(address=address, **(quiet if address is None else {}))
        try:
            yield ray
        finally:
            ray.shutdown()


def check_cluster(request: Request, device: str) -> None:
    """InputError where a cluster has GPUs and this machine, which makes all but the cells, found none for itself."""
    if request.engine != "ray" or request.ray_address is None or request.device != "auto" or device != "cpu":
        return
    with _cluster(request.ray_address) as ray:
        gpus = ray.cluster_resources().get("GPU", 0)
    if gpus:
        raise InputError(
            f"the Ray cluster has {gpus:g} GPUs and this machine, which trains SFT and reward models and answers, has "
            f"none; start the command on one that has (ray job submit --entrypoint-num-gpus 1 -- bench ...), or give "
            f"--device cpu to use none"
        )


def train_on_ray(
    request: Request, cells: Iterable[Cell], resources: Mapping[str, float], address: str | None
) -> Iterator[tuple[Cell, str | None]]:
    """Train cells on a Ray cluster that sees the same files; yields each as it ends, with the reason if it failed.

    resources: num_cpus and num_gpus of a cell. A cell whose worker dies is begun again, from its last checkpoint.
    """
    threads = str(max(1, int(resources["num_cpus"])))
    with _cluster(address) as ray:
        remote = ray.remote(_on_ray).options(
            **resources, max_retries=3, runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}}
        )
        count = max(1, int(resources["num_gpus"]))
        waiting = {remote.remote(pack(request, cell, int(threads)), count): cell for cell in cells}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(ended)
            try:
                yield cell, ray.get(ended)
            except ray.exceptions.RayError as error:
                yield cell, f"its worker died: {str(error).strip().splitlines()[0]}"


def _on_ray(packed: str, processes: int) -> str | None:
    """Train a cell; returns why it failed. Only a dead worker is an error to Ray, and tried again."""
    if processes > 1:
        return train_together(packed, processes)
    return importlib.import_module(WORKER).train_or_tell(packed)


def train_together(packed: str, count: int) -> str | None:
    """Train the cell of a packed request in processes of this machine that divide its rows; returns why it failed.

    Each has the GPU of its number among those that are visible. Where one ends without a word, so do the others, and
    the reason is its last error.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    counts = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared = {**os.environ, **counts, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [Path(folder) / f"{rank}.json" for rank in range(count)]
        errors = [Path(folder) / f"{rank}.txt" for rank in range(count)]
        started = [
            _of_several(outcomes[rank], errors[rank], {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]
        try:
            for process in started:
                with contextlib.suppress(BrokenPipeError):  # one that is dead already is told of below
                    if process.stdin:
                        process.stdin.write(packed)
                        process.stdin.close()
            while None in (codes := [process.poll() for process in started]) and not any(codes):
                time.sleep(0.2)
        finally:
            for process in started:
                process.kill()
                process.wait()
        first = next((rank for rank, code in enumerate(codes) if code), 0)
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in errors]
        print(*texts, sep="", end="", file=sys.stderr)
        said = json.loads(outcomes[0].read_text(encoding="utf-8")) if outcomes[0].exists() else {}
    if said.get("done"):
        return None
    last = (texts[first].strip().splitlines() or ["it said no error"])[-1].strip()
    return str(said.get("failed") or f"{_ended(started[first], f'process {first + 1} of {count}')}: {last}")


def _of_several(outcome: Path, errors: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """A process that waits for a packed request on stdin; errors: the file of its stderr."""
    command = [sys.executable, "-c", f"{START}main; main({os.getpid()})", str(outcome)]
    with errors.open("w") as stderr:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr, text=True, env=environment)


def reason(error: BaseException) -> str:
    """A cell's failure, in a line."""
    kind = "" if isinstance(error, TrainingError) else f"{type(error).__name__}: "
    return (f"{kind}{error}".strip().splitlines() or [kind])[0].rstrip(": ")
