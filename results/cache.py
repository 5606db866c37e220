"""The cache's items that runs refer to, and those that may go: `bench cache`."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .hold import held
from .integrity import MANIFEST, move, read_record
from .run_folder import Run
from .store import Made, Store

# made beside a training, a model or responses, and placed in no cell: kept with what they were made from
BESIDE = {
    "reference": ("sft", "pairs"),
    "reward_audit": ("model",),
    "rewards": ("of",),
    "reference_logps": ("sft",),
}


@dataclass(frozen=True)
class Item:
    """A folder of the cache: a stage, or what a stage left behind that broke off or was damaged."""

    path: Path
    kind: str
    """Name of the stage; "broken off" or "damaged" for leftovers."""
    used: datetime
    """When a run last made or found it; of leftovers, when they were written."""
    kept: bool
    """A run refers to it, or a process that is at work uses it."""

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in _files(self.path))

    @property
    def frees(self) -> int:
        """Bytes that deleting it frees: a file that a run's folder links to stays on the disk."""
        return sum(file.stat().st_size for file in _files(self.path) if file.stat().st_nlink == 1)


@dataclass(frozen=True)
class Cache:
    """The items of a root's cache, and the runs that were asked what they refer to."""

    items: list[Item]
    runs: list[Path]
    missing: list[Path]
    """Registered runs whose folder is no longer there: nothing is kept for them."""
    unseen: list[Path]
    """Runs that this user may not read: what they refer to is not known, so every stage is kept."""
    verdicts: int
    """Bytes of judges' answers, which were paid for and are never deleted."""

    def removable(self, older_than: timedelta, now: datetime | None = None) -> list[Item]:
        """The items that no run refers to and none has used since; what a run at work uses is kept."""
        before = (now or datetime.now(UTC)) - older_than
        return [item for item in self.items if not item.kept and item.used < before]


def look(store: Store) -> Cache:
    """Read the cache and the runs; nothing is changed."""
    made = list(store.made())
    referred: dict[Path, set[str]] = {}
    missing: list[Path] = []
    unseen: list[Path] = []
    for path in dict.fromkeys([*sorted(path.resolve() for path in store.runs()), *store.remembered()]):
        try:
            if path.resolve() in referred:
                continue
            if Run(path).exists:
                referred[path] = {*_referred(Run(path))}
            else:
                missing.append(path)
        except PermissionError:
            unseen.append(path)
    names = set().union(*referred.values())
    kept = {m.path for m in made} if unseen else _kept(made, names, held(store.cache))
    items = [Item(m.path, m.manifest["stage"], m.used, m.path in kept) for m in made]
    items += [Item(path, kind, _changed(path), False) for path, kind in _leftovers(store)]
    verdicts = sum(file.stat().st_size for file in _files(store.verdicts)) if store.verdicts.is_dir() else 0
    return Cache(items, [*referred], missing, unseen, verdicts)


def remove(items: Iterable[Item]) -> tuple[int, list[Path]]:
    """Delete folders of the cache; the bytes freed, and those left alone because a run is at work on them."""
    freed, busy = 0, []
    for item in items:
        lock = FileLock(item.path.parent / f".{item.path.name.lstrip('.').split('.')[0]}.lock")
        try:
            with lock.acquire(timeout=0):
                if item.path in held(item.path.parents[1]):  # by now: a run found it meanwhile
                    busy.append(item.path)
                    continue
                frees = item.frees
                aside = item.path.with_name(f".{item.path.name.lstrip('.')}.removed.partial")
                move(item.path, aside)  # at once: a stage is never half there
                shutil.rmtree(aside)
                freed += frees
        except Timeout:
            busy.append(item.path)
    return freed, busy


def _kept(made: Sequence[Made], names: set[str], in_use: set[Path]) -> set[Path]:
    """The stages that runs refer to by these names, those in use, and all that these were made from."""
    by_name: dict[str, list[Made]] = {}
    for stage in made:
        for name in (stage.manifest["key"], stage.stage.content):
            by_name.setdefault(name, []).append(stage)
    names |= {stage.manifest["key"] for stage in made if stage.path in in_use}
    kept: dict[Path, Made] = {}
    waiting = list(names)
    while waiting:
        for stage in by_name.get(waiting.pop(), []):
            if stage.path not in kept:
                kept[stage.path] = stage
                found = set(_texts(stage.manifest["inputs"])) - names
                names |= found
                waiting += found
    beside = {
        stage.path
        for stage in made
        if (needs := BESIDE.get(stage.manifest["stage"]))
        and all(stage.manifest["inputs"].get(need) in names or _named(stage, need, by_name, kept) for need in needs)
    }
    return set(kept) | beside


def _named(stage: Made, need: str, by_name: dict[str, list[Made]], kept: dict[Path, Made]) -> bool:
    return any(found.path in kept for found in by_name.get(stage.manifest["inputs"].get(need), []))


def _referred(run: Run) -> Iterator[str]:
    """Keys of the stages in a run's cells and of its tokenized pairs, and every hash in its contract."""
    yield from _texts(run.record.get("contract", {}))
    data = run.record.get("data", {})
    yield from _texts([data.get("stage"), data.get("brought")])
    for manifest in run.path.glob(f"*/seed-*/{MANIFEST}"):
        yield from read_record(manifest).get("stages", {}).values()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield value.partition("/")[0]  # a checkpoint along training is named <content>/<examples>
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _leftovers(store: Store) -> Iterator[tuple[Path, str]]:
    for path in sorted(store.root.glob("cache/*/.*.partial")):
        yield path, "broken off"
    for path in sorted(store.root.glob("cache/*/*.damaged-*")):
        yield path, "damaged"


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
