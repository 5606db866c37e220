"""The files of stages as a cell of a run's folder: hard links, put in place at once, and the base of its adapters."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .adapters import ADAPTER, base_of, is_beside, set_base
from .integrity import MANIFEST, DamageError, file_digest, file_names, move, own_folder, read_record, seal
from .store import Stage

REPLACED = ".replaced"  # end of the name of a folder while another takes its place


def place(cell: Path, base: Path, stages: Sequence[Stage], record: dict[str, Any]) -> None:
    """Show the files of these stages as a cell's folder; later stages win where names meet.

    base: the place in the run's folder for the model on which adapters of the cell stand; those of one run stand on
    one. record: what the manifest says beside the keys of the stages.
    """
    own_folder(cell.parent)
    _restore(cell)
    partial = Path(tempfile.mkdtemp(prefix=f".{cell.name}.", suffix=".partial", dir=cell.parent))
    try:
        for stage in stages:
            link(stage.path, file_names(stage.path), partial)
        for path in partial.rglob(ADAPTER):
            made = next(s.path for s in reversed(stages) if (s.path / path.relative_to(partial)).exists())
            source = made / path.parent.relative_to(partial)
            if is_beside(source):
                _place_model(Path(base_of(source)), base)
                set_base(path.parent, os.path.relpath(base, path.parent))
        seal(partial, {**record, "stages": {s.path.parent.name: s.key for s in stages}})
        if not _is_same(cell, partial):
            _replace(cell, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def restore_all(folder: Path) -> None:
    """Bring back the cells of a method that were moved away by a process which then died."""
    for aside in folder.glob(_aside(Path("seed-*")).name):
        _restore(aside.with_name(aside.name.removeprefix(".").removesuffix(REPLACED)))


def _place_model(model: Path, base: Path) -> None:
    """Show the files of a model in the run's folder, unless they are there."""
    names = file_names(model)
    if base.is_dir() and file_names(base) == names and all(_is_same_file(model / n, base / n) for n in names):
        return
    own_folder(base.parent)
    partial = Path(tempfile.mkdtemp(prefix=f".{base.name}.", suffix=".partial", dir=base.parent))
    try:
        link(model, names, partial)
        _replace(base, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder: Path, partial: Path) -> None:
    """Put a folder that is whole in the place of another."""
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
        move(folder, _aside(folder))
    move(partial, folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)  # links: the files themselves stay in the cache


def _aside(cell: Path) -> Path:
    """The place of a cell while another takes its own."""
    return cell.with_name(f".{cell.name}{REPLACED}")


def _restore(cell: Path) -> None:
    """Bring back a cell that was moved away by a process which then died; a new one that is there already stays."""
    if _aside(cell).exists() and not cell.exists():
        move(_aside(cell), cell)


def _is_same(cell: Path, other: Path) -> bool:
    """True if a cell has the stages, evaluators and files of another that is whole, and is whole itself."""
    try:
        old, new = (read_record(folder / MANIFEST) for folder in (cell, other))
        same = all(old.get(part) == new[part] for part in ("stages", "evaluators", "files"))
        return same and all(_is_same_file(cell / name, other / name) for name in new["files"])
    except (OSError, DamageError):
        return False


def _is_same_file(a: Path, b: Path) -> bool:
    return os.path.samefile(a, b) or file_digest(a) == file_digest(b)


def link(source: Path, names: Iterable[str], target: Path) -> None:
    """Hard links to files of a folder in another one, over what is there; copies where there are no links."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).unlink(missing_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copy2(source / name, target / name)
