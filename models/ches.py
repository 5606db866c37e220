"""CHES: how alike the hidden states of a pair's replies are, by which training on the pair displaces likelihood.

Razin et al. (2024, arXiv:2410.08847), normalized by length: with H the mean over a reply's tokens of the hidden state
from which each is predicted, <H_chosen, H_rejected> - |H_chosen|^2, in the units of the states squared. The higher it
is, the more the chosen reply is to lose. With sums in place of means it goes by length: pairs of long chosen replies
have the lowest.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ..results.lazy import chunks
from ..results.records import Pair
from .layout import Layout
from .policy import Policy


def ches(policy: Policy, pairs: Sequence[Pair]) -> np.ndarray:
    """The score [pairs] of each pair by the states of this policy."""

    def means(layout: Layout) -> Iterable[np.ndarray]:
        states = policy.network.hidden(layout, layout.before).double().cpu()
        return [part.mean(0).numpy() for part in states.split(layout.mask.sum(1).tolist())]

    found: list[float] = []
    for chunk in chunks(pairs, "similarity of replies"):
        rows = [(pair.prompt.ids, reply) for pair in chunk for reply in (pair.chosen, pair.rejected)]
        of_replies = policy.network.over_distinct(rows, means)
        found += [h @ (other - h) for h, other in zip(of_replies[::2], of_replies[1::2], strict=True)]
    return np.array(found, float)
