"""Which pairs of the training split are learned from, where a benchmark asks for some of them."""

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import InputError
from ...results.lazy import LazySequence
from ...results.records import Pair
from ..definition.spec import BY_HASH, HIGH_CHES, BenchmarkSpec
from .arrow_columns import alike, pair_of, subset_of
from .arrow_rows import ArrowFile

Score = Callable[[Sequence[Pair]], np.ndarray]  # a number a pair


def check_training_pairs(spec: BenchmarkSpec) -> None:
    """InputError for settings that do not go together."""
    asked = spec.training_pairs
    if asked.by != BY_HASH and asked.most is None:
        raise InputError(
            f"{spec.place('training_pairs', 'by')}: {asked.by} says which pairs come first, and all are taken; give "
            f"training_pairs.most"
        )


def training_rows(spec: BenchmarkSpec, file: ArrowFile, kept: np.ndarray, rows: np.ndarray, score: Score) -> np.ndarray:
    """Those of the training split's rows that `training_pairs` asks for, rising; InputError where there are none.

    kept: the places of all rows in the file. rows: places among these, rising. score: CHES of pairs (`models/ches.py`).
    """
    asked = spec.training_pairs
    if asked.without is not None:
        subsets = [subset_of(*file.find(int(place)))[1] for place in kept[rows]]
        if asked.without not in subsets or len(set(subsets)) == 1:
            there = sorted({str(subset) for subset in subsets if subset is not None})
            raise InputError(
                f"{spec.place('training_pairs', 'without')}: {asked.without!r} is not one of several subsets of the "
                f"training pairs ({', '.join(there) or 'they have none'}); give one of those, or null"
            )
        rows = rows[[subset != asked.without for subset in subsets]]
    if asked.alike:
        rows = rows[[alike(*file.find(int(place))) >= asked.alike for place in kept[rows]]]
        if not len(rows):
            raise InputError(
                f"{spec.place('training_pairs', 'alike')}: no training pair has replies that are alike to "
                f"{asked.alike:g}; give a smaller share"
            )
    if asked.by == BY_HASH:
        order = np.argsort(file.column("id")[kept[rows]], kind="stable")
    else:
        pairs = LazySequence(len(rows), lambda i: pair_of(*file.find(int(kept[rows[i]]))))
        order = np.argsort(score(pairs) * (-1 if asked.by == HIGH_CHES else 1), kind="stable")
    return np.sort(rows[order[: asked.most]])
