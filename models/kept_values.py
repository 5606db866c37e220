"""A model's values for some texts, kept in its stage, so that these texts need not go through it again."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..results.integrity import digest, write_json
from .layout import Sequences

NAME = "known.json"


def write_kept(model: Path, sequences: Sequences, values: Iterable[float]) -> None:
    """Keep the value of each sequence, under the hash of its ids; not in the model's folder, which people take away."""
    write_json(model.parent / NAME, dict(zip(map(digest, sequences), values, strict=True)))


def read_kept(model: Path) -> dict[str, float]:
    """Values that `write_kept` kept of a model; none, if it was not called."""
    path = model.parent / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def filled(
    sequences: Sequences, known: Mapping[str, float], compute: Callable[[Sequences], Iterable[float]]
) -> list[float]:
    """The value of each sequence; compute is called with those that are not known, each once, if there are any."""
    keys = [digest(row) for row in sequences]
    new = {key: row for key, row in zip(keys, sequences, strict=True) if key not in known}
    found = dict(zip(new, compute([*new.values()]), strict=True)) if new else {}
    return [known[key] if key in known else found[key] for key in keys]
