"""What every stage works with, and what its key hangs on: the source of the code, plugins, libraries."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..methods.resume import EVERY
from ..results.checkpoint import Tuning
from ..results.model_files import remote_code_allowed
from ..results.store import Store, digest

PACKAGE = Path(__file__).parent.parent


@lru_cache
def code_digest(*parts: str) -> str:
    """SHA-256 of our own source below these folders or files; a stage made by other code is another stage."""
    files = sorted(
        p for part in parts for p in ([PACKAGE / part] if part.endswith(".py") else (PACKAGE / part).glob("*.py"))
    )
    return digest([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])


MODEL_CODE = (  # how a model is opened, and rows of text go through it
    "results/chat.py",
    "results/checkpoint.py",
    "results/cutting.py",
    "results/known.py",
    "results/layout.py",
    "results/lazy.py",
    "results/lora.py",
    "results/packing.py",
    "results/target_logps.py",
)
TRAINING_CODE = (
    "methods",
    "benchmarks/stages.py",
    *MODEL_CODE,
    "results/processes.py",
    "results/sharding.py",
    "results/zero.py",
)
SCORER = "evaluators/reward_model.py"  # how a reward model is asked


@dataclass(frozen=True)
class Workshop:
    """What every stage works with."""

    store: Store
    tuning: Tuning
    packages: dict[str, str]
    """Versions of the libraries that numbers depend on."""
    checkpoint_every: float = EVERY
    """Seconds between the checkpoints from which a training that was stopped goes on."""

    def inputs(self, code: Iterable[str] = TRAINING_CODE, **more: Any) -> dict[str, Any]:
        return {
            "code": code_digest(*code),
            "tuning": dataclasses.asdict(self.tuning),
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


def source_digest(cls: type) -> str:
    """Hash of the file that defines a plugin, so that an edited plugin is trained anew."""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def library_version(library: str) -> str | None:
    """Version of an optional library; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
