"""Many rows, few of them in memory at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

Value = TypeVar("Value")
CHUNK = 1000  # rows that are in memory at a time where all are gone over


class LazySequence(Sequence[Value]):
    """Values that are made when they are looked at and not kept, so that memory does not grow with their number."""

    def __init__(self, length: int, make: Callable[[int], Value]):
        """make: the value at a place from 0 to length - 1, the same each time."""
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place):
        """The value at a place; a list of values for a slice."""
        found = range(self.length)[place]
        return [self.make(i) for i in found] if isinstance(found, range) else self.make(found)


def chunks(rows: Iterable[Value], progress: str | None = None) -> Iterator[list[Value]]:
    """Rows in their order, so many at a time that a model finds some of each length; progress: label of the bar."""
    rest = iter(tqdm(rows, progress, unit="row", leave=False, disable=None if progress else True))
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
