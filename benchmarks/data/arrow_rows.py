"""Rows in Arrow files that are mapped into memory: a row comes from the disk when it is looked at."""

import bisect
import mmap
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow
import pyarrow.compute
from pyarrow import RecordBatch

from ...results.lazy import LazySequence

Row = TypeVar("Row")
Other = TypeVar("Other")
LOOKS = 200  # rows that are looked at before the pages they lay on are let go


class ArrowFile:
    """An Arrow file that is mapped into memory, its name no longer needed."""

    def __init__(self, path: Path):
        with open(path, "rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._batches = pyarrow.ipc.open_file(pyarrow.py_buffer(self._map)).read_all().to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()
        self._looks = 0
        self._let_go()  # of what was read to find the batches

    def __len__(self) -> int:
        return self._starts[-1]

    def column(self, name: str) -> np.ndarray:
        """All values of a column of numbers."""
        return np.concatenate([np.empty(0, np.uint64), *(b.column(name).to_numpy() for b in self._batches)])

    def lengths(self, name: str) -> np.ndarray:
        """How many values each list of a column of lists has."""
        counted = (pyarrow.compute.list_value_length(batch.column(name)).to_numpy() for batch in self._batches)
        return np.concatenate([np.empty(0, np.int32), *counted])

    def find(self, row: int) -> tuple[RecordBatch, int]:
        """The batch of a row, and its place in there."""
        self._looks += 1
        if self._looks % LOOKS == 0:
            self._let_go()
        number = bisect.bisect_right(self._starts, row) - 1
        return self._batches[number], row - self._starts[number]

    def _let_go(self) -> None:
        """Hand pages back that the system would take anyway when it is short of memory, and keeps in its cache: lest a
        pass over the file look as if the whole of it were needed."""
        self._map.madvise(mmap.MADV_DONTNEED)


class ArrowRows(LazySequence[Row], Generic[Row]):
    """The rows of an Arrow file, as `read` makes them of a batch and a place in it.

    digest: hash of what the rows say, for whoever would else go over all of them.
    """

    def __init__(self, file: ArrowFile, read: Callable[[RecordBatch, int], Row], digest: str | None = None):
        super().__init__(len(file), lambda row: read(*file.find(row)))
        self.file, self.digest = file, digest

    def column(self, name: str) -> np.ndarray:
        """All values of a column of numbers."""
        return self.file.column(name)

    def some(self, count: int) -> LazySequence[Row]:
        """At most so many rows, those with the smallest ids (which are hashes), in their order."""
        places = np.sort(np.argsort(self.column("id"))[:count])
        return LazySequence(len(places), lambda i: self[int(places[i])])

    def read_as(self, read: Callable[[RecordBatch, int], Other]) -> "ArrowRows[Other]":
        """The same rows as something else."""
        return ArrowRows(self.file, read)


def token_ids(batch: RecordBatch, column: str, place: int) -> tuple[int, ...]:
    """A value of a column of lists of numbers."""
    return tuple(batch.column(column)[place].values.to_numpy().tolist())


def divide(path: Path, parts: Mapping[Path, tuple[np.ndarray, np.ndarray]]) -> None:
    """Copy rows of an Arrow file into others: by file their places, which rise, and the ids that their prompts get.

    One batch is in memory at a time.
    """
    with pyarrow.OSFile(str(path)) as stream, ExitStack() as stack:
        source = pyarrow.ipc.open_file(stream)
        writers = {part: stack.enter_context(pyarrow.ipc.new_file(str(part), source.schema)) for part in parts}
        start = 0
        for number in range(source.num_record_batches):
            batch = source.get_batch(number)
            for part, (places, prompt_ids) in parts.items():
                first, last = np.searchsorted(places, (start, start + batch.num_rows))
                if first < last:
                    rows = batch.take(pyarrow.array(places[first:last] - start))
                    column, ids = rows.schema.get_field_index("prompt_id"), pyarrow.array(prompt_ids[first:last])
                    writers[part].write_batch(rows.set_column(column, rows.schema.field(column), ids))
            start += batch.num_rows
