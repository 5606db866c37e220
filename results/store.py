"""The store: content-addressed stages. It and run_folder.py (the folder of a run) alone know the layout on disk.

    <root>/cache/<stage>/<key>/              what a stage made, manifest.json written last
    <root>/cache/verdicts/<judge>.jsonl      a judge's answers, appended as they come; see evaluators/judge_cache.py
    <root>/studies/<benchmark>/<study-id>/tune.json  report/
    <root>/studies/<study>/<study-id>/study.json  report/
    <root>/rounds/<benchmark>/<round-id>/  a collection, see preferences/labels.py; policies/ has those that it joins
    <root>/studies/<benchmark>/trials/<run-id>/  a run without summary and report
    <root>/runs/<benchmark>/<run-id>/run.json  summary.json  report/  tracked.json
    <root>/runs/<benchmark>/<run-id>/<method>/seed-<n>/  manifest.json  cost.json  metrics.jsonl  generations.jsonl
                                                         inference.json  scores.parquet  policy/  along/  along.parquet
    <root>/runs/<benchmark>/<run-id>/sft/model/  the base of the cells' adapters, where policies are adapters
                                                         picked.json

A stage's key is the hash of its settings and of its inputs' keys. Its files are made in a temporary sibling, flushed
and renamed; a stage without a valid manifest does not exist; a damaged one is named, kept aside and made again (see
integrity.py). A cell of a run (method, seed) holds hard links to the files of its stages (copies where the file system
has no links), so a run can be copied away and costs no space.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..runtime import processes
from ..runtime.memory import give_back
from .adapters import ADAPTER, name_bases_within
from .hold import Hold
from .integrity import (
    MANIFEST,
    DamageError,
    check_folder,
    digest,
    file_digest,
    file_names,
    is_whole,
    move,
    read_record,
    replacing,
    seal,
    writing,
)
from .lines import append_line, read_lines
from .records import Generation

RUN = "run.json"
COST, METRICS, GENERATIONS, SCORES, POLICY = (
    "cost.json",
    "metrics.jsonl",
    "generations.jsonl",
    "scores.parquet",
    "policy",
)
INFERENCE = "inference.json"  # what the responses took
MODEL = "model"  # folder of a trained model within its stage
GATE = "gate.json"  # what a gate looks at, within the stage
STEPS = ".steps"  # checkpoints of a training that is not finished, within its unfinished stage
PICKED = "picked.json"  # which checkpoint of a cell is evaluated, where a rule picked it
ALONG, ALONG_SCORES = "along", "along.parquet"  # checkpoints along training: their folder, and their scores


def _place(text: str) -> Path:
    """The path that a line names, whether something is there or not; ValueError for a text that no path can be."""
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError from None
    return Path(text)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files below a folder."""
    return digest({name: file_digest(folder / name) for name in file_names(folder)})


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON object a line by `replacing`; dataclasses are written by their fields."""
    with replacing(path) as stream:
        for row in rows:
            record = dataclasses.asdict(row) if dataclasses.is_dataclass(type(row)) else row
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def read_jsonl(path: Path) -> list[Any]:
    """Rows of a JSON Lines file written by `write_jsonl`."""
    with open(path, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def read_generations(path: Path) -> list[Generation]:
    """Generations as `write_jsonl` wrote them."""
    return [Generation(**{**row, "prompt": tuple(row["prompt"])}) for row in read_jsonl(path)]


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, its key, and whether it was made just now."""

    path: Path
    key: str
    fresh: bool

    @property
    def cost(self) -> dict[str, float]:
        """Its cost.json; empty where it has none."""
        return read_json(self.path / COST) if (self.path / COST).exists() else {}

    @property
    def content(self) -> str:
        """Hash of what the stage made.

        Left out are its log and costs, which hold times, and an adapter's configuration, which names the folder where
        its base lies (one outside the cache by its whole path) and otherwise says what is in the stage's settings.
        """
        files = read_record(self.path / MANIFEST)["files"]
        return digest(
            {name: sha for name, sha in files.items() if Path(name).name not in (COST, INFERENCE, METRICS, ADAPTER)}
        )


@dataclass(frozen=True)
class Made:
    """A stage as its manifest tells of it: {"stage", "key", "inputs", "seconds", "created", "files"}."""

    path: Path
    manifest: dict[str, Any]

    @property
    def stage(self) -> Stage:
        return Stage(self.path, self.manifest["key"], fresh=False)

    @property
    def used(self) -> datetime:
        """When a run last made or found it."""
        touched = datetime.fromtimestamp((self.path / MANIFEST).stat().st_mtime, UTC)
        return max(touched, datetime.fromisoformat(self.manifest["created"]))


def finished(partial: Path) -> Path:
    """The folder that a stage has when it is finished, by the one in which it is made."""
    return partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))


