"""Rows as they lie in files, folders and on the hub: any of the formats below, read row by row.

Files are streamed, packed or not, so memory stays flat; a packed Parquet file is unpacked to the disk. A hub data set
that is not cached is read whole by the library that decodes it.
"""

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import InputError, nearest
from ..results.integrity import digest, file_digest
from ..results.store import folder_digest
from .columns import Columns, renamed
from .json_array import LONGEST_ROW, invalid, read_array, too_long
from .labels import ITEMS, LABELS

TABLES = {".csv": ",", ".tsv": "\t"}  # with what divides fields where nothing else does
FORMATS = (".jsonl", ".json", ".parquet", *TABLES)
WORKBOOKS = (".xlsx", ".xls", ".ods")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_TIMEOUT = 10.0  # seconds for the first answer of the hub; without one, what is cached is used
SPLIT_WORD = re.compile(r"(?<![a-z])(train|training|validation|valid|val|dev|test|testing|eval)(?![a-z])")

BLOCK = 2**16  # bytes that are read at once
MOST_PACKED = 100  # times that a packed Parquet file may grow: text grows tenfold, a bomb a thousandfold

Rows = Iterator[dict[str, Any]]


def open_source(source: str, split: str = "train", columns: Columns | None = None) -> Iterator[tuple[str, Rows]]:
    """The tables of a local file or folder or a hub data set: where each lies, and its rows.

    split: the split of a hub data set, or of a folder whose files or subfolders are named after splits. columns: the
    source's own names by ours. InputError if there is no such source, or (while the rows are read) it is damaged.
    """
    for where, rows in _tables(source, split):
        yield where, renamed(rows, columns, where) if columns else rows


def _tables(source: str, split: str) -> Iterator[tuple[str, Rows]]:
    path = _local(source)
    if path is None:
        yield source, _read_hub(source, split)
    elif path.is_dir():
        yield from _folder_tables(path, split)
    else:
        yield str(path), read_file(path)


def source_digest(source: str, split: str = "train") -> str:
    """A hash of what `open_source` reads: of the bytes of files, or what `datasets` says of a hub data set."""
    path = _local(source)
    if path is None:
        return digest([source, split, _read_hub(source, split)._fingerprint])
    try:
        return digest([split, folder_digest(path)] if path.is_dir() else [path.name, file_digest(path)])
    except OSError as error:
        raise InputError(_damaged(path, error)) from None


def _local(source: str) -> Path | None:
    """The file or folder that a source is; None for the id of a hub data set. InputError where it can be neither."""
    if not source.strip():
        raise InputError("no preferences are named; give a file, a folder or a hub id")
    path = path_of(source)
    if path.exists():
        return path
    if format_of(path) or not HUB_ID.fullmatch(source):
        raise InputError(f"there is no preference file or folder {source}; check the path")
    return None


def path_of(source: str) -> Path:
    """The path that a text names, ~ and ~user resolved; InputError where it can be none."""
    try:
        path = Path(source).expanduser()
    except RuntimeError:
        raise InputError(f"{source}: there is no user of that name here; write the path out") from None
    if "\0" in source:
        raise InputError(f"{source!r}: a path holds no character of code 0; check it")
    return path


def format_of(path: Path) -> str | None:
    """The format of a file by its name, a suffix of compression aside; None if it is not one of FORMATS."""
    from fsspec.utils import infer_compression

    suffix = path.with_suffix("").suffix if infer_compression(path.name) else path.suffix
    return suffix.lower() if suffix.lower() in FORMATS else None


def read_file(path: Path) -> Rows:
    """Rows of a file; InputError names the file, and the line or field, of what is wrong."""
    kind = format_of(path)
    if path.suffix.lower() in WORKBOOKS:
        raise InputError(
            f"{path}: a workbook is not read; save its sheet as CSV, or write it as rows with `pip install openpyxl && "
            f"python -c \"import pandas; pandas.read_excel('{path}').to_json('{path.stem}.jsonl', orient='records', "
            f'lines=True)"` and give {path.stem}.jsonl'
        )
    if kind is None:
        raise InputError(f"{path}: the name does not show the format; known: {', '.join(FORMATS)}, with .gz or not")
    if kind == ".parquet":
        yield from _parquet_rows(path)
    elif kind in TABLES:
        yield from _table_rows(path, TABLES[kind])
    else:
        yield from _json_rows(path, kind)


# Text files


def _blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes, unpacked, in pieces."""
    import fsspec

    try:
        with fsspec.open(str(path.absolute()), "rb", compression="infer") as stream:
            while block := stream.read(BLOCK):
                yield block
    except Exception as error:  # every codec has errors of its own
        raise InputError(_damaged(path, error)) from None


def _lines(path: Path, blocks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a text file, line breaks (\\n only: JSON may hold other separators) kept."""
    number, parts, size = 1, list[bytes](), 0
    for block in itertools.chain(blocks, [b""]):
        parts.append(block)
        size += len(block)
        if block and b"\n" not in block and size <= LONGEST_ROW:
            continue
        *lines, rest = b"".join(parts).split(b"\n")
        for place, line in enumerate([*lines, rest], number):
            if len(line) > LONGEST_ROW:
                raise InputError(too_long(f"{path}, line {place}"))
        for place, line in enumerate(lines if block else [*lines, rest], number):
            try:
                text = line.decode("utf-8-sig" if place == 1 else "utf-8")
            except UnicodeDecodeError:
                raise InputError(f"{path}, line {place}: not UTF-8 text; save the file as UTF-8") from None
            yield text + "\n" if block else text
        number, parts, size = number + len(lines), [rest], len(rest)


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({error}); is it cut short or damaged? Download it again"


