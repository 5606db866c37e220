"""Slots and answers: nobody's slot twice, nothing lost, the shape of the label rows."""

import json
import sqlite3
import threading
from collections import Counter
from datetime import datetime, timedelta

import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences import answers as module
from alignment_bench.preferences.answers import Answers, Refused, checked_items
from alignment_bench.preferences.labels import check_name


def write_items(folder, count, gold=0):
    rows = [
        {"id": f"i{n}", "prompt": [{"role": "user", "content": f"question {n}"}], "a": f"text a{n}", "b": f"text b{n}",
         "a_version": "model-one", "b_version": "model-two", "prompt_source": "test", "decoding": {},
         **({"gold": "a"} if n >= count else {})}
        for n in range(count + gold)
    ]  # fmt: skip
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def open_answers(folder, overlap=1):
    return Answers(folder, checked_items(folder), overlap)


def give(answers, labeller, side="left", strength=None, reasoning=""):
    slot = answers.next(labeller)
    answers.answer(labeller, slot.item.id, side, strength, reasoning)
    return slot


def test_many_labellers_at_once_never_share_a_slot(tmp_path):
    answers = open_answers(write_items(tmp_path, 30), overlap=2)
    had, failed = [], []

    def work(name):
        try:
            while slot := answers.next(name):
                had.append((slot.item.id, name))
                answers.answer(name, slot.item.id, "tie", None, "")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"labeller {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(had) == len(set(had)) == 60
    assert set(Counter(item for item, _ in had).values()) == {2}


def test_a_share_of_the_pairs_has_several_labellers_and_the_others_one(tmp_path):
    """Of 30 pairs every fifth; Ben is shown those that Ann has done first, and progress counts 36 answers."""
    answers = Answers(write_items(tmp_path, 30), checked_items(tmp_path), 2, 0.2)
    assert answers.progress("Ann") == {"done": 0, "left": 30, "all_done": 0, "all_wanted": 36}
    had = {name: [] for name in ("Ann", "Ben", "Cid")}
    for name, count in (("Ann", 20), ("Ben", 30), ("Cid", 30), ("Ann", 30)):
        while len(had[name]) < count and (slot := answers.next(name)):
            answers.answer(name, slot.item.id, "tie", None, "")
            had[name].append(slot.item.id)
    assert had["Ann"][:20] == [f"i{n}" for n in range(20)]
    assert had["Ben"] == ["i4", "i9", "i14", "i19", *(f"i{n}" for n in range(20, 30))]
    assert had["Cid"] == ["i24", "i29"] and len(had["Ann"]) == 20
    assert answers.progress("Ann") == {"done": 20, "left": 0, "all_done": 36, "all_wanted": 36}


def test_either_order_is_shown_to_half_and_to_a_labeller_always_the_same(tmp_path):
    items = checked_items(write_items(tmp_path, 200))
    (tmp_path / "other").mkdir()
    seen = []
    for folder in (tmp_path, tmp_path / "other"):
        answers = Answers(folder, items, 2)
        seen.append({name: [give(answers, name).shown for _ in range(200)] for name in ("Ann", "Ben")})
    assert seen[0] == seen[1] and seen[0]["Ann"] != seen[0]["Ben"]
    assert all(70 <= shown.count("ab") <= 130 for shown in seen[0].values())


def test_label_rows_have_what_was_chosen_whatever_the_order(tmp_path):
    answers = open_answers(write_items(tmp_path, 40))
    given = ["left", "right", "tie", "both_bad", "skip"] * 8
    slots = [give(answers, "Ann", side, 2, "because") for side in given]
    rows = [json.loads(line) for line in answers.export().read_text().splitlines()]
    assert {slot.shown for slot in slots} == {"ab", "ba"}  # one order 40 times: a chance of 2e-12
    for slot, side, row in zip(slots, given, rows, strict=True):
        expected = slot.shown[0] if side == "left" else slot.shown[1] if side == "right" else side
        assert (row["item"], row["answer"], row["shown"]) == (slot.item.id, expected, slot.shown)
        texts = [slot.item.b, slot.item.a] if expected == "b" else [slot.item.a, slot.item.b]
        assert [row["chosen"], row["rejected"]] == texts
        assert row["tie"] is (side in ("tie", "both_bad"))
        assert row["strength"] == (2 if side in ("left", "right") else None)
        assert (row["labeler_id"], row["reasoning"]) == ("Ann", "because")
        assert row["prompt"] == list(slot.item.prompt)
        assert datetime.fromisoformat(row["timestamp"]).utcoffset() == timedelta(0)
    assert set(rows[0]) == {
        "item", "prompt", "chosen", "rejected", "labeler_id", "timestamp", "reasoning", "model_version", "tie",
        "answer", "shown", "strength", "prompt_source", "chosen_cut", "rejected_cut",
    }  # fmt: skip


