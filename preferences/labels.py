"""A collection folder: the pairs to label, and the labels that people, models and simulations gave them.

    DIR/collection.json     how it was made
    DIR/candidates.jsonl    sampled responses, one a row
    DIR/items.jsonl         pairs to label, one `Item` a row
    DIR/labellers.json      the settings of each model or simulation that labelled
    DIR/labels/NAME.jsonl   the answers of one labeller, one `Label` a row; the folder reads as preferences

Rows are appended and flushed to the disk before anybody is told that they are safe.
"""

import contextlib
import dataclasses
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..errors import InputError
from ..results.integrity import no_link, own_folder
from ..results.records import Message

COLLECTION, CANDIDATES, ITEMS = "collection.json", "candidates.jsonl", "items.jsonl"
LABELS, LABELLERS = "labels", "labellers.json"


Answer = Literal["a", "b", "tie", "both_bad", "skip"]
Shown = Literal["ab", "ba"]


@dataclass(frozen=True)
class Item:
    """A pair of responses to one prompt, to be labelled."""

    id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    a_version: str | None = None
    """The model that wrote a."""
    b_version: str | None = None
    prompt_source: str | None = None
    decoding: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The sampling of both: {"a": {"temperature", "top_p", "seed"}, "b": {...}}."""
    gold: Literal["a", "b"] | None = None
    """The known answer of a question that tests attention."""
    a_cut: bool = False
    """True where a did not end by itself, for it reached the limit of tokens."""
    b_cut: bool = False


@dataclass(frozen=True)
class Label:
    """One labeller's answer to one item, as a row that reads as a preference."""

    item: str
    prompt: tuple[Message, ...]
    chosen: str
    """The preferred response; where none is preferred (tie, both_bad, skip), a."""
    rejected: str
    labeler_id: str
    timestamp: str
    """ISO 8601, UTC."""
    reasoning: str
    model_version: str | None
    """The model that wrote the responses; "A | B" where there are two, chosen's first."""
    tie: bool
    """True for tie and both_bad; a skipped item is no tie and no preference."""
    answer: Answer
    shown: Shown
    """The order in which the labeller saw the responses."""
    strength: int | None = None
    """Strength, 1 (a little) to 3 (a lot); None where nobody said."""
    prompt_source: str | None = None
    chosen_cut: bool = False
    """True where the response did not end by itself; training then learns no end from it."""
    rejected_cut: bool = False


def make_label(
    item: Item,
    answer: Answer,
    labeler_id: str,
    shown: Shown,
    *,
    reasoning: str = "",
    strength: int | None = None,
) -> Label:
    """The row of an answer given now."""
    sides = [(item.a, item.a_version, item.a_cut), (item.b, item.b_version, item.b_cut)]
    if answer == "b":
        sides.reverse()
    versions = dict.fromkeys(version for _, version, _ in sides if version)
    return Label(
        item=item.id,
        prompt=item.prompt,
        chosen=sides[0][0],
        rejected=sides[1][0],
        labeler_id=labeler_id,
        timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
        reasoning=reasoning,
        model_version=" | ".join(versions) or None,
        tie=answer in ("tie", "both_bad"),
        answer=answer,
        shown=shown,
        strength=strength,
        prompt_source=item.prompt_source,
        chosen_cut=sides[0][2],
        rejected_cut=sides[1][2],
    )


def check_name(name: str) -> str:
    """A labeller's name as it may stand in rows and in a file's name, white space trimmed; InputError for any other.

    No path, no markup, nothing that a file system trims.
    """
    name = unicodedata.normalize("NFKC", name.strip())  # full-width letters are the same letters
    letters = [unicodedata.category(c)[0] in "LMN" for c in name]
    if (
        not name
        or len(name) > 64
        or not (letters[0] and letters[-1])
        or not all(letter or c in " ._@'+-" for c, letter in zip(name, letters, strict=True))
    ):
        raise InputError(
            f"the labeller's name {name[:80]!r} cannot be used; use up to 64 letters, digits, spaces and . _ @ ' + -, "
            f"a letter or digit first and last"
        )
    return name


