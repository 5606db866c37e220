"""Faults: killed at every step of a write, a disk that refuses, several writers; each counted N of N."""

import builtins
import errno
import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge_cache import Answer, RememberingAsker
from alignment_bench.results.integrity import read_record
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import Store

# --- killed


class Torn:
    """A file whose every write reaches the disk at once, and may be the last: half of the bytes are there then."""

    def __init__(self, stream, strike):
        self._stream, self._strike = stream, strike

    def write(self, data):
        half = len(data) // 2
        self._stream.write(data[:half])
        self._stream.flush()
        self._strike()
        self._stream.write(data[half:])
        self._stream.flush()
        return len(data)

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stream.close()

    def __iter__(self):
        return iter(self._stream)


def struck(strike, original, *args, **kwargs):
    strike()
    return original(*args, **kwargs)


ROOM = ((os, "fsync"), (os, "link"), (os, "mkdir"))  # beside opening and writing, what may need room
ALL = (*ROOM, (os, "rename"), (os, "replace"), (os, "rmdir"), (os, "unlink"), (shutil, "rmtree"))


def patched(strike, calls=ALL) -> None:
    """Call strike() before each of the calls and each opening of a file to be written, and in the middle of a write."""
    open_file = io.open

    def opened(file, mode="r", *args, **kwargs):
        stream = open_file(file, mode, *args, **kwargs)
        if set("wax+") & set(mode):
            strike()
            return Torn(stream, strike)
        return stream

    builtins.open = io.open = opened
    for module, name in calls:
        setattr(module, name, partial(struck, strike, getattr(module, name)))


