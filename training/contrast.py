"""Contrast pairs: pairs that need no label, of a reply and what no good response could be.

People compare replies that all fit their prompt and are all well formed. So a reward model that learns from them alone
is never told that a response should fit its prompt or be language at all, and rewards policies that left both behind.
Half of the contrast pairs set a prompt's own reply over a reply to another prompt; the others set a reply over the same
reply cut short, said twice, or with its words in random order. Chosen and rejected replies are taken alike: which of
two replies people prefer is left to their labels.
"""

import random
from collections.abc import Callable, Sequence

from ..results.lazy import LazySequence
from ..results.records import Ids, Pair

TRIES = 20  # draws of a reply to another prompt


def with_contrast(pairs: Sequence[Pair], share: float, seed: int, longest: int) -> Sequence[Pair]:
    """The pairs and, after them, so many contrast pairs that these are a share of all; each is made when looked at.

    share: from 0 to below 1. longest: tokens that a reply may have, its EOS included. The same seed gives the same.
    """
    count = round(len(pairs) * share / (1 - share))
    return LazySequence(
        len(pairs) + count,
        lambda place: pairs[place] if place < len(pairs) else contrast_pair(pairs, f"{seed}-{place}", longest),
    )


def contrast_pair(pairs: Sequence[Pair], name: str, longest: int) -> Pair:
    """The contrast pair of this name: a reply over one to another prompt, or over the same reply damaged."""
    rng = random.Random(name)
    own = pairs[rng.randrange(len(pairs))]
    reply = rng.choice((own.chosen, own.rejected))
    worse = _of_another(pairs, own, reply, rng) if rng.random() < 0.5 else None
    if worse is None:
        body, end = reply[:-1], reply[-1]
        damages = [damage(body, rng, longest - 1) for damage in rng.sample(DAMAGES, len(DAMAGES))]
        worse = next(((*found, end) for found in damages if found and found != body), None)
    if worse is None:  # a reply of one token in a data set of one prompt
        worse = (reply[-1],)
    return Pair(f"contrast-{name}", own.prompt, reply, worse)


def _of_another(pairs: Sequence[Pair], own: Pair, reply: Ids, rng: random.Random) -> Ids | None:
    """A reply to another prompt that is not the same text; None where few prompts have other replies."""
    for _ in range(TRIES):
        other = pairs[rng.randrange(len(pairs))]
        found = rng.choice((other.chosen, other.rejected))
        if other.prompt.id != own.prompt.id and found != reply:
            return found
    return None


def _cut(body: Ids, rng: random.Random, longest: int) -> Ids:
    return body[: rng.randrange(1, len(body))] if len(body) > 1 else ()


def _repeated(body: Ids, rng: random.Random, longest: int) -> Ids:
    return (body + body)[:longest]


def _scrambled(body: Ids, rng: random.Random, longest: int) -> Ids:
    return tuple(rng.sample(body, len(body)))


DAMAGES: tuple[Callable[[Ids, random.Random, int], Ids], ...] = (_cut, _repeated, _scrambled)
