"""Work without gradients that all processes of a run share: texts are dealt out by their tokens, values gathered.

Either all processes call it, with `together`, as in a training; or the first one calls it while the others wait for
work (`processes.waiting`), and what it calls goes to them: the name of the function, its arguments, and of a model the
`Source` by which each opens it for itself.
"""

import functools
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, TypeVar, cast

from ..runtime import processes
from ..runtime.turns import end_turns
from .layout import Sequences, families, family_lengths, numbered

Value = TypeVar("Value")
Row = TypeVar("Row")
Work = TypeVar("Work", bound=Callable[..., Any])


@dataclass(frozen=True)
class Source:
    """A model's origin: a function of a module and its arguments, which open the same one in another process."""

    open: Callable[..., Any]
    arguments: tuple[Any, ...]


_opened: dict[Source, Any] = {}  # in the processes beside the first, for what comes next


def shared(work: Work) -> Work:
    """A function (rows, ..., together) to which processes that wait are called; its models have a `source`, or None."""
    name = f"{work.__module__}:{work.__qualname__}"

    @functools.wraps(work)
    def call(*given: Any, together: bool = False, **how: Any) -> Any:
        can = not together and processes.are_waiting()
        if not can or any(getattr(value, "source", value) is None and value is not None for value in given):
            return work(*given, together=together, **how)
        sent = [getattr(value, "source", value) for value in given]
        with processes.helped(_join, name, sent, how):
            return work(*given, together=True, **how)

    return cast(Work, call)


def _join(name: str, given: Sequence[Any], how: dict[str, Any]) -> None:
    """In the processes beside the first: its call, with the same models, of which no others stay in memory."""
    let_go(but=[value for value in given if isinstance(value, Source)])
    for value in given:
        if isinstance(value, Source) and value not in _opened:
            _opened[value] = value.open(*value.arguments)
    resolve_name(name)(*(_opened[v] if isinstance(v, Source) else v for v in given), together=True, **how)


def let_go(but: Sequence[Source] = ()) -> None:
    """Take the models out of memory that were opened for the first process's calls."""
    for source in [source for source in _opened if source not in but]:
        model = _opened.pop(source)
        if network := getattr(model, "network", None):
            network.close()


def by_all(
    rows: Sequence[Row], hands: Sequence[Sequence[int]], work: Callable[[list[Row]], Sequence[Value]]
) -> list[Value]:
    """The value of each row, in their order; every process has the whole list and computes those of its hand."""
    own = [rows[i] for i in hands[processes.rank()]]
    values = [*work(own)] if own else []
    end_turns()
    shards = processes.all_gather(values)  # should one have failed, all hear it here
    found = {i: value for hand, shard in zip(hands, shards, strict=True) for i, value in zip(hand, shard, strict=True)}
    return [found[i] for i in range(len(rows))]


def deal(rows: Sequence[Sequences], *, share_prompts: bool) -> list[list[int]]:
    """Indices of rows for each process, rising, so that the one with most tokens has few.

    share_prompts: sequences with one prompt, in one process, have it once; rows stand there whole or apart, whichever
    leaves less to the slowest.
    """
    hands = processes.size()
    if hands == 1:
        return [[*range(len(rows))]]
    texts = iter(numbered([sequence for row in rows for sequence in row]))
    of_row = [[next(texts) for _ in row] for row in rows]
    sizes = [sum(family_lengths(some, families(some, share_prompts=share_prompts))) for some in of_row]
    apart = deal_sizes(sizes, hands)
    if not share_prompts:
        return apart
    groups: dict[int, list[int]] = {}
    for i, some in enumerate(of_row):
        groups.setdefault(some[0].number, []).append(i)
    both = [[text for i in rows for text in of_row[i]] for rows in groups.values()]
    of_group = [sum(family_lengths(some, families(some, share_prompts=True))) for some in both]
    members = [*groups.values()]
    whole = [sorted(i for g in hand for i in members[g]) for hand in deal_sizes(of_group, hands)]

    def slowest(dealt: list[list[int]]) -> int:
        held = [[text for i in hand for text in of_row[i]] for hand in dealt]
        return max(sum(family_lengths(some, families(some, share_prompts=True))) for some in held)

    return min(whole, apart, key=slowest)


def deal_sizes(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Indices for each of some hands, rising: the largest first, each to the hand that has least so far.

    Its slowest hand has at most 4/3 of the least that is possible (Graham 1969, doi:10.1137/0117039).
    """
    dealt: list[list[int]] = [[] for _ in range(hands)]
    held = [(0, 0, hand) for hand in range(hands)]  # tokens, rows, hand
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        tokens, rows, hand = held[0]
        dealt[hand].append(i)
        heapq.heapreplace(held, (tokens + sizes[i], rows + 1, hand))
    return [sorted(hand) for hand in dealt]