def _json_rows(path: Path, kind: str) -> Rows:
    blocks = _blocks(path)
    head = next(blocks, b"")
    blocks = itertools.chain([head], blocks)
    if kind == ".json" and head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        for item, row in enumerate(read_array(path, blocks), 1):
            yield _object(row, f"{path}, item {item}")
        return
    for number, line in enumerate(_lines(path, blocks), 1):  # many .json files hold JSON Lines
        if line.strip():
            yield _object(_json(line.rstrip("\r\n"), number, path), f"{path}, line {number}")


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{where}: not an object with named fields such as prompt, chosen, rejected")
    return row


def _json(text: str, line: int, path: Path) -> Any:
    """Parse JSON that stands on a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at character {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        problem = str(error)
    raise InputError(invalid(path, line, problem))


def _table_rows(path: Path, delimiter: str) -> Rows:
    """Rows of a CSV whose fields are divided by a comma (or as the header shows, by a semicolon or a tab), or a TSV."""
    csv.field_size_limit(LONGEST_ROW)  # a long transcript is no error; the default is 128 KiB
    parts = (part for line in _lines(path, _blocks(path)) for part in io.StringIO(line, newline=""))
    head = next(parts, "")
    if delimiter not in head:
        delimiter = next((other for other in ";\t" if other in head), delimiter)
    reader = csv.DictReader(itertools.chain([head], parts), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: not as many fields as in the header; quote texts that hold {delimiter!r}")
            yield row
    except csv.Error as error:
        begin = reader.line_num + 1  # of the row: line_num is where the last good one ended
        raise InputError(f"{path}, line {begin}: not valid CSV ({error}); is a quote open or the file cut?") from None


# Parquet


def _parquet_rows(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet
    from fsspec.utils import infer_compression

    done = 0
    try:
        with contextlib.ExitStack() as stack:
            source: Any = path
            if infer_compression(path.name):  # which cannot be read from its end, as Parquet is
                source = stack.enter_context(tempfile.TemporaryFile())
                _unpack(path, source)
            # so columns are read piece by piece, and not a row group (often the whole file) at once
            table = stack.enter_context(pyarrow.parquet.ParquetFile(source, buffer_size=2**16, pre_buffer=False))
            for batch in table.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
                done += len(batch)
    except UnicodeDecodeError:
        raise InputError(f"{path}, after row {done}: holds text that is not UTF-8; save it as UTF-8") from None
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: not a readable Parquet file ({first}); is it cut short? Download it again") from None


def _unpack(path: Path, out: IO[bytes]) -> None:
    """Unpack a file, piece by piece; InputError where it is a bomb."""
    size, most = 0, 2**20 + MOST_PACKED * path.stat().st_size
    for block in _blocks(path):
        size += out.write(block)
        if size > most:
            raise InputError(f"{path} unpacks to more than {MOST_PACKED} times its size; unpack it if you trust it")
    out.seek(0)


# Folders and the hub


def _folder_tables(folder: Path, split: str) -> Iterator[tuple[str, Rows]]:
    """The tables of a folder that `datasets` saved, of a collection's labels, or of files in the order of names."""
    if (folder / ITEMS).exists():
        folder = folder / LABELS
    if folder.name == LABELS and (folder.parent / ITEMS).exists():
        files = sorted(folder.glob("*.jsonl"))
        if not files:
            raise InputError(f"{folder.parent} has no labels yet; give them with bench label {folder.parent}")
        yield from ((str(path), read_file(path)) for path in files)
        return
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        yield str(folder), _read_saved(folder, split)
        return
    paths = {
        name: path
        for path in sorted(folder.rglob("*"))
        if not (name := path.relative_to(folder).as_posix()).startswith(".") and "/." not in name
        if path.is_file() and format_of(path) and path.name != "dataset_infos.json"
    }
    if not paths:
        raise InputError(f"{folder} holds no preference files; known formats: {', '.join(FORMATS)}, compressed or not")
    wanted = re.compile(rf"(?<![a-z0-9]){re.escape(split.lower())}(?![a-z0-9])")
    chosen = [name for name in paths if wanted.search(name.lower())]
    known = {word for name in paths for word in SPLIT_WORD.findall(name.lower())}
    if known and not chosen:
        raise InputError(f"{folder} has no split {split!r}; {nearest(split, known)}")
    yield from ((str(paths[name]), read_file(paths[name])) for name in chosen or paths)


def _read_saved(folder: Path, split: str) -> Rows:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of datasets, pyarrow or the file system
        raise InputError(f"{folder} cannot be read as a saved data set ({error}); save it again") from None
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise InputError(f"{folder} has no split {split!r}; {nearest(split, saved)}")
        saved = saved[split]
    return saved


def _read_hub(name: str, split: str) -> Any:
    """Rows of a hub data set, from the local cache where the hub cannot be reached."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    offline = before = datasets.config.HF_HUB_OFFLINE
    try:
        # Asked once, with a limit: load_dataset would try for half a minute, or for several with packets dropped.
        if not offline:
            HfApi().dataset_info(name, timeout=HUB_TIMEOUT)
    except RepositoryNotFoundError:
        raise InputError(
            f"{name!r} is neither a local path nor a data set on the hub; check the name, "
            "or log in with `hf auth login` if it is private or gated"
        ) from None
    except Exception:  # no network, a proxy, a server's error: what is cached can still be used
        offline = True
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # of datasets, the hub's client, the network or pyarrow
        first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        state = " (no network, or offline by choice: only the cache was tried)" if offline else ""
        raise InputError(
            f"{name!r} is not a local path, and could not be fetched from the hub{state}: {first}; "
            f"check name, split {split!r} and network, or download it and give its folder"
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = before
