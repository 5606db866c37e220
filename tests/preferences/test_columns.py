"""Rows as other tools write them, and with columns that a user names: the right prompt and replies, or a reason."""

import json

import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences.columns import parse_columns
from alignment_bench.preferences.export import convert
from alignment_bench.preferences.read import from_rows, read_preferences
from alignment_bench.preferences.unpaired import read_unpaired

HUMAN, GOOD, BAD = {"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}, {"from": "gpt", "value": "bad"}
REPLIES = {"chosen": "good", "rejected": "bad"}
U, A, S = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("system", "s")))
TOOL_CALL = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
SAVED = {
    "chosen": [U, {"role": "assistant", "content": "good"}],
    "rejected": [U, {"role": "assistant", "content": "bad"}],
}

READ = {
    "LLaMA-Factory": ({"conversations": [HUMAN], "chosen": GOOD, "rejected": BAD}, [U]),
    "ShareGPT": ({"prompt": [HUMAN], "chosen": [GOOD], "rejected": [BAD]}, [U]),
    "ShareGPT system": ({"conversations": [{"from": "system", "value": "s"}, HUMAN], **REPLIES}, [S, U]),
    "system and question": ({"system": "s", "question": "q", **REPLIES}, [S, U]),
    "system and prompt": ({"system": "s", "prompt": "q", **REPLIES}, [S, U]),
    "an empty system prompt": ({"system": " ", "prompt": "q", **REPLIES}, [U]),
    "the same system prompt twice": ({"system_prompt": "s", "prompt": [S, U], **REPLIES}, [S, U]),
    "system beside whole conversations": ({"system": "s", "prompt": "q", **SAVED}, [S, U]),
    "developer": ({"prompt": [{"role": "developer", "content": "s"}, U], **REPLIES}, [S, U]),
    "instruction, input, prompt": (
        {"instruction": "Translate.", "input": "word", "prompt": "Translate.", **REPLIES},
        [{"role": "user", "content": "Translate.\nword"}],
    ),
    "input that the instruction names": (
        {"instruction": "Translate word.", "input": "word", **REPLIES},
        [{"role": "user", "content": "Translate word.\nword"}],
    ),
    "a prompt of both": (
        {"prompt": "Translate.\nword", "instruction": "Translate.", "input": "word", **REPLIES},
        [{"role": "user", "content": "Translate.\nword"}],
    ),
    "an empty input": ({"instruction": "q", "input": "", **REPLIES}, [U]),
    "input alone": ({"system": "s", "input": "q", **REPLIES}, [S, U]),
    "input that the prompt holds": ({"prompt": "q", "input": "q ", **REPLIES}, [U]),
    "output of two": ({"instruction": "q", "input": "", "output": ["good", "bad"]}, [U]),
    "history in pairs": ({"prompt": "q", "history": [["q", "a"]], **REPLIES}, [U, A, U]),
    "history in messages": ({"system": "s", "prompt": "q", "history": [U, A], **REPLIES}, [S, U, A, U]),
    "history that the prompt holds": ({"prompt": [S, U, A, U], "history": [["q", "a"]], **REPLIES}, [S, U, A, U]),
    "Argilla": ({"instruction": "q", "chosen_response": "good", "rejected_response": "bad"}, [U]),
    "parts": ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}]}], **REPLIES}, [U]),
    "JSON in a text": ({"prompt": "q", **{side: json.dumps(said) for side, said in SAVED.items()}}, [U]),
    "Python in a text": ({"prompt": "q", **{side: str(said) for side, said in SAVED.items()}}, [U]),
    "no tools": ({"prompt": [U | {"tool_calls": None}], "tools": [], **REPLIES}, [U]),
}


@pytest.mark.parametrize("name", READ)
def test_rows_of_other_tools_are_read_whole(name):
    raw, prompt = READ[name]
    (row,) = from_rows([raw], "memory")
    assert (list(row.prompt), row.chosen, row.rejected) == (prompt, "good", "bad")


