"""A name given to a file or folder, also where a network disk has done so and says that it has not."""

import errno
import os
from pathlib import Path

import pytest

from alignment_bench.results.integrity import DISK, move, write_text


@pytest.fixture
def disk(monkeypatch):
    """disk(done): from then on renaming is refused as if there were no such file, and was done before if `done`."""

    def answers(done: bool, number: int = errno.ENOENT) -> None:
        replace = os.replace

        def call(source, target):
            if done:
                replace(source, target)
            raise OSError(number, os.strerror(number), str(source))

        monkeypatch.setattr(os, "replace", call)

    return answers


def make(path: Path, kind: str, text: str) -> Path:
    if kind == "folder":
        path.mkdir()
        (path / "x").write_text(text)
    else:
        path.write_text(text)
    return path


def text_of(path: Path) -> str:
    return (path / "x" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_done_and_said_to_have_failed_is_done(tmp_path, disk, kind):
    source = make(tmp_path / "a", kind, "new")
    disk(done=True)
    move(source, tmp_path / "b")
    assert text_of(tmp_path / "b") == "new" and not source.exists()


def test_a_file_takes_anothers_place(tmp_path, disk):
    target = make(tmp_path / "b", "file", "old")
    disk(done=True)
    write_text(target, "new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("there", [False, True])
def test_what_was_not_done_is_an_error(tmp_path, disk, there):
    """Also where another file has the name: it is not the one that was to move."""
    source = make(tmp_path / "a", "file", "new")
    if there:
        make(tmp_path / "b", "file", "old")
    disk(done=False)
    with pytest.raises(FileNotFoundError) as refused:
        move(source, tmp_path / "b")
    assert refused.value.filename == str(source)
    assert not there or (tmp_path / "b").read_text() == "old"


def test_what_else_a_disk_answers_is_an_error(tmp_path, disk):
    """Of an input or output error nobody knows what it left."""
    source = make(tmp_path / "a", "file", "new")
    disk(done=True, number=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        move(source, tmp_path / "b")


def test_a_source_that_was_never_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "a", tmp_path / "b")


def test_a_link_moves_itself(tmp_path, disk):
    (tmp_path / "a").symlink_to("nowhere")
    disk(done=True)
    move(tmp_path / "a", tmp_path / "b")
    assert os.readlink(tmp_path / "b") == "nowhere"


def test_a_stale_handle_is_said_in_a_sentence():
    """As all that a disk may answer; see cli/main.py."""
    assert errno.ESTALE in DISK and errno.ENOENT not in DISK
