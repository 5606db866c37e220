"""The folder of a run: its record, its cells, its summary. Where it lies and what is in it: see store.py."""

import contextlib
import json
import os
import platform
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..errors import InputError
from .integrity import (
    MANIFEST,
    DamageError,
    MissingError,
    check_file,
    read_record,
    write_json,
    write_record,
    writing,
)
from .placing import place, restore_all
from .progress import PROGRESS, Progress, read_progress
from .records import Generation
from .store import (
    ALONG_SCORES,
    COST,
    GENERATIONS,
    INFERENCE,
    METRICS,
    PICKED,
    RUN,
    SCORES,
    Stage,
    read_generations,
    read_json,
    read_jsonl,
)

if TYPE_CHECKING:
    import pandas

FORMAT = 1  # of run.json and summary.json, which name it; those of the first versions do not, and are read as well
SUMMARY = "summary.json"
STUDY = "study.json"  # in a study's folder: what its runs found together
STUDIES, TRIALS = "studies", "trials"  # folders of what several runs answer, and in there of a tuning's trials
TUNE = "tune.json"  # the record of a tuning, in its study's folder
TRACKED = "tracked.json"  # in a run's folder: what was sent to trackers
LOCK, HOLDER = ".lock", ".holder.json"  # in a run's folder: held by the process that writes it, and who that is
BASE = "sft/model"  # in a run's folder: the SFT checkpoint on which the cells' adapters stand


@dataclass(frozen=True)
class Cell:
    """One method trained with one seed, as it lies in a run's folder."""

    method: str
    seed: int
    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """{"method", "seed", "stages", "evaluators", "created", "files"}; InputError where it is damaged."""
        with self._told():
            return read_record(self.path / MANIFEST)

    def check(self) -> None:
        """InputError that names the first file which is missing or is not what was written."""
        manifest = self.manifest
        with self._told():
            for name in manifest["files"]:
                check_file(self.path, name, manifest)

    def evaluators(self) -> dict[str, Any]:
        """By name what determined the scores of each evaluator; empty for a cell that does not record it."""
        return self.manifest.get("evaluators", {})

    def cost(self) -> dict[str, float]:
        return json.loads(path.read_text(encoding="utf-8")) if (path := self._file(COST)) else {}

    def inference(self) -> dict[str, float]:
        """The cost of one response: seconds, flops, generated_tokens, reward_queries; empty where none was recorded."""
        if (path := self._file(INFERENCE)) is None:
            return {}
        spent = read_json(path)
        count = spent.pop("responses")
        return {name: value / count for name, value in spent.items()} if count else {}

    def metrics(self) -> list[dict[str, Any]]:
        """Training log, one dict a step with at least `step`; empty for `sft`, which is trained once for all."""
        return read_jsonl(path) if (path := self._file(METRICS)) else []

    def generations(self) -> list[Generation]:
        return read_generations(self._need(GENERATIONS))

    def scores(self) -> "pandas.DataFrame":
        """Columns metric, prompt_id, value (NaN where the evaluator could not tell)."""
        import pandas

        return pandas.read_parquet(self._need(SCORES))

    def along(self) -> "pandas.DataFrame | None":
        """Columns examples, metric, prompt_id, value of the checkpoints along training, SFT at 0; None without any."""
        import pandas

        path = self._file(ALONG_SCORES)
        return pandas.read_parquet(path) if path else None

    def picked(self) -> dict[str, Any] | None:
        """The checkpoint of its training that is evaluated, see `stages/picked.py`; None where no rule picked it."""
        return read_json(path) if (path := self._file(PICKED)) else None

    def _file(self, name: str) -> Path | None:
        """A file of the cell, or None if it never had one; InputError where it is not what was written."""
        if name not in (manifest := self.manifest)["files"]:
            return None
        with self._told():
            check_file(self.path, name, manifest)
        return self.path / name

    def _need(self, name: str) -> Path:
        """A file that every cell has; InputError where it is not what was written."""
        if path := self._file(name):
            return path
        with self._told():
            raise MissingError(f"{self.path / name} is missing")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DamageError as damage:
            raise type(damage)(
                f"{damage}; give bench run for {self.method} once more, which takes what is whole from the cache and "
                f"makes the rest again"
            ) from None