def in_child(work, told: int | None = None) -> int:
    """Run work() in a fork of this process; its exit code, negative where a signal ended it, 2 for an InputError.

    told: a file descriptor that gets the error's text.
    """
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            code = 0
        except BaseException as error:
            code = 2 if isinstance(error, InputError) else 70
            if told is not None:
                os.write(told, repr(error).encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def told_by(work) -> tuple[int, str]:
    """Exit code and error of work() in a process of its own."""
    reading, writing = os.pipe()
    code = in_child(work, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        return code, stream.read()


def refused(work) -> str:
    """The message of the InputError that work() ends with, in a process of its own."""
    code, said = told_by(work)
    assert code == 2, said
    return said


def killed_at(number: int, work) -> int:
    def child():
        steps = itertools.count(1)

        def strike():
            if next(steps) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        patched(strike)
        work()

    return in_child(child)


def until_it_survives(work, check) -> int:
    """Kill work at its first step, its second, ... until it gets through, check(n) after each; the number of kills."""
    for number in itertools.count(1):
        code = killed_at(number, partial(work, number))
        if code == 0:
            return number - 1
        assert code == -signal.SIGKILL, f"step {number}: exit code {code}"
        check(number)


def test_killed_at_every_step_of_a_first_run(tmp_path, whole_run, state):
    """Sealed stages are found and not made again; others are made again; the end is that of a quiet run."""
    expected = state(whole_run(tmp_path / "quiet").path.parents[2])
    made_again = set()

    def check(number):
        root = tmp_path / f"killed{number}"
        sealed = [f.parent.parent.name for f in root.glob("cache/*/*/manifest.json")]
        for record in (root / "runs/b/r/run.json", root / "runs/b/r/summary.json"):
            assert not record.exists() or read_record(record)
        if (root / "runs/b/r/run.json").exists():
            for cell in Run(root / "runs/b/r").cells():
                cell.check()
        whole_run(root, built := [])
        assert not set(built) & set(sealed) and state(root) == expected
        made_again.add(tuple(built))
        shutil.rmtree(root)

    killed = until_it_survives(lambda n: whole_run(tmp_path / f"killed{n}"), check)
    print(f"killed and whole again: {killed} of {killed}")
    assert killed > 60 and made_again == {("train", "generations"), ("generations",), ()}


def test_killed_at_every_step_of_a_change(tmp_path, whole_run, state):
    """A finished run is scored by another evaluator: at every moment it holds the old cell or the new one, whole."""
    old = whole_run(tmp_path / "old", evaluators={"judge": "x"})
    new = state(whole_run(tmp_path / "new", evaluators={"judge": "y"}).path)
    before, seen = state(old.path), set()

    def work(number):
        whole_run(tmp_path / f"k{number}", evaluators={"judge": "y"})

    def check(number):
        run = Run(tmp_path / f"k{number}" / "runs/b/r")
        [cell] = run.cells()
        cell.check()
        assert state(run.path) in (before, new) and run.summary
        seen.add(cell.evaluators()["judge"])
        work(number)
        assert state(run.path) == new
        whole_run(tmp_path / f"k{number}", evaluators={"judge": "x"})  # and changes once more
        assert state(run.path) == before

    for number in range(1, 200):
        shutil.copytree(tmp_path / "old", tmp_path / f"k{number}")
        code = killed_at(number, partial(work, number))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        check(number)
        shutil.rmtree(tmp_path / f"k{number}")
    print(f"killed and whole again: {number - 1} of {number - 1}")
    assert number > 20 and seen == {"x", "y"}


def test_killed_at_every_step_of_judging(tmp_path):
    """Verdicts are kept one by one: what was answered is not asked again, and a torn line costs its own question."""
    questions = [str(i) for i in range(12)]

    class Counting:
        def __init__(self, log):
            self.log = log

        def ask(self, prompts, keep):
            for place, prompt in enumerate(prompts):
                os.write(self.log, f"{prompt}\n".encode())
                keep(place, Answer("A" if int(prompt) % 2 else "B", 10, 1))
            return ["A" if int(p) % 2 else "B" for p in prompts]

    def ask(number):
        log = os.open(tmp_path / f"asked{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        asker = RememberingAsker(lambda: Counting(log), tmp_path / f"v{number}", {"model": "m"})
        return asker.ask(questions), asker.usage().tokens_in

    def check(number):
        assert ask(number) == (["B", "A"] * 6, 120)
        asked = (tmp_path / f"asked{number}").read_text().split()
        assert set(asked) == set(questions) and len(asked) <= len(questions) + 1  # at most the one under way twice

    killed = until_it_survives(ask, check)
    print(f"killed and whole again: {killed} of {killed}")
    assert killed > 24


# --- a disk that refuses


def test_a_disk_that_is_full_at_any_step(tmp_path, whole_run, state):
    """One sentence with the place and the reason; what was sealed stays, and the same again goes on from there."""
    expected, count = state(whole_run(tmp_path / "quiet").path.parents[2]), 0
    for step in itertools.count(1):
        root, steps = tmp_path / f"r{step}", itertools.count(1)

        def strike(step=step, steps=steps):
            if next(steps) >= step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def work(root=root, strike=strike):
            patched(strike, ROOM)
            whole_run(root)

        code, said = told_by(work)
        if code == 0:
            break
        count += 1
        assert code == 2 and str(root) in said and os.strerror(errno.ENOSPC) in said, f"step {step}: {said}"
        sealed = [f.parent.parent.name for f in root.glob("cache/*/[!.]*/manifest.json")]
        whole_run(root, built := [])
        assert not set(built) & set(sealed) and state(root) == expected
    print(f"full at a step, told and gone on from: {count} of {count}")
    assert count > 40


@contextmanager
def mounted(folder: Path, size: str):
    """A small file system of its own in a folder; skips where this user may mount none."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may mount no file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tmp_path, whole_run, state):
    """A real one, from room for nothing to room for all but the last file; then it gets room."""
    expected = state(whole_run(tmp_path / "quiet").path.parents[2])
    sizes = range(4, 44, 4)  # KiB; tmpfs gives whole pages
    for size in sizes:
        with mounted(root := tmp_path / f"disk{size}", f"{size}k"):
            said = refused(partial(whole_run, root))
            assert str(root) in said and "No space left on device" in said
            subprocess.run(["mount", "-o", "remount,size=1m", str(root)], check=True)
            whole_run(root)
            assert state(root) == expected
        count = len(sizes)
    print(f"disks full, told and gone on from: {count} of {count}")


def test_a_disk_that_is_read_only(tmp_path, whole_run, state, build_training):
    with mounted(root := tmp_path / "disk", "1m"):
        run = whole_run(root)
        before = state(root)
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        said = refused(partial(whole_run, root, evaluators={"judge": "y"}))
        assert str(root) in said and "Read-only file system" in said
        said = refused(lambda: Store(root).stage("train", {"seed": 1}, build_training))
        assert str(root / "cache" / "train") in said
        assert state(root) == before and [c.check() for c in run.cells()] == [None]  # it can still be read


def test_no_permission(whole_run, state, build_training):
    """The user nobody in a folder of another one (root may write anywhere)."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        run = whole_run(root)
        before = state(root)
        for folder in (Path(name), root, *(p for p in root.rglob("*") if p.is_dir())):
            folder.chmod(0o555)

        def as_nobody(work):
            if os.geteuid() == 0:
                os.setuid(65534)
            work()

        said = refused(partial(as_nobody, partial(whole_run, root, evaluators={"judge": "y"})))
        assert str(run.path) in said and "Permission denied" in said
        said = refused(partial(as_nobody, lambda: Store(root).stage("train", {"seed": 1}, build_training)))
        assert str(root / "cache" / "train") in said and "Permission denied" in said
        said = refused(partial(as_nobody, lambda: Store(root).stage("new", {}, build_training)))
        assert str(root / "cache") in said
        for folder in (Path(name), root, *(p for p in root.rglob("*") if p.is_dir())):
            folder.chmod(0o755)
        assert state(root) == before
        whole_run(root, evaluators={"judge": "y"})  # with permission it goes on


# --- several writers


def test_four_writers_into_one_cache(tmp_path):
    """Each makes 400 of 1,000 stages and answers 400 of 1,000 questions, so most are wanted by two; all are there."""

    class Judge:
        def ask(self, prompts, keep):
            for place, prompt in enumerate(prompts):
                keep(place, Answer("A" if int(prompt) % 2 else "B"))
            return ["A" if int(p) % 2 else "B" for p in prompts]

    def writer(number):
        store, asker = Store(tmp_path), RememberingAsker(Judge, tmp_path / "verdicts", {"model": "m"})
        wanted = [(250 * number + i) % 1000 for i in range(400)]
        random.Random(number).shuffle(wanted)
        for key in wanted:
            store.stage("s", {"key": key}, lambda out, key=key: (out / "x.txt").write_text(f"{key} " * 50) and None)
            asker.ask([str(key)])

    pids = []
    for number in range(4):
        if (pid := os.fork()) == 0:
            code = 70
            try:
                writer(number)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
    store = Store(tmp_path)
    found = [store.find("s", {"key": key}) for key in range(1000)]
    readable = sum(s is not None and (s.path / "x.txt").read_text() == f"{k} " * 50 for k, s in enumerate(found))
    assert not list(tmp_path.glob("cache/s/*.damaged-*")) and not list(tmp_path.glob("cache/s/.*.partial"))
    answers = RememberingAsker(lambda: pytest.fail("asked"), tmp_path / "verdicts", {"model": "m"})
    verdicts = answers.ask([str(key) for key in range(1000)])
    right = sum(v == ("A" if key % 2 else "B") for key, v in enumerate(verdicts))
    print(f"four writers: {readable} of 1000 stages and {right} of 1000 verdicts readable")
    assert readable == right == 1000
