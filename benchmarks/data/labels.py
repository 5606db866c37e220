"""A labeller that errs: which of the training pairs have their two replies on changed sides, by hash."""

from collections.abc import Sequence

import numpy as np

from ...evaluators.reward_function import reward_of
from ...results.integrity import digest
from ...results.records import Generation
from ..definition.spec import LENGTH, Labels
from .arrow_columns import SIDES, labelled_pair_of
from .arrow_rows import ArrowFile


def changed(file: ArrowFile, labels: Labels, asked_by: str) -> np.ndarray:
    """The ids, rising, of the pairs of a file whose chosen reply becomes the rejected one.

    First the reply that the taste prefers is chosen in a share `bias` of the pairs, then a share `flip` of all changes
    sides. Each pair draws two numbers of its own from its id, so the pairs that are flipped at one share are flipped at
    every larger one. asked_by: where the taste is written, for the InputError where its function is none or fails.
    """
    ids = file.column("id")
    flipped = _drawn(ids, "flip") < labels.flip
    swayed = np.flatnonzero(_drawn(ids, "bias") < labels.bias)
    chosen, rejected = _liked(file, swayed, labels.taste, asked_by)
    biased = np.zeros(len(ids), bool)
    biased[swayed[rejected > chosen]] = True
    return np.sort(ids[biased ^ flipped])


def _liked(file: ArrowFile, rows: np.ndarray, taste: str, asked_by: str) -> Sequence[np.ndarray]:
    """By side how well a taste likes the replies of these rows."""
    if taste == LENGTH:
        return [file.lengths(f"{side}_ids")[rows] for side in SIDES]
    function, found = reward_of(taste, asked_by), []
    for row in rows:
        pair = labelled_pair_of(*file.find(int(row)))
        replies = zip((pair.chosen, pair.rejected), pair.cut, strict=True)
        found.append(function([Generation(pair.prompt_id, pair.prompt, text, 0, not cut) for text, cut in replies]))
    return [*np.array(found, float).reshape(-1, len(SIDES)).T]


def _drawn(ids: np.ndarray, what: str) -> np.ndarray:
    """A number from 0 to 1 for each id."""
    return np.fromiter((int(digest([what, int(i)])[:13], 16) / 16**13 for i in ids), float, len(ids))
