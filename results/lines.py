"""Files that rows are appended to, a JSON value a line: a crash or a full disk costs the row under way, no other."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from .integrity import writing

Row = TypeVar("Row")
# what a line may raise that is not what was written, cut, overwritten or made up
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


def append_line(path: Path, value: Any) -> None:
    """Add a line in one write and bring it to the disk; where the last line is torn, behind a line break."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as stream:
            torn = stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1) != b"\n")[1]
            stream.write(b"\n" * bool(torn) + json.dumps(value, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def read_lines(path: Path, form: Callable[[Any], Row], loss: str) -> Iterator[Row]:
    """`form(value)` of each line, none for a file that is not there; empty lines are passed over.

    A line that is no JSON, or for which `form` raises what a wrong value raises, is left out, and told at the end with
    `loss`, what its absence means.
    """
    damaged = lines = 0
    if not path.exists():
        return
    with open(path, "rb") as stream:
        for line in stream:
            lines += 1
            if not line.strip():
                continue
            try:
                row = form(json.loads(line))
            except DAMAGE:
                damaged += 1
            else:
                yield row
    if damaged:
        logging.getLogger(__name__).warning("%s: %d of %d lines are damaged; %s", path, damaged, lines, loss)