class Run:
    """The folder of one run: a contract, its cells, its summary and its report."""

    def __init__(self, path: Path):
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        return (self.path / RUN).exists()

    @property
    def is_finished(self) -> bool:
        return (self.path / SUMMARY).exists()

    @property
    def record(self) -> dict[str, Any]:
        """run.json: {"run_id", "benchmark", "created", "commands", "contract", "environment", "data", "methods",
        "shared"}; the last has the cost of each stage that is made once for all cells. A run that continues another has
        the "parent", its folder, too."""
        return _read(self.path / RUN)

    @property
    def summary(self) -> dict[str, Any]:
        return _read(self.path / SUMMARY)

    @property
    def progress(self) -> Progress | None:
        """Its steps and how far they are; None for a run of a version that kept none, or one copied without it."""
        return read_progress(self.path)

    @property
    def report_path(self) -> Path:
        return self.path / "report"

    def write_summary(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write summary.json; returns what it holds."""
        with writing(self.path):
            return write_record(self.path / SUMMARY, {"format": FORMAT, **summary})

    @contextlib.contextmanager
    def held(self, waits: Callable[[str], None] | None = None) -> Iterator[None]:
        """Keep other processes out of this run. InputError that says who holds it; a dead process holds nothing.

        waits: told who holds it, where this process is to wait for it in place of the InputError.
        """
        lock = FileLock(self.path / LOCK)
        try:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
        except Timeout:
            who = "another process"
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = read_json(self.path / HOLDER)
                who = f"process {found['process']} on {found['machine']} since {found['since']}"
            if waits is None:
                raise InputError(
                    f"{self.path} is being written by {who}; wait for it, or give another folder with --out; "
                    f"bench run --wait waits by itself"
                ) from None
            waits(f"{self.path} is being written by {who}; waiting for it")
            lock.acquire()
        try:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(self.path / HOLDER, {"process": os.getpid(), "machine": platform.node(), "since": since})
            yield
        finally:
            lock.release()

    def open(
        self,
        record: dict[str, Any],
        evaluators: Mapping[str, Any] | None = None,
        scored: Collection[tuple[str, int]] = (),
    ) -> None:
        """Create run.json, or join the run that is already there if its contract is the same.

        evaluators: by name what determines the scores of each, as for `place`. scored: the cells (method, seed) that
        are going to be scored by them. InputError if the folder belongs to a run with another contract, holds something
        that is no run, or holds further cells that another evaluator of the same name has scored.
        """
        old: dict[str, Any] = {}
        check_names([*record["methods"], *(method for method, _ in scored)])
        if self.exists:
            old = self.record
            if old["contract"] != record["contract"]:
                differs = ", ".join([*differences(old["contract"], record["contract"])][:6])
                raise InputError(
                    f"{self.path} belongs to run {old['run_id']} with another configuration (differs in {differs}); "
                    f"give another folder with --out, or omit --out to get a folder of its own"
                )
            check_names([*old["methods"], *record["methods"]])
            self._check_evaluators(evaluators or {}, scored)
        elif self.path.exists() and (not self.path.is_dir() or any(map(_is_foreign, self.path.iterdir()))):
            raise InputError(f"{self.path} is not empty and holds no run.json; give a new or empty folder with --out")
        merged = {
            "format": FORMAT,
            **record,
            "created": old.get("created", record["created"]),
            "commands": [*old.get("commands", []), *record["commands"]],
            "methods": {**old.get("methods", {}), **record["methods"]},
            "shared": {**old.get("shared", {}), **record.get("shared", {})},
        }
        with writing(self.path):
            write_record(self.path / RUN, merged)

    def _check_evaluators(self, evaluators: Mapping[str, Any], scored: Collection[tuple[str, int]]) -> None:
        """One column of the table must come from one evaluator, whichever calls its cells come from."""
        evaluators = json.loads(json.dumps(dict(evaluators)))  # as a manifest gives them back
        for cell in self.cells():
            if (cell.method, cell.seed) in scored:
                continue
            cell.check()
            old = cell.evaluators()
            for name in sorted(set(old) & set(evaluators)):
                if differs := [*differences(old[name], evaluators[name])]:
                    raise InputError(
                        f"{self.path}: {cell.method} seed {cell.seed} was scored by another {name} (differs in "
                        f"{', '.join(differs)}), and one table cannot hold both; name all of the run's methods and "
                        f"seeds to have them scored anew, or give another folder with --out"
                    )

    def place(
        self, method: str, seed: int, stages: Sequence[Stage], evaluators: Mapping[str, Any] | None = None
    ) -> Cell:
        """Show the files of these stages as the cell of (method, seed); later stages win where names meet.

        evaluators: by name what determines the scores of each, JSON-able; see `open`.
        """
        cell = self.path / method / f"seed-{seed}"
        with writing(cell):
            place(
                cell, self.path / BASE, stages, {"method": method, "seed": seed, "evaluators": dict(evaluators or {})}
            )
        return Cell(method, seed, cell)

    def scores(self) -> "pandas.DataFrame":
        """The scores of all cells: columns method, seed, metric, prompt_id, value."""
        import pandas

        frames = [cell.scores().assign(method=cell.method, seed=cell.seed) for cell in self.cells()]
        return pandas.concat(frames, ignore_index=True)[["method", "seed", "metric", "prompt_id", "value"]]

    def cells(self) -> Iterator[Cell]:
        """The cells on disk, `sft` first, then in the order of run.json, seeds ascending."""
        order = ["sft", *(name for name in self.record["methods"] if name != "sft")]
        check_names(order)
        for method in order:
            restore_all(self.path / method)
            found = [(int(p.name.removeprefix("seed-")), p) for p in (self.path / method).glob("seed-*")]
            for seed, path in sorted(found):
                yield Cell(method, seed, path)


def runs_folder(root: Path, benchmark: str, *, trials: bool = False) -> Path:
    """The default folder of a benchmark's runs, or of its tunings' trials; InputError for a name that is no folder's,
    see `check_names`."""
    parent = Path(root) / (STUDIES if trials else "runs")
    check_names([*(p.name for p in parent.glob("*") if p.name.lower() == benchmark.lower()), benchmark])
    return parent / benchmark / TRIALS if trials else parent / benchmark


def check_names(names: Iterable[str]) -> None:
    """InputError for a name that may not be a folder's here, or that differs from another in upper and lower case only.

    No path, no control character, nothing that a file system hides, trims or cuts.
    """
    seen: dict[str, str] = {}
    for name in names:
        path = {os.sep, os.altsep} & set(name)
        if path or not re.fullmatch(r"[^\s./\x00-\x1f][^/\x00-\x1f]*", name) or name != name.strip() or len(name) > 200:
            shown = repr(name if len(name) <= 60 else f"{name[:60]}...")
            raise InputError(
                f"the name {shown} cannot be a folder's; use up to 200 letters, digits and signs such as _ and =, "
                f"a letter or digit first"
            )
        if seen.setdefault(name.lower(), name) != name:
            raise InputError(
                f"the names {seen[name.lower()]!r} and {name!r} differ in upper and lower case only, which some disks "
                f"cannot tell apart; rename one"
            )


def find_runs(path: Path) -> list[Run]:
    """The runs at or below a folder; InputError if there is none."""
    path = Path(path)
    found = [path] if Run(path).exists else sorted(p.parent for p in path.glob(f"**/{RUN}") if not _is_trials(p))
    if not found:
        raise InputError(f"{path} holds no run (no {RUN} at or below it); give the folder that `bench run` printed")
    return [Run(p) for p in found]


def _is_trials(record: Path) -> bool:
    """True for the record of a tuning's trials (studies/BENCHMARK/trials/ID/run.json): no run to be shown by itself."""
    return record.absolute().parts[-5:-2:2] == (STUDIES, TRIALS)


def find_run(path: Path, finished: bool = False) -> Run:
    """The one run at or below a folder; InputError if there is none, more than one, or one that is not finished."""
    runs = find_runs(path)
    if len(runs) > 1:
        raise InputError(f"{path} holds {len(runs)} runs; give the folder of one, for example {runs[0].path}")
    if finished and not runs[0].is_finished:
        raise InputError(f"{runs[0].path} has no {SUMMARY}: the run is not finished; give its command again")
    return runs[0]


def _is_foreign(path: Path) -> bool:
    """True for a file in a folder without run.json that is not ours; a killed process leaves an unfinished one."""
    return path.name not in (f".{RUN}.partial", LOCK, HOLDER, PROGRESS)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_record(path)
    except DamageError as damage:
        raise type(damage)(
            f"{damage}; give the bench run command again with --out and an empty folder, which makes the run anew from "
            f"the cache"
        ) from None
    if not isinstance(made := record.get("format", 0), int) or made > FORMAT:
        raise InputError(
            f"{path} was written in format {made}, and this version of alignment-bench reads formats up to {FORMAT}; "
            f"update alignment-bench"
        )
    return record


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two JSON values differ: dotted name, and both values (None where one has no such field)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted(set(old) | set(new)):
            found |= differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    return {} if old == new else {prefix: (old, new)}
