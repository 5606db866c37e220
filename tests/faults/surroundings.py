"""What changes around a run: clock, time zone, language, threads, precision, code, folder, disk, user, a second run."""

import dataclasses
import errno
import locale
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from forks import SENTENCE, bench, end, in_child, killed_until_it_ends, outcome, start
from harness import World, kind
from safetensors.torch import load_file
from tasks import TUNING
from trainings import difference, result, run_result, train
from work import end_of_run, finished_run

from alignment_bench.benchmarks import context
from alignment_bench.reports.render import render
from alignment_bench.results.run_folder import find_runs

YEAR = 365 * 24 * 3600.0
AGAIN = "the same command makes nothing anew and finds the same figures"


def stages_made(root: Path) -> dict[str, str]:
    """The stages of a cache, with when each was made."""
    return {p.parent.name: p.read_text() for p in root.glob("cache/*/[!.]*/manifest.json")}


def asked_again(world: World, root: Path, before: Callable[[], object] = lambda: None) -> str:
    """What went wrong where a finished run is asked for again, in a fork, after something has changed there."""
    expected, made = end_of_run(world.finished), stages_made(root)

    def work() -> None:
        before()
        world.run(root)
        shown = bench("show", finished_run(root).path, cwd=root)
        assert shown[0] == 0, shown
        freed = bench("cache", "gc", "--root", root, cwd=root)
        assert freed[0] == 0 and "0 folders" in freed[1], freed

    code, said = outcome(work)
    if code:
        return said[-500:]
    if stages_made(root) != made:
        return "stages were made anew"
    found = end_of_run(root)
    return "" if found == expected else difference(expected, found)


@kind("clock set back or on", AGAIN)
def clock(world: World, rng: Random, times: int) -> Iterator[str]:
    """Files from the future or from 1970, and a clock that runs backwards while the command works."""
    for _ in range(times):
        root, shift = world.copy(), rng.choice([-40 * YEAR, -YEAR, -3600.0, 3600.0, YEAR])
        now = time.time()
        for path in root.rglob("*"):
            os.utime(path, (max(0.0, now - shift),) * 2)

        def back(now: float = now) -> None:
            passed = iter(range(10**9))
            time.time = lambda: now - next(passed)

        yield asked_again(world, root, back if rng.random() < 0.5 else lambda: None)


@kind("another time zone", AGAIN)
def zones(world: World, rng: Random, times: int) -> Iterator[str]:
    def enter(zone: str) -> None:
        os.environ["TZ"] = zone
        time.tzset()

    for zone in islice(cycle(["Pacific/Kiritimati", "America/St_Johns", "<-12>12", "Nowhere/There"]), times):
        yield asked_again(world, world.copy(), partial(enter, zone))


LOCALES = [("tr_TR", "UTF-8"), ("ja_JP", "EUC-JP"), ("de_DE", "ISO-8859-1"), ("C", "")]


@kind("another language and encoding", f"{AGAIN}, and the report has the same bytes")
def languages(world: World, rng: Random, times: int) -> Iterator[str]:
    compiler, folder = shutil.which("localedef"), world.place()
    quiet = world.copy()
    in_child(lambda: render(find_runs(quiet), quiet / "pages"))
    page = (quiet / "pages" / "index.html").read_bytes()
    for language, encoding in islice(cycle(LOCALES if compiler else LOCALES[-1:]), times):
        name = f"{language}.{encoding}" if encoding else language
        if encoding and compiler and not (folder / name).exists():
            subprocess.run([compiler, "-c", "-i", language, "-f", encoding, folder / name], capture_output=True)
        root = world.copy()

        def enter(name: str = name, root: Path = root) -> None:
            os.environ |= {"LOCPATH": str(folder), "LC_ALL": name}
            locale.setlocale(locale.LC_ALL, name)
            render(find_runs(root), root / "pages")

        said = asked_again(world, root, enter)
        yield said or ("" if (root / "pages" / "index.html").read_bytes() == page else "other bytes in the report")


