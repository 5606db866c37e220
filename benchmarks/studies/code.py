"""The code that a study's numbers come from, as the keys of its stages have it, and what of it is another today."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...results.integrity import code_digest, digest
from ..context import SCORING_CODE, TRAINING_CODE, method_code
from ..data.corpus import WORLD_CODE
from ..definition.plugins import available, load
from ..definition.spec import BenchmarkSpec

TRAINING, SCORING, WORLD = "training", "scoring", "world"


def code_of(methods: Sequence[str], spec: BenchmarkSpec) -> dict[str, str]:
    """Hashes by part: what trains, what scores, the built-in world where it is used, and each method by its name."""
    names = list(dict.fromkeys(item.partition(":")[0] for item in methods))
    world = spec.preferences == "builtin/world"
    return _digests([TRAINING, SCORING, *([WORLD] if world else []), *names])


def changed_since(record: Mapping[str, Any]) -> list[str]:
    """The parts whose code is another today than it was when a study was made; an older record names none."""
    if "code" not in record:
        return ["perhaps all"]
    now = _digests(record["code"])
    return [part for part, was in record["code"].items() if now[part] != was]


def _digests(parts: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    folders = {TRAINING: TRAINING_CODE, SCORING: SCORING_CODE, WORLD: WORLD_CODE}
    there = available("methods")
    return {
        part: code_digest(*folders[part])
        if part in folders
        else digest(method_code(load("methods", part)))
        if part in there
        else ""  # a method that is gone has no code
        for part in parts
    }
