"""The base of a LoRA adapter on disk: the model that its adapter_config.json names.

A base in the cache is named by its path from the adapter's own folder, so that what is moved together stays together;
a cell names the copy in its run's folder (placing.py). peft itself takes such a path from where a program stands:
`bench export` writes folders that it loads from anywhere.
"""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InputError
from .integrity import write_json

ADAPTER = "adapter_config.json"
NAMED = "base_model_name_or_path"


def is_adapter(folder: Path) -> bool:
    """True for a folder that holds an adapter and not a whole model."""
    return (folder / ADAPTER).is_file()


def base_of(folder: Path) -> str:
    """The base of the adapter in a folder: the path of a folder that is there, else what is named: a hub id, or a
    folder that is gone. InputError where none is named."""
    if not (named := _named(folder)):
        raise InputError(
            f"{folder / ADAPTER} names no base model; set {NAMED} in it, or merge the adapter into its base"
        )
    return str((folder / named).resolve()) if (folder / named).is_dir() else named


def is_beside(folder: Path) -> bool:
    """True where an adapter's base is named from its own folder and is there."""
    named = _named(folder)
    return bool(named) and not os.path.isabs(named) and (folder / named).is_dir()


def set_base(folder: Path, base: str, revision: str | None = None) -> None:
    """Name another base in an adapter's configuration; revision: of a hub id."""
    write_json(folder / ADAPTER, {**_settings(folder), NAMED: base, "revision": revision})


def name_bases_within(cache: Path, folder: Path) -> None:
    """Name each base that lies in the cache from the folder of its adapter; folder: a stage's, before it is sealed."""
    for path in folder.rglob(ADAPTER):
        adapter = path.parent.resolve()
        if (base := Path(_named(adapter))).is_relative_to(cache.resolve()):
            set_base(adapter, os.path.relpath(base, adapter))


def _named(folder: Path) -> str:
    return _settings(folder).get(NAMED) or ""


def _settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
