"""Preference rows: every format gives the same row, bad rows are dropped and counted."""

import json
import random

import pytest

from alignment_bench.preferences.read import HashSet, from_rows, read_preferences

SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# One conversation of three turns in every format; all must give the very same row.
TURNS = [user("Pens?"), assistant("A joke?"), user("Yes")]
TALK = "\n\nHuman: Pens?\n\nAssistant: A joke?\n\nHuman: Yes\n\nAssistant:"
CONVERSATIONS = {
    "conversational": {"prompt": TURNS, "chosen": [assistant("No.")], "rejected": [assistant("Draw.")]},
    "plain replies": {"prompt": TURNS, "chosen": "No.", "rejected": "Draw."},
    "implicit": {"chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "null prompt": {"prompt": None, "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "prompt twice": {"prompt": TURNS, "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "prompt in one side": {"prompt": "Yes", "chosen": "No.", "rejected": [*TURNS, assistant("Draw.")]},
    "first turn": {"prompt": "Pens?", "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "last turn": {"prompt": "Yes", "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "transcripts": {"chosen": f"{TALK} No.", "rejected": f"{TALK} Draw."},
    "transcript as prompt": {"prompt": TALK, "chosen": " No.", "rejected": " Draw.\n"},
    "more keys": {"prompt": [m | {"name": None} for m in TURNS], "chosen": "No.", "rejected": "Draw.", "score": 3},
}


@pytest.mark.parametrize("raw", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_every_format_gives_the_same_row(raw):
    (row,) = from_rows([raw], "memory")
    assert (list(row.prompt), row.chosen, row.rejected) == (TURNS, "No.", "Draw.")
    (first,) = from_rows([CONVERSATIONS["conversational"]], "elsewhere")
    assert row.id == first.id


def test_text_prompt_is_one_user_message_and_labels_are_kept():
    raw = GOOD | {"subset": "honest", "labeler_id": 7, "model": "ignored"}
    (row,) = from_rows([raw], "memory")
    assert row.prompt == (user("Hi"),)
    assert (row.subset, row.labeler_id) == ("honest", "7")
    (bare,) = from_rows([GOOD | {"subset": None, "labeler_id": float("nan")}], "memory")
    assert (bare.subset, bare.labeler_id) == (None, None)


def test_system_message_stays_in_the_prompt():
    context = [SYSTEM, user("Hi")]
    raw = {"prompt": "Hi", "chosen": [*context, assistant("Hello!")], "rejected": [*context, assistant("No.")]}
    (row,) = from_rows([raw], "memory")
    assert list(row.prompt) == context


def test_a_reply_that_begins_with_the_prompt_is_left_whole():
    (row,) = from_rows([{"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi"}], "memory")
    assert (row.chosen, row.rejected) == ("Hi there", "Hi")


BAD = [
    ({"prompt": "p", "rejected": "b"}, "chosen is missing"),
    ({"prompt": "p", "chosen": "a", "rejected": None}, "rejected is missing"),
    ({"prompt": "p", "chosen": "", "rejected": "b"}, "chosen is empty"),
    ({"prompt": "p", "chosen": [], "rejected": "b"}, "chosen is empty"),
    ({"prompt": "p", "chosen": "a", "rejected": [assistant("")]}, "rejected is empty"),
    ({"prompt": "p", "chosen": [assistant(None)], "rejected": "b"}, "chosen is empty"),
    ({"chosen": f"{TALK}", "rejected": f"{TALK} Draw."}, "chosen is empty"),
    ({"prompt": "p", "chosen": "a", "rejected": "a "}, "chosen equals rejected"),
    ({"prompt": "p", "chosen": 3, "rejected": "b"}, "chosen is neither text nor messages"),
    ({"prompt": "p", "chosen": ["a"], "rejected": "b"}, "chosen is neither text nor messages"),
    ({"prompt": [user(["image"])], "chosen": "a", "rejected": "b"}, "prompt is neither text nor messages"),
    (
        {"prompt": [{"role": "narrator", "content": "p"}], "chosen": "a", "rejected": "b"},
        "prompt has a role other than",
    ),
    ({"prompt": [{"content": "p"}], "chosen": "a", "rejected": "b"}, "prompt has a role other than"),
    ({"prompt": "p", "chosen": "\ud83d", "rejected": "b"}, "chosen is not valid Unicode"),
    ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
    ({"prompt": [SYSTEM, user("")], "chosen": "a", "rejected": "b"}, "prompt is empty"),
    ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "prompt is missing"),
    ({"prompt": [SYSTEM], "chosen": "a", "rejected": "b"}, "prompt has no user message"),
    ({"prompt": TURNS[:2], "chosen": "a", "rejected": "b"}, "prompt does not end with the user's turn"),
    ({"prompt": "p", "chosen": [user("a")], "rejected": "b"}, "chosen does not end with the assistant's turn"),
    ({"prompt": "p", "chosen": [assistant("a"), assistant("c")], "rejected": "b"}, "chosen is not one reply"),
    ({"prompt": "p", "chosen": [user("q"), assistant("a")], "rejected": "b"}, "chosen is not one reply"),
    ({"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]}, "do not share a prompt"),
    ({"chosen": f"{TALK} No.", "rejected": "\n\nHuman: Other\n\nAssistant: Draw."}, "do not share a prompt"),
    ({"chosen": f"{TALK} No.", "rejected": "Draw."}, "do not share a prompt"),
    ({"prompt": "Yes", "chosen": f"{TALK} No.", "rejected": [user("Yes"), assistant("b")]}, "do not share a prompt"),
    (GOOD, "duplicate row"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD)
def test_a_bad_row_is_dropped_and_counted(raw, reason):
    preferences = from_rows([GOOD, raw], "memory")
    assert [row.chosen for row in preferences] == ["Hello!"]
    assert preferences.read == 2
    ((counted, count),) = preferences.dropped.items()
    assert reason in counted and count == 1


def test_bad_rows_are_counted_together_and_most_frequent_first():
    preferences = from_rows([GOOD, GOOD, GOOD | {"chosen": ""}, GOOD | {"chosen": " "}], "memory")
    assert len(list(preferences)) == 1
    assert list(preferences.dropped.items()) == [("chosen is empty", 2), ("duplicate row", 1)]


def test_two_labelers_of_the_same_pair_are_two_rows():
    preferences = from_rows([GOOD | {"labeler_id": name} for name in ("ann", "bob", "ann")], "memory")
    rows = list(preferences)
    assert [row.labeler_id for row in rows] == ["ann", "bob"]
    assert len({row.id for row in rows}) == 2
    assert preferences.dropped == {"duplicate row": 1}


def test_a_set_of_hashes_is_a_set():
    """As Python's, through several times it grows: repeats, 0, and keys that want the same place."""
    rng = random.Random(0)
    keys = [rng.getrandbits(64) for _ in range(5000)] + [0, 0, 5, 5 + 2**20, 5 + 2**40, 5]
    keys += rng.sample(keys, 3000)
    ours, theirs = HashSet(), set()
    for key in keys:
        assert ours.add(key) == (key not in theirs)
        theirs.add(key)
    assert ours.count == len(theirs) == 5004
    assert 11 * ours.count > 8 * len(ours.places) / 2  # never more than 22 bytes a key, once it has grown


def test_labels_without_a_preference_are_dropped_and_counted(tmp_path):
    """The labels of a collection: what every labeller wrote, whatever the names; ties and skips by reason."""
    (tmp_path / "items.jsonl").write_text("")
    (tmp_path / "labels").mkdir()
    base = {"prompt": [{"role": "user", "content": "p"}], "chosen": "a", "rejected": "b", "tie": False}
    rows = [
        {**base, "answer": "a"},
        {**base, "answer": "tie", "tie": True, "chosen": "c"},
        {**base, "answer": "both_bad", "tie": True, "chosen": "d"},
        {**base, "answer": "skip", "chosen": "e"},
    ]
    for name in ("ann", "test"):  # a labeller's name that is also the name of a split
        lines = [json.dumps({**row, "labeler_id": name}) for row in rows]
        (tmp_path / "labels" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for source in (tmp_path / "labels", tmp_path):
        found = read_preferences(str(source))
        assert [row.labeler_id for row in found] == ["ann", "test"]
        assert found.dropped == {"tie": 2, "both bad by the labeller": 2, "skipped by the labeller": 2}


def test_ties_in_a_csv_are_dropped(tmp_path):
    (tmp_path / "x.csv").write_text("prompt,chosen,rejected,tie\np,a,b,False\np,a,c,True\n")
    found = read_preferences(str(tmp_path / "x.csv"))
    assert len(list(found)) == 1 and found.dropped == {"tie": 1}
