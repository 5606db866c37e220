"""The store: content-addressed stages and the folder of a run. The only file that knows the layout on disk.

    <root>/cache/<stage>/<key>/              what a stage made, manifest.json written last
    <root>/cache/verdicts/<judge>.jsonl      a judge's answers, appended as they come; see evaluators/judge_cache.py
    <root>/runs/<benchmark>/<run-id>/run.json  summary.json  report/  tracked.json
    <root>/runs/<benchmark>/<run-id>/<method>/seed-<n>/  manifest.json  cost.json  metrics.jsonl  generations.jsonl
                                                         scores.parquet  policy/  along/  along.parquet

A stage's key is the hash of its settings and of its inputs' keys. Its files are made in a temporary sibling, flushed
and renamed; a stage without a valid manifest does not exist. A cell of a run (method, seed) holds hard links to the
files of its stages (copies where the file system has no links), so it can be copied away and costs no space.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from .records import Generation, InputError

if TYPE_CHECKING:
    import pandas

MANIFEST, RUN, SUMMARY = "manifest.json", "run.json", "summary.json"
COST, METRICS, GENERATIONS, SCORES, POLICY = (
    "cost.json",
    "metrics.jsonl",
    "generations.jsonl",
    "scores.parquet",
    "policy",
)
TRACKED = "tracked.json"  # in a run's folder: what was sent to trackers
ALONG, ALONG_SCORES = "along", "along.parquet"  # checkpoints along training: their folder, and their scores


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files below a folder."""
    return digest({name: file_digest(folder / name) for name in _files(folder)})


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a crash leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON object a line; dataclasses are written by their fields."""
    with open(path, "w", encoding="utf-8") as stream:
        for row in rows:
            record = dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
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
    def content(self) -> str:
        """Hash of what the stage made, its log and cost (which hold times) left out."""
        files = read_json(self.path / MANIFEST)["files"]
        return digest({name: sha for name, sha in files.items() if name not in (COST, METRICS)})


@dataclass(frozen=True)
class Made:
    """A stage as its manifest tells of it: {"stage", "key", "inputs", "seconds", "created", "files"}."""

    path: Path
    manifest: dict[str, Any]

    @property
    def stage(self) -> Stage:
        return Stage(self.path, self.manifest["key"], fresh=False)

    @property
    def cost(self) -> dict[str, float]:
        return read_json(self.path / COST) if (self.path / COST).exists() else {}


class Store:
    """Finds finished stages by their key and makes the missing ones."""

    def __init__(self, root: Path):
        self.root = Path(root)

    @property
    def verdicts(self) -> Path:
        """The folder of judges' answers, shared by all runs."""
        return self.root / "cache" / "verdicts"

    def remember(self, run: "Run") -> None:
        """Note where a run lies, which may be anywhere, so that `bench cache gc` keeps what it refers to."""
        path = str(run.path.resolve())
        self._register.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._register.with_name(".runs.lock")):
            if Path(path) not in self.remembered():
                with open(self._register, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(path) + "\n")

    def remembered(self) -> list[Path]:
        """The folders of runs that used this cache, those that are gone among them."""
        return [Path(path) for path in read_jsonl(self._register)] if self._register.exists() else []

    def runs(self) -> list["Run"]:
        """The runs below this root."""
        return [Run(path.parent) for path in sorted(self.root.glob(f"runs/**/{RUN}"))]

    @property
    def _register(self) -> Path:
        return self.root / "cache" / "runs.jsonl"

    def find(self, name: str, inputs: dict[str, Any]) -> Stage | None:
        """The stage made from these inputs, if it is on disk and every file still has its recorded hash."""
        key = digest({"stage": name, **inputs})
        folder = self.root / "cache" / name / key[:20]
        return Stage(folder, key, fresh=False) if _is_whole(folder, key) else None

    def made(self) -> Iterator[Made]:
        """Every stage on disk that has a manifest; its files are not checked against it."""
        for path in sorted(self.root.glob(f"cache/*/*/{MANIFEST}")):
            with contextlib.suppress(OSError, ValueError):
                yield Made(path.parent, read_json(path))

    def stage(self, name: str, inputs: dict[str, Any], build: Callable[[Path], None]) -> Stage:
        """Return the stage made from these inputs, calling `build(folder)` only if it is not there yet.

        inputs: everything that the result depends on, JSON-able (settings, keys and digests of other stages).
        """
        key = digest({"stage": name, **inputs})
        parent = self.root / "cache" / name
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {parent} ({error.strerror}); give another folder with --out") from None
        with FileLock(parent / f".{key[:20]}.lock"):
            if found := self.find(name, inputs):
                return found
            folder = parent / key[:20]
            if folder.exists():  # damaged: kept aside, for nothing on disk is ever lost
                folder.rename(parent / f"{key[:20]}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
            partial = Path(tempfile.mkdtemp(prefix=f".{key[:20]}.", suffix=".partial", dir=parent))
            started = time.monotonic()
            try:
                build(partial)
                seconds = round(time.monotonic() - started, 3)
                _seal(partial, {"stage": name, "key": key, "inputs": inputs, "seconds": seconds})
                partial.rename(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        return Stage(folder, key, fresh=True)


@dataclass(frozen=True)
class Cell:
    """One method trained with one seed, as it lies in a run's folder."""

    method: str
    seed: int
    path: Path

    def cost(self) -> dict[str, float]:
        return read_json(self.path / COST) if (self.path / COST).exists() else {}

    def metrics(self) -> list[dict[str, Any]]:
        """Training log, one dict a step with at least `step`; empty for `sft`, which is trained once for all."""
        return read_jsonl(self.path / METRICS) if (self.path / METRICS).exists() else []

    def generations(self) -> list[Generation]:
        return read_generations(self.path / GENERATIONS)

    def scores(self) -> "pandas.DataFrame":
        """Columns metric, prompt_id, value (NaN where the evaluator could not tell)."""
        import pandas

        return pandas.read_parquet(self.path / SCORES)

    def along(self) -> "pandas.DataFrame | None":
        """Columns examples, metric, prompt_id, value of the checkpoints along training, SFT at 0; None without any."""
        import pandas

        path = self.path / ALONG_SCORES
        return pandas.read_parquet(path) if path.exists() else None


class Run:
    """The folder of one run: a contract, its cells, its summary and its report."""

    def __init__(self, path: Path):
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        return (self.path / RUN).exists()

    @property
    def record(self) -> dict[str, Any]:
        """run.json: {"run_id", "benchmark", "created", "commands", "contract", "environment", "data", "methods"}."""
        return read_json(self.path / RUN)

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.path / SUMMARY)

    @property
    def report_path(self) -> Path:
        return self.path / "report"

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_json(self.path / SUMMARY, summary)

    def open(self, record: dict[str, Any]) -> None:
        """Create run.json, or join the run that is already there if its contract is the same.

        InputError if the folder belongs to a run with another contract, or holds something that is no run.
        """
        old: dict[str, Any] = {}
        if self.exists:
            old = self.record
            if old["contract"] != record["contract"]:
                differs = ", ".join([*differences(old["contract"], record["contract"])][:6])
                raise InputError(
                    f"{self.path} belongs to run {old['run_id']} with another configuration (differs in {differs}); "
                    f"give another folder with --out, or leave --out away to get a folder of its own"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"{self.path} is not empty and holds no run.json; give a new or empty folder with --out")
        merged = {
            **record,
            "created": old.get("created", record["created"]),
            "commands": [*old.get("commands", []), *record["commands"]],
            "methods": {**old.get("methods", {}), **record["methods"]},
        }
        write_json(self.path / RUN, merged)

    def place(self, method: str, seed: int, stages: Sequence[Stage]) -> Cell:
        """Show the files of these stages as the cell of (method, seed); later stages win where names meet."""
        cell = self.path / method / f"seed-{seed}"
        cell.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{cell.name}.", suffix=".partial", dir=cell.parent))
        for stage in stages:
            for name in _files(stage.path):
                _link(stage.path / name, partial / name)
        _seal(partial, {"method": method, "seed": seed, "stages": {s.path.parent.name: s.key for s in stages}})
        if _is_same(cell, partial):
            shutil.rmtree(partial)
        else:
            if cell.exists():
                aside = cell.with_name(f".{cell.name}.replaced")
                shutil.rmtree(aside, ignore_errors=True)
                cell.rename(aside)
                partial.rename(cell)
                shutil.rmtree(aside)  # links only: the files themselves stay in the cache
            else:
                partial.rename(cell)
        return Cell(method, seed, cell)

    def scores(self) -> "pandas.DataFrame":
        """The scores of all cells: columns method, seed, metric, prompt_id, value."""
        import pandas

        frames = [cell.scores().assign(method=cell.method, seed=cell.seed) for cell in self.cells()]
        return pandas.concat(frames, ignore_index=True)[["method", "seed", "metric", "prompt_id", "value"]]

    def cells(self) -> Iterator[Cell]:
        """The cells on disk, `sft` first, then in the order of run.json, seeds ascending."""
        order = ["sft", *(name for name in self.record["methods"] if name != "sft")]
        for method in order:
            found = [(int(p.name.removeprefix("seed-")), p) for p in (self.path / method).glob("seed-*")]
            for seed, path in sorted(found):
                if (path / MANIFEST).exists():
                    yield Cell(method, seed, path)


def find_runs(path: Path) -> list[Run]:
    """The runs at or below a folder; InputError if there is none."""
    path = Path(path)
    found = [path] if Run(path).exists else sorted(p.parent for p in path.glob(f"**/{RUN}"))
    if not found:
        raise InputError(f"{path} holds no run (no {RUN} at or below it); give the folder that `bench run` printed")
    return [Run(p) for p in found]


def find_run(path: Path, finished: bool = False) -> Run:
    """The one run at or below a folder; InputError if there is none, more than one, or one that is not finished."""
    runs = find_runs(path)
    if len(runs) > 1:
        raise InputError(f"{path} holds {len(runs)} runs; give the folder of one, for example {runs[0].path}")
    if finished and not (runs[0].path / SUMMARY).exists():
        raise InputError(f"{runs[0].path} has no {SUMMARY}: the run is not finished; give its command again")
    return runs[0]


def _files(folder: Path) -> list[str]:
    """Relative names of the files of a stage, its manifest and hidden files left out, sorted."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(n for n in names if n != MANIFEST and not any(part.startswith(".") for part in n.split("/")))


def _seal(folder: Path, record: dict[str, Any]) -> None:
    files = {}
    for name in _files(folder):
        with open(folder / name, "rb") as stream:
            files[name] = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
    write_json(folder / MANIFEST, {**record, "created": datetime.now(UTC).isoformat(), "files": files})


def _is_whole(folder: Path, key: str) -> bool:
    try:
        manifest = read_json(folder / MANIFEST)
        return manifest["key"] == key and all(
            file_digest(folder / name) == expected for name, expected in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _is_same(cell: Path, other: Path) -> bool:
    try:
        old, new = (read_json(folder / MANIFEST) for folder in (cell, other))
        return old["stages"] == new["stages"] and old["files"] == new["files"] and _files(cell) == _files(other)
    except (OSError, ValueError, KeyError):
        return False


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two JSON values differ: dotted name, and both values (None where one has no such field)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = {}
        for name in sorted(set(old) | set(new)):
            found |= differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    return {} if old == new else {prefix: (old, new)}