def test_undo_goes_back_step_by_step_and_keeps_what_was(tmp_path):
    answers = open_answers(write_items(tmp_path, 5))
    first, second = give(answers, "Ann", "left"), give(answers, "Ann", "right", 3, "why")
    third = answers.next("Ann")
    answers.undo("Ann")
    again = answers.next("Ann")
    assert (again.item.id, again.shown) == (second.item.id, second.shown)
    assert again.draft == {"answer": second.shown[1], "strength": 3, "reasoning": "why"}
    answers.undo("Ann")
    assert answers.next("Ann").item.id == first.item.id
    assert answers.rows() == []
    for expected in (first, second, third):
        assert give(answers, "Ann", "tie").item.id == expected.item.id
    assert [row["answer"] for row in answers.rows()] == ["tie"] * 3
    with sqlite3.connect(tmp_path / "labels.sqlite") as db:
        events = [json.loads(event)["event"] for (event,) in db.execute("SELECT event FROM history")]
    assert events == ["answered"] * 2 + ["undone"] * 2 + ["answered"] * 3


def test_nothing_to_undo(tmp_path):
    with pytest.raises(Refused, match="nothing to undo"):
        open_answers(write_items(tmp_path, 1)).undo("Ann")


def test_an_answer_sent_twice_is_stored_once_and_another_is_refused(tmp_path):
    answers = open_answers(write_items(tmp_path, 2))
    slot = give(answers, "Ann", "left")
    answers.answer("Ann", slot.item.id, "left", None, "")
    with pytest.raises(Refused, match="answered this pair already"):
        answers.answer("Ann", slot.item.id, "right", None, "")
    assert len(answers.rows()) == 1


def test_everybody_gets_every_gold_question_spread_through_the_work(tmp_path):
    answers = open_answers(write_items(tmp_path, 40, gold=4))
    places = []
    for place in range(44):
        places += [place] if give(answers, "Ann").item.gold else []
    assert answers.next("Ann") is None
    # One in every ten ordinary pairs, with those before it.
    assert [(place - n) // 10 for n, place in enumerate(places)] == [0, 1, 2, 3]
    assert all(give(answers, "Ben").item.gold for _ in range(4))  # the ordinary ones are taken
    assert answers.next("Ben") is None


def test_a_pair_left_open_is_given_away_only_when_its_lease_is_over_and_nothing_else_is_left(tmp_path, monkeypatch):
    answers = open_answers(write_items(tmp_path, 2))
    left = answers.next("Ann")
    give(answers, "Ben")
    assert answers.next("Ben") is None
    monkeypatch.setattr(module, "LEASE", timedelta(0))
    assert answers.next("Ben").item.id == left.item.id
    with pytest.raises(Refused, match="given to somebody else"):
        answers.answer("Ann", left.item.id, "left", None, "")


def test_a_full_disk_refuses_the_answer_and_keeps_the_others(tmp_path):
    answers = open_answers(write_items(tmp_path, 4))
    kept = give(answers, "Ann", reasoning="short")
    (pages,) = answers._db.execute("PRAGMA page_count").fetchone()
    answers._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says "database or disk is full"
    slot = answers.next("Ann")
    with pytest.raises(Refused, match="not saved.*database or disk is full"):
        answers.answer("Ann", slot.item.id, "left", None, "x" * 19_000)
    assert [row["item"] for row in answers.rows()] == [kept.item.id]
    answers._db.execute("PRAGMA max_page_count = 100000")
    answers.answer("Ann", slot.item.id, "left", None, "x" * 19_000)
    assert len(answers.rows()) == 2


def test_answers_are_written_through_to_the_disk(tmp_path):
    answers = open_answers(write_items(tmp_path, 1))
    assert answers._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert answers._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_names():
    assert check_name("  Zoë O'Neil-Ng ") == "Zoë O'Neil-Ng"
    assert check_name("हिन्दी") == "हिन्दी"
    for bad in ("<b>Ann</b>", "../x", " ", "x" * 65):
        with pytest.raises(InputError, match="up to 64 letters, digits, spaces"):
            check_name(bad)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no items.jsonl"),
        ("", "holds no pairs"),
        ('{"id": "x", "prompt": [{"role": "user", "content": "p"}], "a": "x"', "line 1: not a whole JSON object"),
        ('{"id": "x", "prompt": [{"role": "user", "content": "p"}], "a": "x"}', "row 1: the field 'b' is missing"),
        ('{"id": "x", "prompt": "p", "a": "x", "b": "y"}', "row 1: the prompt is not a list of messages"),
        ('{"id": "x", "prompt": [{"role": "user", "content": "p"}], "a": "x", "b": "\\ud800"}', "'b' is missing"),
        ('{"id": "x", "prompt": [{"role": "user", "content": "p"}], "a": "x", "b": "y", "gold": 1}', "gold is 1"),
    ],
)
def test_bad_items_get_a_sentence(tmp_path, text, said):
    if text is not None:
        (tmp_path / "items.jsonl").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        checked_items(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_database_is_named_and_left_alone(tmp_path):
    write_items(tmp_path, 1)
    (tmp_path / "labels.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(InputError, match="labels.sqlite cannot be opened"):
        open_answers(tmp_path)
    assert (tmp_path / "labels.sqlite").read_bytes() == b"not a database at all" * 100