DROPPED = [
    ({"prompt": "q", "tools": TOOL_CALL, **REPLIES}, "tools or tool calls"),
    ({"prompt": "q", **REPLIES, "chosen": [A | {"tool_calls": TOOL_CALL}]}, "tools or tool calls"),
    ({"prompt": [U, A | {"function_call": TOOL_CALL[0]}, U], **REPLIES}, "tools or tool calls"),
    ({"prompt": [U, {"role": "tool", "content": "3"}, U], **REPLIES}, "tools or tool calls"),
    ({"prompt": "q", "instruction": "other", **REPLIES}, "prompt and instruction differ"),
    ({"prompt": [S, U], "system": "t", **REPLIES}, "system differs from the prompt's system message"),
    ({"prompt": "q", "history": ["a", "b"], **REPLIES}, "history is neither text nor messages"),
    ({"prompt": "q", "history": [["a"]], **REPLIES}, "history is neither pairs of texts nor messages"),
    ({"prompt": "q", **REPLIES, "chosen": "[{'role': 'user'}\n {'role': 'assistant'}]"}, "cannot be read back"),
    ({"prompt": [U | {"content": [{"type": "image", "url": "x"}]}], **REPLIES}, "parts that are no text"),
    ({"prompt": "q", "score_chosen": 8.0, "score_rejected": 8, **REPLIES}, "tie by its scores"),
    ({"prompt": "q", "chosen_rating": "3", "rejected_rating": "4.5", **REPLIES}, "prefer the rejected reply"),
]


@pytest.mark.parametrize(("raw", "reason"), DROPPED)
def test_what_a_row_would_lose_drops_it_and_is_counted(raw, reason):
    found = from_rows([{"prompt": "other", **REPLIES}, raw], "memory")
    assert len(list(found)) == 1
    ((counted, count),) = found.dropped.items()
    assert reason in counted and count == 1


def test_a_reply_that_is_json_or_a_list_stays_text():
    for text in ('{"role": "admin"}', "[1, 2]", '[{"name": "x"}]', "[{'role': 'user'}] is a list"):
        (row,) = from_rows([{"prompt": "q", "chosen": text, "rejected": "b"}], "memory")
        assert row.chosen == text


def test_reasoning_in_a_field_stands_before_the_answer_as_models_write_it():
    chosen = [{"role": "assistant", "content": "4", "reasoning_content": "2+2\n"}]
    rejected = [{"role": "assistant", "content": "4", "thinking": "a guess"}]
    (row,) = from_rows([{"prompt": "q", "chosen": chosen, "rejected": rejected}], "memory")
    assert row.chosen == "<think>\n2+2\n</think>\n\n4"
    assert row.rejected == "<think>\na guess\n</think>\n\n4"
    both = [A | {"content": "<think>x</think>4", "reasoning": "x"}]  # said twice
    (row,) = from_rows([{"prompt": "q", "chosen": both, "rejected": "b"}], "memory")
    assert row.chosen == "<think>x</think>4"


