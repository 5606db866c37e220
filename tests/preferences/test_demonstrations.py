"""Demonstrations and prompts in the forms that teams have them, and rows that are neither."""

import json

import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences.demonstrations import read_demonstrations, read_prompts

ASK, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
SYSTEM, MORE = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "And then?"}
TALK = "\n\nHuman: Why?\n\nAssistant: Because."


@pytest.fixture
def save(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("row", "prompt", "reply"),
    [
        ({"prompt": "Why?", "completion": "Because."}, [ASK], "Because."),
        ({"prompt": [SYSTEM, ASK], "completion": [ANSWER]}, [SYSTEM, ASK], "Because."),
        ({"messages": [ASK, ANSWER]}, [ASK], "Because."),
        ({"messages": [ASK, ANSWER, MORE, ANSWER], "completion": None}, [ASK, ANSWER, MORE], "Because."),
        ({"conversation": TALK}, [ASK], "Because."),
        ({"text": TALK}, [ASK], "Because."),
    ],
)
def test_forms_of_a_demonstration(save, row, prompt, reply):
    [found] = read_demonstrations(save(row), "demonstrations")
    assert (list(found.prompt), found.reply, found.good) == (prompt, reply, True)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": [ASK]}, "messages does not end with the assistant's turn"),
        ({"messages": [ANSWER]}, "prompt is missing"),
        ({"messages": [SYSTEM, ANSWER]}, "prompt has no user message"),
        ({"messages": [ASK, {"role": "assistant", "content": " "}]}, "reply is empty"),
        ({"completion": "Because."}, "prompt is missing"),
        ({"prompt": "Why?", "completion": [ASK, ANSWER]}, "completion is not one reply"),
        ({"prompt": "Why?"}, "prompt is missing"),
    ],
)
def test_rows_that_are_no_demonstrations_are_counted(save, row, why):
    good = {"prompt": "Why?", "completion": "Because."}
    reading = read_demonstrations(save(row, good, good), "demonstrations")
    assert len(list(reading)) == 1 and reading.read == 3
    assert reading.dropped == {why: 1, "duplicate row": 1}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?"}, [ASK]),
        ({"prompt": "Why?", "completion": "Because."}, [ASK]),
        ({"chosen": TALK, "rejected": TALK + " No."}, [ASK]),
        ({"messages": [ASK, ANSWER, MORE]}, [ASK, ANSWER, MORE]),
        ({"messages": [ASK, ANSWER]}, [ASK]),
    ],
)
def test_forms_of_a_prompt(save, row, prompt):
    [found] = read_prompts(save(row | {"subset": "s"}), "prompts")
    assert (list(found.prompt), found.subset) == (prompt, "s")


def test_files_of_which_nothing_can_be_used(save):
    with pytest.raises(
        InputError, match=r"^here: there is no file none.jsonl; give a file with rows of prompt and comp"
    ):
        read_demonstrations("none.jsonl", "here")
    with pytest.raises(
        InputError, match=r"none of its 1 rows can be used \(prompt is missing: 1\); a row needs prompt"
    ):
        list(read_demonstrations(save({"question": "Why?", "answer": "Because."}), "here"))
    with pytest.raises(InputError, match="holds no rows; give a file with rows of prompt$"):
        list(read_prompts(save(), "here"))
