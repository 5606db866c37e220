"""Files that are on disk whole or not at all, as they were written, and whose damage is found and named.

A record (manifest.json, run.json, summary.json) ends with the SHA-256 of the rest of it, a manifest holds that of every
other file of its folder. Records without such an end were written by older versions and are taken as they are.
"""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError

PACKAGE = Path(__file__).parent.parent
CODE = {".py", ".txt", ".jsonl", ".yaml"}  # what determines results in our own folders: code, questions, tasks
MANIFEST = "manifest.json"
CHECK = "sha256"
# What a disk may answer, by the system's numbers.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
DISK |= {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ESTALE}


class DamageError(InputError, ValueError):
    """A file is not what was written; the message names it and says what is wrong."""


class MissingError(DamageError, FileNotFoundError):
    """A file that was written is not there."""


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_each(values: Iterable[Any]) -> str:
    """SHA-256 of JSON-able values in their order; only one of them is in memory at a time."""
    found = hashlib.sha256()
    for value in values:
        found.update(digest(value).encode())
    return found.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache
def code_digest(*parts: str) -> str:
    """SHA-256 of our own source: these folders of the package, all that is below them, or these files.

    FileNotFoundError for a part that is not there: a key must never depend on nothing.
    """
    found: dict[str, str] = {}
    for part in map(PACKAGE.joinpath, parts):
        files = [part] if part.is_file() else [p for p in part.rglob("*") if p.is_file() and p.suffix in CODE]
        if not files:
            raise FileNotFoundError(f"{part}: a stage's key depends on it, and there is no code")
        found |= {p.relative_to(PACKAGE).as_posix(): file_digest(p) for p in files}
    return digest(found)


def file_names(folder: Path) -> list[str]:
    """Relative names of the files of a stage, its manifest and hidden files left out, sorted."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(n for n in names if n != MANIFEST and not any(part.startswith(".") for part in n.split("/")))


@contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[BinaryIO]:
    """A stream of bytes that take a file's place when the block ends: a crash leaves either the old file or the new.

    lasting: the machine's crash too, and not the process's alone; that waits for the disk. A link that stands where it
    writes is replaced and never followed: the folder may come from elsewhere.
    """
    partial = path.with_name(f".{path.name}.partial")
    with suppress(FileNotFoundError):
        found = partial.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            partial.unlink()
    with open(partial, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)) as stream:
        yield stream
        if lasting:
            stream.flush()
            os.fsync(stream.fileno())
    move(partial, path)


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name; a file takes the place of one that has it.

    A network disk whose answer was lost is asked again, and then says that the source is not there: it has moved.
    """
    moved = source.lstat()
    try:
        source.replace(target)
    except FileNotFoundError:
        if not os.path.lexists(target) or not os.path.samestat(moved, target.lstat()):
            raise


def write_text(path: Path, text: str, lasting: bool = True) -> Path:
    """Write a text in UTF-8 by `replacing`; returns the path."""
    with replacing(path, lasting) as stream:
        stream.write(text.encode(errors="replace"))  # half a character, which JSON can hold, has no bytes
    return path


def write_json(path: Path, value: Any) -> None:
    """Write JSON by `replacing`, with the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _text(value))


def no_link(path: Path) -> Path:
    """The path; InputError where a link stands there, which writing would follow out of a folder from elsewhere."""
    if path.is_symlink():
        raise InputError(f"{path} is a link to another place, where nothing is written; remove the link")
    return path


def make_folder(path: Path) -> Path:
    """A folder that its user chose, made where it is missing; InputError where a file is in its place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{path} is a file, and a folder is to be written there; give another place") from None
    return path


def own_folder(path: Path) -> Path:
    """A folder within one that may come from elsewhere, made if it is missing; InputError for a link in its place."""
    return make_folder(no_link(path))


def write_record(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write a record with its check at the end, like `write_json`; returns what was written."""
    plain = json.loads(_text({name: value for name, value in record.items() if name != CHECK}))
    whole = {**plain, CHECK: digest(plain)}
    write_json(path, whole)
    return whole


def read_record(path: Path) -> dict[str, Any]:
    """A record as `write_record` wrote it; DamageError where a byte of it differs."""
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
        *_, (name, check) = record.items()
    except FileNotFoundError:
        raise MissingError(f"{path} is missing") from None
    except (ValueError, AttributeError, RecursionError):  # no UTF-8, no JSON, nothing in it, brackets without end
        raise DamageError(f"{path} is damaged: it is not JSON any more") from None
    if name == CHECK:
        rest = {k: v for k, v in record.items() if k != CHECK}
        whole = digest(rest) == check and _text(record) == text
    else:
        whole = not re.fullmatch(r"[0-9a-f]{64}", str(check))  # else that was the check, and its name has changed
    if not whole:
        raise DamageError(f"{path} is damaged: it does not have the hash that it was written with")
    return record


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Bring a folder's files to the disk and write its manifest with their hashes, last."""
    files = {}
    for name in file_names(folder):
        with open(folder / name, "rb") as stream:
            files[name] = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
    write_record(folder / MANIFEST, {**record, "created": datetime.now(UTC).isoformat(), "files": files})


def check_file(folder: Path, name: str, manifest: dict[str, Any]) -> None:
    """DamageError where a file of a folder is missing or has other contents than its manifest says."""
    try:
        if file_digest(folder / name) == manifest["files"][name]:
            return
    except FileNotFoundError:
        raise MissingError(f"{folder / name} is missing") from None
    except OSError as error:
        raise DamageError(f"{folder / name} cannot be read ({error.strerror})") from None
    raise DamageError(f"{folder / name} is damaged: it does not have the hash that it was written with")


def check_folder(folder: Path, key: str | None = None) -> None:
    """DamageError for a folder without a manifest (with this key), or with a file that is not as it was written."""
    manifest = read_record(folder / MANIFEST)
    if manifest.get("key") != key or not isinstance(manifest.get("files"), dict):
        raise DamageError(f"{folder / MANIFEST} is damaged: it belongs to something else")
    for name in manifest["files"]:
        check_file(folder, name, manifest)


def is_whole(folder: Path, key: str | None = None) -> bool:
    """True if a folder has a manifest (with this key) and every file in it the recorded hash."""
    try:
        check_folder(folder, key)
    except DamageError:
        return False
    return True


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk may answer (full, read-only, no permission) into one sentence that names the place."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = _errno(error)
        if number not in DISK:
            raise
        where = getattr(error, "filename", None) or path
        raise InputError(
            f"cannot write to {where} ({os.strerror(number)}); make room or give another folder with --root or --out: "
            f"what is finished is kept, and the same command goes on from there"
        ) from error


def _errno(error: Exception) -> int | None:
    """The system's number of an error, of libraries written in Rust (safetensors, tokenizers) too."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
