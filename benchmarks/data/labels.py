"""A labeller that errs: which of the training pairs have their two replies on changed sides, by hash."""

import numpy as np

from ...results.integrity import digest
from ..definition.spec import Labels


def changed(ids: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, labels: Labels) -> np.ndarray:
    """The ids, rising, of the pairs whose chosen reply becomes the rejected one.

    ids: hashes of the pairs. chosen, rejected: tokens of their replies. First the longer reply is chosen in a share
    `length_bias` of the pairs, then a share `flip` of all changes sides. Each pair draws two numbers of its own from
    its id, so the pairs that are flipped at one share are flipped at every larger one.
    """
    biased = (_drawn(ids, "length") < labels.length_bias) & (rejected > chosen)
    flipped = _drawn(ids, "flip") < labels.flip
    return np.sort(ids[biased ^ flipped])


def _drawn(ids: np.ndarray, what: str) -> np.ndarray:
    """A number from 0 to 1 for each id."""
    return np.fromiter((int(digest([what, int(i)])[:13], 16) / 16**13 for i in ids), float, len(ids))