def test_named_columns_take_the_place_of_what_the_names_say(tmp_path):
    """What is read beside them by its name (system, scores) counts only where it is named too."""
    path = tmp_path / "p.jsonl"
    row = {"question": "q", "answer_a": "good", "answer_b": "bad", "prompt": "an id", "system": "s", "extra": 1}
    path.write_text(json.dumps({**row, "score_chosen": 1, "score_rejected": 2}) + "\n")
    named = parse_columns("prompt=question, chosen=answer_a,rejected=answer_b")
    (found,) = read_preferences(str(path), columns=named)
    assert (list(found.prompt), found.chosen, found.rejected) == ([U], "good", "bad")
    (found,) = read_preferences(str(path), columns={**named, "system": "system"})
    assert list(found.prompt) == [S, U]
    convert(str(path), str(tmp_path / "out.jsonl"), columns=named)
    assert json.loads((tmp_path / "out.jsonl").read_text())["prompt"] == [U]
    with pytest.raises(InputError, match="no row has the column 'qestion' that was named; did you mean 'question'"):
        list(read_preferences(str(path), columns={**named, "prompt": "qestion"}))
    with pytest.raises(InputError, match="say which column it is with --columns chosen=COLUMN"):
        list(read_preferences(str(path)))
    for text, said in (
        ("prompt", "'prompt' is not NAME=COLUMN"),
        ("promt=q", "no field 'promt'; did you mean 'prompt'"),
    ):
        with pytest.raises(InputError, match=said):
            parse_columns(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.tsv", "prompt\tchosen\trejected\nq\tgood, really\tbad\n"),
        ("p.csv", "prompt;chosen;rejected\nq;good, really;bad\n"),
        ("p.csv", "prompt\tchosen\trejected\nq\tgood, really\tbad\n"),
        ("p.csv", 'prompt,chosen,rejected\nq,"good, really",bad\n'),
        ("p.csv", f'prompt,chosen,rejected\n"{[U]}","good, really",bad\n'),
    ],
)
def test_tables_by_whatever_divides_them(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (row,) = read_preferences(str(tmp_path / name))
    assert (list(row.prompt), row.chosen, row.rejected) == ([U], "good, really", "bad")


RANKED = {"prompt": "\n\nHuman: q\n\nAssistant: ", "answers": [
    {"answer": "second", "rank": 2.0, "model": "m"}, {"answer": "first", "rank": 1.0, "model": "n"},
    {"answer": "also second", "rank": 2.0, "model": "m"},
]}  # fmt: skip
LISTS = {
    "Nectar": ([RANKED], [("first", "second"), ("first", "also second")], {"tie": 1}),
    "HelpSteer2": (
        [{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": n} for n in (-2, 1, 0)],
        [("a", "b"), ("b", "a")], {"tie": 1},
    ),
    "HelpSteer3": (
        [{"context": [U], "response1": "a", "response2": "b", "overall_preference": n} for n in (3, -1, None)],
        [("b", "a"), ("a", "b")], {"the pair has no score": 1},
    ),
    "HelpSteer": (
        [{"prompt": p, "response": r, "helpfulness": n} for p, r, n in (("q", "a", 1), ("q", "b", 4), ("p", "c", 2))],
        [("b", "a")], {"fewer than two completions": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_lists_and_graded_pairs_are_converted(tmp_path, name):
    rows, pairs, dropped = LISTS[name]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = convert(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    found = [(r.prompt[-1]["content"], r.chosen, r.rejected) for r in read_preferences(str(tmp_path / "out.jsonl"))]
    assert found == [("q", *pair) for pair in pairs]
    assert {reason.partition(":")[0]: count for reason, count in done.dropped.items()} == dropped
    with pytest.raises(InputError, match="`bench convert .*in.jsonl pairs.jsonl` writes pairs"):
        list(read_preferences(str(tmp_path / "in.jsonl")))


def test_scores_that_say_the_opposite_are_not_turned_round_on_the_way(tmp_path):
    """Four rows as those of ultrafeedback_binarized: equal, the other way round, agreeing, without scores."""
    scores = [(8.0, 8.0), (3.0, 7.5), (9.0, 2.0), (None, None)]
    rows = [
        {"prompt": f"q{i}", **REPLIES, "score_chosen": better, "score_rejected": worse}
        for i, (better, worse) in enumerate(scores)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_preferences(str(tmp_path / "in.jsonl"))
    assert [r.prompt[0]["content"] for r in found] == ["q2", "q3"]
    assert found.dropped == {"tie by its scores": 1, "its scores prefer the rejected reply": 1}
    there = convert(str(tmp_path / "in.jsonl"), str(tmp_path / "scored.jsonl"), "scored")
    assert there.dropped == {"its scores prefer the rejected reply": 1, "no scores to write": 1}
    back = convert(str(tmp_path / "scored.jsonl"), str(tmp_path / "back.jsonl"))
    assert (back.comparisons, back.written) == (2, 1)  # a tie of q0 has no room among pairs
    (kept,) = read_preferences(str(tmp_path / "back.jsonl"))
    assert (kept.prompt[0]["content"], kept.chosen, kept.rejected) == ("q2", "good", "bad")


@pytest.mark.parametrize("shape", ["pairs", "implicit", "text", "hh", "unpaired", "ties", "alpacaeval"])
def test_a_cut_reply_stays_marked_through_every_shape(tmp_path, shape):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "q", **REPLIES, "rejected_cut": True}) + "\n")
    for name in ("middle.jsonl", "middle.parquet"):
        convert(str(tmp_path / "in.jsonl"), str(tmp_path / name), shape)
        convert(str(tmp_path / name), str(tmp_path / "back.jsonl"))
        (row,) = read_preferences(str(tmp_path / "back.jsonl"))
        assert (row.chosen, row.rejected, row.cut) == ("good", "bad", (False, True))
    if shape == "unpaired":
        assert [(r.reply, r.cut) for r in read_unpaired(str(tmp_path / "middle.jsonl"))] == [
            ("good", False),
            ("bad", True),
        ]
    (plain,) = from_rows([{"prompt": "q", **REPLIES}], "memory")
    assert plain.cut == (False, False) and plain.id != row.id
