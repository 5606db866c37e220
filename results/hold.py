"""Stages that a process is using: held while it lives, so that freeing space elsewhere takes none of them away.

    <root>/cache/.in_use/<process>.lock  held by the process; a dead one holds nothing
    <root>/cache/.in_use/<process>.txt   written when the lock is held: the stages that it found or made, one a line

Whoever notes a stage there has that stage's lock, and whoever deletes one looks there under the same lock.
"""

import os
import secrets
from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = ".in_use"


class Hold:
    """The stages that one store of this process uses. It ends with the store, or with the process."""

    def __init__(self, cache: Path):
        self._file = cache / FOLDER / f"{os.getpid()}-{secrets.token_hex(4)}.txt"
        self._lock: FileLock | None = None
        self._held: set[Path] = set()

    def add(self, stage: Path) -> None:
        """Hold a stage; whoever calls this has the stage's own lock, so that it is not deleted meanwhile."""
        if stage in self._held:
            return
        if self._lock is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _clear(self._file.parent)
            self._lock = FileLock(self._file.with_suffix(".lock"))
            self._lock.acquire(timeout=0)
        with open(self._file, "a", encoding="utf-8") as stream:
            stream.write(f"{stage.parent.name}/{stage.name}\n")
        self._held.add(stage)


def held(cache: Path) -> set[Path]:
    """The stages that living processes use; all that any process used where this one may not look at their locks."""
    found: set[Path] = set()
    for file in sorted((cache / FOLDER).glob("*.txt")):
        try:
            with FileLock(file.with_suffix(".lock")).acquire(timeout=0):
                continue
        except (Timeout, OSError):
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            found |= {cache / line for line in lines}
    return found


def _clear(folder: Path) -> None:
    """Delete what dead processes left."""
    for file in sorted(folder.glob("*.txt")):
        try:
            with FileLock(lock := file.with_suffix(".lock")).acquire(timeout=0):
                file.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        except Timeout:
            continue
