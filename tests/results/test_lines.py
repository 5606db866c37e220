"""A file that rows are appended to: whatever a crash leaves at its end costs the row under way and no other."""

import json
import logging
import os
from pathlib import Path

import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge_cache import Answer, RememberingAsker
from alignment_bench.preferences.labels import append, read_rows, repair
from alignment_bench.results.cache import look
from alignment_bench.results.lines import append_line, read_lines
from alignment_bench.results.store import Store

ROW = {"text": "één 日本", "n": 1}


def number(value):
    return value["n"]


def test_cut_at_every_byte(tmp_path, caplog):
    """Whatever is left of the last row, the rows before it and those after it are read, and the loss is told."""
    path = tmp_path / "rows.jsonl"
    for n in range(3):
        append_line(path, {**ROW, "n": n})
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    begins = whole.rindex(b"\n", 0, -1) + 1
    for size in range(begins, len(whole) + 1):
        path.write_bytes(whole[:size])
        append_line(path, {**ROW, "n": 3})
        caplog.clear()
        kept = [2] if size >= len(whole) - 1 else []  # without its line break a row is whole
        assert list(read_lines(path, number, "asked again")) == [0, 1, *kept, 3]
        torn = size not in (begins, len(whole) - 1, len(whole))
        said = [f"{path}: 1 of 4 lines are damaged; asked again"] if torn else []
        assert [record.getMessage() for record in caplog.records] == said


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000, '{"n"', "[]", "null", "\x00", '"a"', '{"m": 1}'])
def test_a_damaged_line_is_told_and_left_out(tmp_path, caplog, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"n": 1}}\n\n{line}\n{{"n": 2}}\n')
    assert list(read_lines(path, number, "lost")) == [1, 2]
    assert caplog.messages == [f"{path}: 1 of 4 lines are damaged; lost"]


def test_it_is_on_the_disk_when_the_call_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    append_line(tmp_path / "rows.jsonl", 1)
    append_line(tmp_path / "rows.jsonl", 2)
    assert synced == [2, 4]


def test_a_torn_register_of_runs(tmp_path, caplog):
    """It ends no command; the runs before and behind the torn line are known."""
    store = Store(tmp_path / "root")
    store.remember(tmp_path / "one")
    register = store.root / "cache" / "runs.jsonl"
    with open(register, "ab") as stream:
        stream.write(json.dumps("/elsewhere/naïve", ensure_ascii=False).encode()[:-4])
    store.remember(tmp_path / "two")
    assert store.remembered() == [tmp_path / "one", tmp_path / "two"] == look(store).missing
    assert f"{register}: 1 of 3 lines are damaged" in caplog.messages[-1]
    no_paths = ('{"path": 1}', r'"\u0000"', r'"\ud800"', f'"{"x" * 5000}"', "5")
    register.write_text("".join(f"{line}\n" for line in no_paths))
    assert look(store).missing == []
    assert f"{register}: 5 of 5 lines are damaged" in caplog.messages[-1]


def test_a_damaged_answer_is_asked_again(tmp_path, caplog):
    class Judge:
        def ask(self, prompts, keep):
            for place, _ in enumerate(prompts):
                keep(place, Answer("A", 1, 1, "A"))
            return ["A"] * len(prompts)

    def judge(ask=Judge):
        return RememberingAsker(ask, tmp_path, {"model": "m"})

    assert judge().ask(["x", "y"]) == ["A", "A"]
    [path] = tmp_path.glob("*.jsonl")
    head, x, y = path.read_text().splitlines()
    row = json.loads(y)
    unhashable = {**{k: v for k, v in row.items() if k != "check"}, "question": []}
    path.write_text("\n".join([head, x, y[:20], json.dumps(unhashable)]))
    caplog.set_level(logging.WARNING)
    found = judge()
    assert caplog.messages == [f"{path}: 2 of 4 lines are damaged; their questions are asked again"]
    assert found.ask(["x", "y"]) == ["A", "A"] and found.usage().asked == 1
    assert judge(lambda: pytest.fail("asked")).ask(["x", "y"]) == ["A", "A"]


def test_labels_cut_at_every_byte(tmp_path):
    """Where labels are read only, a torn row is named; where they are added to, it is kept aside and done again."""
    path = tmp_path / "labels.jsonl"
    append(path, [ROW, ROW])
    whole = path.read_bytes()
    begins = whole.index(b"\n") + 1
    for size in range(begins + 1, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="labels.jsonl, line 2: not a whole JSON object"):
            list(read_rows(path))
        assert "is kept in labels.jsonl.torn" in repair(path)
        append(path, [ROW])
        assert list(read_rows(path)) == [(1, ROW), (2, ROW)]
    torn = Path(f"{path}.torn").read_bytes().splitlines()
    assert torn == [whole[begins:size] for size in range(begins + 1, len(whole) - 1)]
