"""The context of every stage: store, tuning, and what its key depends on: folders of code, plugins, libraries.

A key depends on whole folders, never on a list of files, so that no file can be forgotten and none outside them counts:
what trains on TRAINING_CODE, what scores on SCORING_CODE; a cell adds the files of its method (`class_code`).
"""

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from ..models.model_files import remote_code_allowed
from ..models.tuning import Tuning
from ..results.integrity import code_digest, file_digest
from ..results.store import Store

OURS = __package__.partition(".")[0]
MODEL_CODE = ("models", "runtime")  # how a model is opened, and rows of text go through it
TRAINING_CODE = (*MODEL_CODE, "training")
SCORING_CODE = (*MODEL_CODE, "evaluators")
LOSSES = "methods/losses.py"  # of all methods


@dataclass(frozen=True)
class Workshop:
    """The tools of every stage."""

    store: Store
    tuning: Tuning
    packages: dict[str, str]
    """Versions of the libraries that numbers depend on."""
    checkpoint_every: float | None = None
    """Seconds between the checkpoints from which a training that was stopped goes on; None: see training/resume.py."""

    def inputs(self, code: Iterable[str] = TRAINING_CODE, **more: Any) -> dict[str, Any]:
        return {
            "code": code_digest(*code),
            "tuning": self.tuning.identity(),
            "packages": self.packages,
            **({"trust_remote_code": True} if remote_code_allowed() else {}),
            **more,
        }


def settings_of(plugin: Any) -> dict[str, Any]:
    """A plugin's settings as JSON-able values; for a class that is no dataclass, its attributes."""
    fields = (f.name for f in dataclasses.fields(plugin)) if dataclasses.is_dataclass(plugin) else vars(plugin)
    values = {name: getattr(plugin, name) for name in fields}
    return json.loads(json.dumps(values, default=lambda v: dataclasses.asdict(v) if _is_record(v) else str(v)))


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def class_code(cls: type) -> dict[str, Any]:
    """The code of a plugin's class: hashes of the files of all classes it inherits from, and their packages' versions.

    So an edited plugin is trained anew, and one whose base class was edited in another file. Python's own classes do
    not count.
    """
    return _code(each.__module__ for each in cls.__mro__)


def function_code(name: str) -> dict[str, Any]:
    """The code of a function, package.module:function: as a class's, of the module named and of the one that has it."""
    function: Any = resolve_name(name)
    return _code((name.partition(":")[0], getattr(function, "__module__", None) or type(function).__module__))


def _code(modules: Iterable[str]) -> dict[str, Any]:
    """Hashes of the files of modules that are imported, and the versions of their packages; Python's own left out."""
    files, packages = {}, set()
    for module in modules:
        package = module.partition(".")[0]
        if package in sys.stdlib_module_names:
            continue
        try:
            files[module] = file_digest(Path(inspect.getfile(sys.modules[module])))
        except (KeyError, OSError, TypeError):  # typed into an interpreter
            files[module] = ""
        packages |= set(_distributions().get(package, ())) if package != OURS else set()
    return {"files": files, "versions": {name: version(name) for name in sorted(packages)}}


@lru_cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def method_code(cls: type) -> dict[str, Any]:
    """The code of a method: its class's, and the losses that all methods share."""
    return {**class_code(cls), "losses": code_digest(LOSSES)}


def functions_code(names: Iterable[str]) -> dict[str, str]:
    """The code of functions that settings name as package.module:function: hashes of the files that define them."""
    found = {}
    for name in names:
        try:
            found[name] = file_digest(Path(inspect.getfile(resolve_name(name))))
        except (OSError, TypeError):  # built into Python, or no plain function
            found[name] = ""
    return found


def library_version(library: str) -> str | None:
    """Version of an optional library; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
