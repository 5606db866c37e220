"""Preferences written in another shape: to a file, to a folder of `datasets`, or to the hub."""

import csv
import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import InputError, nearest
from ..results.integrity import move
from .columns import Columns
from .convert import CUTS, NUMBERS, TEXTS, Comparison, comparisons
from .files import FORMATS, HUB_ID, TABLES, format_of, open_source, path_of
from .shapes import SHAPES

if TYPE_CHECKING:
    import pyarrow

HUB = "hub:"
BATCH = 1000  # rows of a Parquet row group


@dataclass(frozen=True)
class Converted:
    """The outcome of a source's rows."""

    read: int
    comparisons: int
    written: int
    dropped: dict[str, int]


def convert(
    source: str,
    out: str,
    shape: str | None = None,
    *,
    split: str = "train",
    private: bool = True,
    columns: Columns | None = None,
) -> Converted:
    """Convert a file, folder or hub data set; returns the counts.

    out: a file named after its format, a new folder (a data set that `datasets` loads), or hub:OWNER/NAME. shape: see
    shapes.SHAPES; none is pairs, or text for a table. columns: the source's own names, see columns.py. Rows are
    streamed to a temporary sibling that is then renamed, so a file that was there stays whole until the new one is.
    InputError for bad input, or if nothing could be written.
    """
    target = path_of(out)
    to_hub, kind = out.startswith(HUB), format_of(target)
    shape = shape or ("text" if kind in TABLES else "pairs")
    if shape not in SHAPES:
        raise InputError(f"--to {shape} is not a shape of rows; {nearest(shape, SHAPES)}")
    _check_target(source, out, target, kind, shape)
    dropped: Counter[str] = Counter()
    read: Counter[str] = Counter()
    written: Counter[str] = Counter()

    def compared() -> Iterator[Comparison]:
        for where, rows in open_source(source, split, columns):
            for one in comparisons(rows, where, dropped, read):
                read["comparisons"] += 1
                yield one

    def rows() -> Iterator[dict[str, Any]]:
        for row in SHAPES[shape].write(compared(), dropped):
            written["rows"] += 1
            yield row
        if not written["rows"]:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in dropped.items())
            raise InputError(f"{source}: none of its {read['rows']} rows fits the shape {shape} ({reasons})")

    kinds = _columns(shape)
    if to_hub:
        _push(rows(), kinds, out.removeprefix(HUB), split, private)
    else:
        _write(rows(), kinds, target, kind)
    return Converted(read["rows"], read["comparisons"], written["rows"], dict(dropped.most_common()))


def _check_target(source: str, out: str, target: Path, kind: str | None, shape: str) -> None:
    """InputError for what cannot be written, before anything is read."""
    if out.startswith(HUB):
        if not HUB_ID.fullmatch(out.removeprefix(HUB)):
            raise InputError(f"{out} names no data set of the hub; give hub:OWNER/NAME")
        return
    if kind is None and (target.suffix or target.is_file()):
        raise InputError(f"{out}: the name does not show the format; known: {', '.join(FORMATS)}")
    if target.is_dir() and (kind or any(target.iterdir())):
        raise InputError(f"{out} is a folder that is not empty; give a new one, or a file's name")
    if Path(source).exists() and target.exists() and target.samefile(source):
        raise InputError(f"{out} is the source itself; give another name")
    nested = [name for name, of in SHAPES[shape].columns.items() if of in ("messages", "completions")]
    if kind in TABLES and nested:
        raise InputError(
            f"{out}: a CSV holds texts, but {', '.join(nested)} of the shape {shape} are lists; give --to text, hh, "
            f"ties or alpacaeval, or write .jsonl or .parquet"
        )


def _columns(shape: str) -> dict[str, str]:
    own = SHAPES[shape].columns
    if shape == "scored":
        return own
    more = {**dict.fromkeys(TEXTS, "text"), **dict.fromkeys(NUMBERS, "number"), **dict.fromkeys(CUTS, "truth")}
    return own | more


def _write(rows: Iterable[dict[str, Any]], columns: dict[str, str], target: Path, kind: str | None) -> None:
    """Write to a temporary sibling and rename it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as folder:
            partial = Path(folder) / target.name
            if kind is None:
                _dataset(rows, columns, Path(folder)).save_to_disk(str(partial))
                shutil.rmtree(target, ignore_errors=True)  # an empty folder
            elif kind == ".parquet":
                _write_parquet(rows, columns, partial)
            else:
                _write_text(rows, columns, partial, kind)
            move(partial, target)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror or error}); give another place or make room"
        ) from None


def _write_text(rows: Iterable[dict[str, Any]], columns: dict[str, str], path: Path, kind: str) -> None:
    import fsspec

    with fsspec.open(str(path.absolute()), "wt", compression="infer", encoding="utf-8", newline="") as stream:
        if kind in TABLES:
            writer = csv.DictWriter(stream, list(columns), delimiter=TABLES[kind])
            writer.writeheader()
            writer.writerows(rows)
        elif kind == ".jsonl":
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            _write_array(rows, stream)
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def _write_array(rows: Iterable[dict[str, Any]], stream: IO[str]) -> None:
    for number, row in enumerate(rows):
        stream.write(("[\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
    stream.write("\n]\n")


def _write_parquet(rows: Iterable[dict[str, Any]], columns: dict[str, str], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = _schema(columns)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def _schema(columns: dict[str, str]) -> "pyarrow.Schema":
    import pyarrow as pa

    text = pa.string()
    kinds = {
        "text": text,
        "truth": pa.bool_(),
        "number": pa.float64(),
        "messages": pa.list_(pa.struct([("role", text), ("content", text)])),
        "completions": pa.list_(pa.struct([("response", text), ("overall_score", pa.float64()), ("model", text)])),
    }
    return pa.schema([(name, kinds[kind]) for name, kind in columns.items()])


def _dataset(rows: Iterable[dict[str, Any]], columns: dict[str, str], folder: Path) -> Any:
    """The rows as a data set of `datasets`, streamed through a Parquet file in a folder of its own."""
    import datasets

    path = folder / "rows.parquet"
    _write_parquet(rows, columns, path)
    return datasets.Dataset.from_parquet(str(path), cache_dir=str(folder / "cache"))


def _push(rows: Iterable[dict[str, Any]], columns: dict[str, str], name: str, split: str, private: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(rows, columns, Path(folder))
        try:
            dataset.push_to_hub(name, split=split, private=private)
        except Exception as error:  # of the hub's client or the network
            first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise InputError(
                f"the hub did not take {name} ({first}); log in with `hf auth login` and check the name and the network"
            ) from None