def killed_and_changed(world: World, rng: Random, times: int, change: Callable[..., Any]) -> Iterator[str]:
    """Trainings that are killed once as they are and go on otherwise; change(work) does that, and compares."""
    for name in islice(cycle(["dpo", "ppo", "sft"]), times):
        root = world.place()
        work = partial(train, name, world.tiny, root, 0.0)
        calls = in_child(partial(train, name, world.tiny, world.place(), 0.0))
        killed = in_child(work, rng.randrange(calls // 2, calls)) is None
        yield change(name, root, work) if killed else "it was not killed"


@kind("threads changed between kill and going on", "weights are the same to 1e-4 of their size")
def threads(world: World, rng: Random, times: int) -> Iterator[str]:
    def change(name: str, root: Path, work: Callable[[], Any]) -> str:
        in_child(work, threads=2)
        in_child(partial(train, name, world.tiny, other := world.place(), 0.0))
        for path in other.rglob("*.safetensors"):
            here, there = load_file(path), load_file(root / path.relative_to(other))
            for tensor, values in here.items():
                if (values - there[tensor]).abs().max() > 1e-4 * values.abs().max():
                    return f"{name}: {tensor} differs by {(values - there[tensor]).abs().max():.2g}"
        return ""

    yield from killed_and_changed(world, rng, times, change)


@kind("precision changed between kill and going on", "the end is that of a training with the new precision alone")
def precision(world: World, rng: Random, times: int) -> Iterator[str]:
    other = dataclasses.replace(TUNING, precision="bf16")

    def change(name: str, root: Path, work: Callable[[], Any]) -> str:
        whole = world.place()
        for place in (root, whole):
            in_child(partial(train, name, world.tiny, place, 0.0, other))
        expected, found = result(whole), result(root)
        return "" if expected == found else difference(expected, found)

    yield from killed_and_changed(world, rng, times, change)


@kind(
    "code changed between kill and going on",
    "nothing of the old code's steps is used: another key, the end of a whole training",
)
def code(world: World, rng: Random, times: int) -> Iterator[str]:
    def change(name: str, root: Path, work: Callable[[], Any]) -> str:
        def edited() -> None:
            context.code_digest = lambda *parts: "edited"
            work()

        old = {p.name for p in root.glob("cache/*/.*.partial")}
        in_child(edited)
        in_child(partial(train, name, world.tiny, whole := world.place(), 0.0))
        made = {f".{p.parent.name}.partial" for p in root.glob("cache/*/[!.]*/manifest.json")}
        if made & old:
            return f"{name}: the new code went on under the old key"
        expected, found = result(whole), result(root)
        return "" if expected == found else difference(expected, found)

    yield from killed_and_changed(world, rng, times, change)


@kind("folder of results moved", "a run that was killed, or is finished, goes on in the new place as in the old")
def moved(world: World, rng: Random, times: int) -> Iterator[str]:
    expected, calls = end_of_run(world.finished), in_child(partial(world.run, world.place()))
    for number in range(times):
        if number % 2:
            root = world.copy()
        else:
            root = world.place()
            in_child(partial(world.run, root), rng.randrange(calls))
        new = root.rename(world.place() / "moved, and with a space")
        if number % 2:
            yield asked_again(world, new)
            continue
        in_child(partial(world.run, new))
        found = end_of_run(new)
        yield "" if found == expected else difference(expected, found)


@kind("a disk that answers late or wrongly", "one sentence or none, and the same command ends as a quiet one")
def renames(world: World, rng: Random, times: int) -> Iterator[str]:
    """As network disks do: a rename that was done is reported as failed, a handle is stale, a file is busy."""
    expected = end_of_run(world.finished)
    answers = {"rename": [errno.ENOENT, errno.ESTALE], "replace": [errno.ENOENT, errno.ESTALE], "fsync": [errno.EIO]}

    def count(calls: list[str], name: str, real: Callable[..., Any], *given: Any) -> Any:
        calls.append(name)
        return real(*given)

    def patched(strike: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
        for name in answers:
            setattr(os, name, strike(name, getattr(os, name)))

    def failing(name: str, number: int, at: int) -> Callable[..., Any]:
        def strike(patched_name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            seen = iter(range(1, 10**9))

            def call(*given: Any) -> Any:
                found = real(*given)
                if patched_name == name and next(seen) == at:
                    raise OSError(number, os.strerror(number), *map(str, given[:1]))
                return found

            return call

        return strike

    for _ in range(times):
        root, name = world.place(), rng.choice([*answers])
        number, at = rng.choice(answers[name]), rng.randint(1, 25)

        def work(root: Path = root, name: str = name, number: int = number, at: int = at) -> None:
            patched(failing(name, number, at))
            world.run(root)

        code, said = outcome(work)
        in_child(partial(world.run, root))
        found = end_of_run(root)
        if code not in (0, SENTENCE):
            yield f"{name} number {at}, {errno.errorcode[number]}: {said[-300:]}"
        else:
            yield "" if found == expected else difference(expected, found)


@kind("two runs on one cache, one killed", "both end as alone")
def neighbours(world: World, rng: Random, times: int) -> Iterator[str]:
    """They share SFT and reward models, and ask other prompts, so that each has a folder of its own."""
    one, another = (partial(world.run, evaluation={"prompts": prompts}) for prompts in (4, 5))
    alone = {}
    for order in (one, another):
        in_child(partial(order, root := world.place()))
        alone[finished_run(root).path.name] = end_of_run(root)
    calls = in_child(partial(one, world.place()))
    for _ in range(times):
        root = world.place()
        other = start(partial(another, root))
        killed_until_it_ends(partial(one, root), calls, rng)
        code, said = end(*other)
        found = {run.path.name: run_result(run.path / "summary.json") for run in find_runs(root)}
        yield said[-500:] if code else "" if found == alone else difference(alone, found)


@kind(
    "another user than the one who made the run",
    "reading works; what would write ends with one sentence; nothing changes",
)
def users(world: World, rng: Random, times: int) -> Iterator[str]:
    readable = all(
        part.stat().st_mode & 0o005 == 0o005 for part in (Path(sys.base_prefix), *Path(sys.base_prefix).parents)
    )
    if os.geteuid() or not readable:  # else Python itself is not there for another user
        return
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    folder.chmod(0o755)
    try:
        root = Path(shutil.copytree(world.finished, folder / "results"))
        model = shutil.copytree(world.tiny.path, folder / "model")
        for path in (root, model, *root.rglob("*"), *Path(model).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
        place = finished_run(root).path
        commands: list[tuple[tuple[Any, ...], bool]] = [
            (("show", place), True),
            (("report", place), False),
            (("report", place, "--out", "/dev/shm/bench-nobody"), True),
            (("cache", "ls", "--root", root), True),
            (("cache", "gc", "--root", root, "--yes"), True),
            (("compare", place, place), True),
        ]
        for command, works in islice(cycle(commands), times):

            def work(command: tuple[Any, ...] = command, works: bool = works) -> None:
                os.setuid(65534)
                code, _, err = bench(*command, cwd=Path("/"))
                assert (code == 0) == works, (command[0], code, err)
                assert works or (code == 2 and len(err.strip().splitlines()) == 1), err

            code, said = outcome(work)
            now = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
            yield said[-500:] if code else "" if now == before else "files have changed"
    finally:
        shutil.rmtree(folder)
        shutil.rmtree("/dev/shm/bench-nobody", ignore_errors=True)
