"""Work in forks of this process, killed at a call of any function, or told to end with what a person would see."""

import contextlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest import mock

import optuna  # noqa: F401  (imported here once, or every fork would do it)
import peft  # noqa: F401
import scipy.stats.qmc  # noqa: F401
import torch
import torch._dynamo  # noqa: F401
from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

from alignment_bench.benchmarks.cli.main import main
from alignment_bench.errors import InputError
from alignment_bench.runtime.quiet import quiet

quiet()  # what some packages say as they are imported is not for stdout
for package in ("deepspeed", "lm_eval.models.huggingface", "lm_eval.tasks", "torch.utils.tensorboard"):
    with contextlib.suppress(ImportError):  # accelerate imports the first, where it is installed, as a model is saved
        __import__(package)

SENTENCE, TRACEBACK = 2, 70  # exit codes of what ends with an InputError, and with any other error
Work = Callable[[], object]


def start(work: Work, kill_at: int | None = None, threads: int = 1) -> tuple[int, int]:
    """Begin the work in a fork, which kills itself at a call of any function; its process id, and where to read."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        return child, reading
    os.close(reading)
    code, calls = TRACEBACK, 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        torch.set_num_threads(threads)
        sys.setprofile(count)
        work()
        sys.setprofile(None)
        os.write(writing, str(calls).encode())
        code = 0
    except BaseException as error:
        sys.setprofile(None)
        code = SENTENCE if isinstance(error, InputError) else TRACEBACK
        said = str(error) if code == SENTENCE else traceback.format_exc()
        os.write(writing, said[-4000:].encode(errors="replace"))
    finally:
        os._exit(code)


def end(child: int, reading: int) -> tuple[int, str]:
    """Wait for a fork; its exit code, negative where a signal ended it, and its calls or what it said."""
    with os.fdopen(reading, encoding="utf-8") as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def outcome(work: Work, kill_at: int | None = None, threads: int = 1) -> tuple[int, str]:
    """Do the work in a fork to its end; as `end`."""
    return end(*start(work, kill_at, threads))


def in_child(work: Work, kill_at: int | None = None, threads: int = 1) -> int | None:
    """Do the work in a fork, which kills itself at a call of any function; returns the calls, None if it was killed."""
    code, said = outcome(work, kill_at, threads)
    if code == -signal.SIGKILL:
        return None
    assert code == 0, f"the child failed: {said}"
    return int(said)


def killed_until_it_ends(work: Work, calls: int, rng: Random) -> int:
    """Do the work again and again, each time killed at a random call among so many, until it ends; the kills.

    A quarter of the times it is not killed: most of some works is done anew at each start, and they would hardly end.
    """
    kills = 0
    while in_child(work, rng.randrange(calls * 4 // 3)) is None:
        kills += 1
    return kills


def bench(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    """Give a `bench` command in this process, which is a fork; its exit code, and what it printed on both streams."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["bench", *map(str, arguments)]),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def beside(work: Work):
    """A fork that does this while the block runs, and is killed at its end."""
    child, reading = start(work)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


def wait_for(path: Path, seconds: float = 60.0) -> str:
    """The contents of a file that another process writes; TimeoutError if it does not come."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.01)
    raise TimeoutError(path)