class Store:
    """Finds finished stages by their key and makes the missing ones."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.cache = self.root / "cache"
        self._hold = Hold(self.cache)

    @property
    def verdicts(self) -> Path:
        """The folder of judges' answers, shared by all runs."""
        return self.cache / "verdicts"

    def remember(self, run: Path) -> None:
        """Note where a run lies, which may be anywhere, so that `bench cache gc` keeps what it refers to."""
        path = str(run.resolve())
        self._register.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._register.with_name(".runs.lock")):
            if Path(path) not in self.remembered():
                append_line(self._register, path)

    def remembered(self) -> list[Path]:
        """The folders of runs that used this cache, those that are gone among them."""
        loss = "a run that one of them named is not known here; give its bench run again before bench cache gc"
        return list(read_lines(self._register, _place, loss))

    def runs(self) -> list[Path]:
        """The folders of the runs below this root."""
        return [path.parent for path in sorted(self.root.glob(f"runs/**/{RUN}"))]

    @property
    def _register(self) -> Path:
        return self.cache / "runs.jsonl"

    def find(self, name: str, inputs: dict[str, Any]) -> Stage | None:
        """The stage made from these inputs, if it is on disk and every file still has its recorded hash."""
        key = digest({"stage": name, **inputs})
        folder = self.cache / name / key[:20]
        if not folder.exists():
            return None
        try:
            check_folder(folder, key)
        except DamageError as damage:
            logging.getLogger(__name__).warning("%s", damage)
            return None
        return Stage(folder, key, fresh=False)

    def partial(self, name: str, key: str) -> Path:
        """The folder in which a stage is made."""
        return self.cache / name / f".{key[:20]}.partial"

    def made(self) -> Iterator[Made]:
        """Every stage on disk that has a manifest; its files are not checked against it."""
        for path in sorted(self.root.glob(f"cache/*/*/{MANIFEST}")):
            with contextlib.suppress(OSError, ValueError):
                yield Made(path.parent, read_json(path))

    def stage(
        self, name: str, inputs: dict[str, Any], build: Callable[[Path], None], *, together: bool = False
    ) -> Stage:
        """Return the stage made from these inputs, calling `build(folder)` only if it is not there yet.

        inputs: everything that the result depends on, JSON-able (settings, keys and digests of other stages).
        together: all processes of the run are here, and build it side by side; else this one builds it alone.
        """
        if not together:
            return self._stage(name, inputs, build)
        with processes.together():
            return self._lead(name, inputs, build) if processes.rank() == 0 else self._follow(build)

    def _lead(self, name: str, inputs: dict[str, Any], build: Callable[[Path], None]) -> Stage:
        """Make or find a stage as the first process, and tell the others."""
        begun = False

        def build_with_others(folder: Path) -> None:
            nonlocal begun
            begun = True
            processes.broadcast(True)
            build(folder)

        made = self._stage(name, inputs, build_with_others)
        if not begun:
            processes.broadcast(None)
        return processes.broadcast(made)

    def _follow(self, build: Callable[[Path], None]) -> Stage:
        """Do what the first process does with a stage; where it makes it, in a folder that is then thrown away."""
        if processes.broadcast(None):
            with tempfile.TemporaryDirectory() as folder:
                build(Path(folder))
        return processes.broadcast(None)

    def _stage(self, name: str, inputs: dict[str, Any], build: Callable[[Path], None]) -> Stage:
        key = digest({"stage": name, **inputs})
        parent = self.cache / name
        folder = parent / key[:20]
        with writing(parent):
            parent.mkdir(parents=True, exist_ok=True)
            with _waiting(FileLock(parent / f".{key[:20]}.lock"), folder):
                if found := self.find(name, inputs):
                    self._use(folder)
                    return found
                give_back()  # memory that the stage before has freed
                if folder.exists():  # damaged: kept aside, for nothing on disk is ever lost
                    aside = parent / f"{key[:20]}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
                    move(folder, aside)
                    logging.getLogger(__name__).warning("%s is kept as %s and made again", folder, aside.name)
                partial = self.partial(name, key)
                if is_whole(partial, key):  # a process died when only the name was left to be given
                    move(partial, folder)
                    self._use(folder)
                    return Stage(folder, key, fresh=False)
                if not (partial / STEPS).is_dir():  # with step checkpoints a training goes on from them
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir()
                started = time.monotonic()
                try:
                    build(partial)
                    seconds = round(time.monotonic() - started, 3)
                    shutil.rmtree(partial / STEPS, ignore_errors=True)
                    name_bases_within(self.cache, partial)
                    seal(partial, {"stage": name, "key": key, "inputs": inputs, "seconds": seconds})
                    move(partial, folder)
                except BaseException:
                    if not (partial / STEPS).is_dir():
                        shutil.rmtree(partial, ignore_errors=True)
                    raise
                self._use(folder)
        return Stage(folder, key, fresh=True)

    def _use(self, folder: Path) -> None:
        """Note that a stage is in use from now on, by this process; its lock is held."""
        self._hold.add(folder)
        with contextlib.suppress(OSError):  # of another user
            os.utime(folder / MANIFEST)


class NotMade(Exception):
    """A stage is not on disk; `partial` is the folder in which it is made."""

    def __init__(self, name: str, partial: Path):
        super().__init__(name)
        self.partial = partial


class Looking(Store):
    """A store that finds stages and makes none."""

    def stage(
        self, name: str, inputs: dict[str, Any], build: Callable[[Path], None], *, together: bool = False
    ) -> Stage:
        if found := self.find(name, inputs):
            return found
        raise NotMade(name, self.partial(name, digest({"stage": name, **inputs})))


class Placing(Looking):
    """A store that looks at nothing on disk, and says of every stage in which folder it is made."""

    def find(self, name: str, inputs: dict[str, Any]) -> Stage | None:
        return None


@contextlib.contextmanager
def _waiting(lock: FileLock, folder: Path) -> Iterator[None]:
    """Hold the lock of a stage; where another process has it, say so once and wait."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        doing = "checking the files of" if folder.exists() else "making"
        what = f"another process is {doing} the stage {folder.parent.name}; waiting for it"
        logging.getLogger(__name__).warning("%s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
