"""A folder from elsewhere that holds links: nothing that they point to is written, and what was there stays."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences.answers import Answers
from alignment_bench.preferences.labels import Item, append, repair
from alignment_bench.results.integrity import make_folder, own_folder, replacing, write_json
from alignment_bench.results.outputs import Response, write_outputs
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import write_jsonl


@pytest.fixture
def outside(tmp_path):
    """A file and a folder that are none of ours; at the end they must be as they were."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("theirs")
    yield folder
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"file": "theirs"}


def link(path: Path, kind: str, outside: Path) -> None:
    {
        "symbolic": lambda: path.symlink_to(outside / "file"),
        "to nothing": lambda: path.symlink_to(outside / "new"),
        "hard": lambda: os.link(outside / "file", path),
        "pipe": lambda: os.mkfifo(path),
    }[kind]()


KINDS = ("symbolic", "to nothing", "hard", "pipe")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x.json", ".x.json.partial"])
def test_a_link_is_replaced(tmp_path, outside, kind, name):
    link(tmp_path / name, kind, outside)
    write_json(tmp_path / "x.json", {"a": 1})
    assert not (tmp_path / "x.json").is_symlink() and (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}'
    assert not (tmp_path / ".x.json.partial").exists()


def test_a_crash_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, ({"a": 1 // n} for n in (1, 0)))
    assert path.read_text() == '{"a": 1}\n'
    with replacing(path) as stream:
        stream.write(b"new")
        assert path.read_text() == '{"a": 1}\n'
    assert path.read_bytes() == b"new"


def test_a_linked_folder_is_refused(tmp_path, outside):
    (tmp_path / "report").symlink_to(outside)
    with pytest.raises(InputError, match="report is a link to another place, where nothing is written"):
        own_folder(tmp_path / "report")
    assert make_folder(tmp_path / "report")  # where the user chose it
    with pytest.raises(InputError, match="file is a file, and a folder is to be written there"):
        make_folder(outside / "file")


def test_a_run_with_links(tmp_path, outside, whole_run):
    run = whole_run(tmp_path / "root")
    names = (".run.json.partial", ".summary.json.partial", ".holder.json", "..holder.json.partial", ".lock")
    for name in names:
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(outside / "file")
    with pytest.raises((InputError, OSError)), run.held():  # a lock may be no link
        pass
    (run.path / ".lock").unlink()
    with run.held():
        run.write_summary({"a": 1})
    shutil.rmtree(run.path / "dpo")
    (run.path / "dpo").symlink_to(outside)
    with pytest.raises(InputError, match="dpo is a link"):
        run.place("dpo", 1, [])


def test_a_run_that_another_holds_is_refused_or_waited_for(tmp_path):
    run, said = Run(tmp_path / "run"), []
    with ExitStack() as other:
        other.enter_context(run.held())
        with pytest.raises(InputError, match=rf"written by process {os.getpid()} on .*; wait for it, .* --wait waits"):
            Run(run.path).held().__enter__()

        def ends(line):  # while this one waits
            said.append(line)
            other.close()

        with Run(run.path).held(ends), pytest.raises(InputError, match="being written by"), run.held():
            pass
    assert len(said) == 1 and said[0].startswith(f"{run.path} is being written by process {os.getpid()}")


def test_a_run_whose_methods_are_paths(tmp_path, whole_run):
    run = whole_run(tmp_path / "root")
    run.open({**run.record, "methods": {}})
    record = run.record | {"methods": {"../../elsewhere": {}}}
    from alignment_bench.results.integrity import write_record

    write_record(run.path / "run.json", record)
    with pytest.raises(InputError, match="cannot be a folder's"):
        list(Run(run.path).cells())


@pytest.mark.parametrize("kind", ["symbolic", "to nothing"])
def test_a_collection_with_links(tmp_path, outside, kind):
    """Labels that are appended, what is torn off them, the data base with what SQLite keeps beside it, the export."""
    folder = tmp_path / "collection"
    (folder / "labels").mkdir(parents=True)
    link(folder / "labels" / "a.jsonl", kind, outside)
    with pytest.raises(InputError, match=r"a\.jsonl is a link"):
        append(folder / "labels" / "a.jsonl", [{}])
    (folder / "labels" / "b.jsonl").write_text('{"torn')
    link(folder / "labels" / "b.jsonl.torn", kind, outside)
    with pytest.raises(InputError, match=r"torn is a link"):
        repair(folder / "labels" / "b.jsonl")
    item = Item("i", ({"role": "user", "content": "p"},), "a", "b")
    for name in ("labels.sqlite", "labels.sqlite-wal", "labels.sqlite-shm", "labels.sqlite-journal"):
        link(folder / name, kind, outside)
        with pytest.raises(InputError, match=f"{name} is a link"):
            Answers(folder, [item], 1)
        (folder / name).unlink()
    answers = Answers(folder, [item], 1)
    link(folder / "labels" / ".people.jsonl.partial", kind, outside)
    assert answers.export().read_text() == ""
    answers.close()


def test_model_outputs_with_links(tmp_path, outside):
    response = Response("i", ({"role": "user", "content": "p"},), "r", "g", "d", 1)
    (tmp_path / "model_answer").symlink_to(outside)
    with pytest.raises(InputError, match="model_answer is a link"):
        write_outputs([response], "arena", tmp_path, 0.0)