def folded(name: str) -> str:
    """A labeller's name as it is compared: Ann, ann and a full-width Ann are one person."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name.strip()).casefold())


def label_path(directory: Path, labeler_id: str) -> Path:
    """The file of a labeller's answers; InputError where one of that name in other upper or lower case is there."""
    name, folder = check_name(labeler_id), Path(directory) / LABELS
    for path in folder.glob("*.jsonl"):
        if folded(path.stem) == folded(name) and unicodedata.normalize("NFKC", path.stem) != name:
            raise InputError(
                f"the labeller's name {name!r} differs from {path.stem!r}, who is there already, in upper and lower "
                f"case only, which some disks cannot tell apart; use that one or another"
            )
    return folder / f"{name}.jsonl"


def read_items(directory: Path) -> list[Item]:
    """The pairs of a collection; InputError if the folder is none, is damaged, or has no pairs."""
    path = Path(directory) / ITEMS
    if not path.exists():
        raise InputError(f"{directory} holds no {ITEMS}; give a folder that `bench collect` wrote, or a finished run")
    items = [Item(**_fields(Item, row, f"{path}, line {line}")) for line, row in read_rows(path)]
    if not items:
        raise InputError(f"{path} holds no pairs; collect again with more prompts or a larger -k")
    return items


def read_labels(path: Path) -> list[Label]:
    """The answers in one labeller's file; InputError names the line that is damaged. No file is no answers."""
    if not path.exists():
        return []
    return [Label(**_fields(Label, row, f"{path}, line {line}")) for line, row in read_rows(path)]


def append(path: Path, rows: Iterable[Any]) -> None:
    """Add rows (dicts or dataclasses) to a file and flush them to the disk: when this returns they are safe.

    InputError if they cannot be written (a full disk, say); the file then holds what it held before.
    """
    records = (dataclasses.asdict(row) if dataclasses.is_dataclass(type(row)) else row for row in rows)
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    own_folder(path.parent)
    with open(no_link(path), "ab", buffering=0) as stream:
        before = stream.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += stream.write(data[written:])
            os.fsync(stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                stream.truncate(before)
            raise InputError(
                f"{path} cannot be written ({error.strerror}); what is in it is safe: make room, and give the same "
                f"command again"
            ) from None


def repair(path: Path) -> str | None:
    """Take the torn last line off a file that a crash cut, so that rows can be added; returns what to tell, or None.

    The torn part is kept beside the file under NAME.torn: nothing on disk is ever lost. A file that ends with a whole
    row without a line break gets the break.
    """
    if not no_link(path).exists():
        return None
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    tail = data[end:]
    if not tail.strip():
        return None
    try:
        if isinstance(json.loads(tail), dict):
            with open(path, "ab") as stream:
                stream.write(b"\n")
            return None
    except (ValueError, RecursionError):
        pass
    torn = no_link(path.with_name(f"{path.name}.torn"))
    with open(torn, "ab") as stream:
        stream.write(tail + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.truncate(path, end)
    return f"{path} ended in the middle of a row; that part is kept in {torn.name}, and its item is done again"


@contextlib.contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Hold a collection folder for one use (collect, people, a labeller); InputError if another process has it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be made ({error.strerror}); give another folder") from None
    lock = FileLock(directory / f".{what}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"another process is at work on {directory} ({what}); wait for it or stop it, then give the command again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object of the folder; InputError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not valid JSON; repair it, or start a new folder") from None


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and row of each line; InputError names a damaged one."""
    with open(path, "rb") as stream:  # a line may be cut within a character
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}, line {number}: not a whole JSON object; is it cut short? Repair or delete that line, the "
                    f"others are fine"
                )
            yield number, row


def _fields(kind: type, row: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of a record from a row; unknown ones are left aside. InputError if one that it needs is missing."""
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in row:
            raise InputError(f"{where}: the row has no field {field.name!r}; is it of another format?")
    known = {f.name: row[f.name] for f in dataclasses.fields(kind) if f.name in row}
    return {**known, "prompt": tuple(row["prompt"])}
