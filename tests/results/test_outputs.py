"""AlpacaEval's and Arena-Hard-Auto's files: round trips, the tools' own readers, and bad files."""

import json

import pandas
import pytest

from alignment_bench.errors import InputError
from alignment_bench.results.outputs import Response, read_outputs, write_outputs

MARKDOWN = "# One\n## Two\n1. first\n2. second\n- item\n**bold** and __bold__\n```\n# no header\n- no item\n```\n"


def responses(format):
    texts = ["2 is even.", 'Quote " and \\ and é\n\n', "", MARKDOWN]
    found = []
    for i, text in enumerate(texts):
        messages = ({"role": "user", "content": f"Question {i}?"},)
        found.append(
            Response(f"q{i}", messages, text, "quick-dpo-seed0", "helpful" if format == "alpaca_eval" else "", 7)
        )
    return found


@pytest.mark.parametrize("format", ["alpaca_eval", "arena"])
def test_round_trip(tmp_path, format):
    written = responses(format)
    path = write_outputs(written, format, tmp_path, 1_700_000_000.0)
    found = read_outputs(path, format)
    assert [(a.messages, a.output, a.generator, a.dataset) for a in found] == [
        (a.messages, a.output, a.generator, a.dataset) for a in written
    ]
    if format == "arena":
        assert found == written
        assert path == tmp_path / "model_answer" / "quick-dpo-seed0.jsonl"


def test_alpaca_evals_own_reader_takes_the_file(tmp_path):
    path = write_outputs(responses("alpaca_eval"), "alpaca_eval", tmp_path, 0.0)
    utils = pytest.importorskip("alpaca_eval.utils", reason="alpaca_eval is not installed")
    frame = utils.load_or_convert_to_dataframe(str(path))
    assert list(frame.columns) == ["instruction", "output", "generator", "dataset"]
    assert utils.get_generator_name(None, frame) == "quick-dpo-seed0"
    assert frame["output"].tolist() == [a.output for a in responses("alpaca_eval")]


def test_alpaca_evals_columns_as_pandas_reads_them(tmp_path):
    """Its reader is pandas.read_json; it joins model and reference on `instruction`."""
    frame = pandas.read_json(write_outputs(responses("alpaca_eval"), "alpaca_eval", tmp_path, 0.0))
    assert list(frame.columns) == ["instruction", "output", "generator", "dataset"]
    assert frame["output"].tolist() == [a.output for a in responses("alpaca_eval")]


def test_arenas_fields(tmp_path):
    """Fields that its gen_judgment.py and show_result.py take from a line, by their own expressions."""
    path = write_outputs(responses("arena"), "arena", tmp_path, 1_700_000_000.0)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    by_uid = {row["uid"]: row for row in rows}
    assert by_uid["q0"]["messages"][-1]["content"]["answer"] == "2 is even."
    assert set(rows[0]) == {"uid", "ans_id", "model", "messages", "tstamp", "metadata"}
    assert len({row["ans_id"] for row in rows}) == 4
    metadata = pandas.read_json(path, lines=True).set_index("uid")["metadata"].to_dict()["q3"]
    assert [sum(v.values()) if isinstance(v, dict) else v for v in metadata.values()] == [7, 2, 3, 2]
    assert metadata["header_count"]["h2"] == 1 and metadata["list_count"] == {"ordered": 2, "unordered": 1}


def test_questions_of_both_tools_are_read(tmp_path):
    (tmp_path / "eval.json").write_text(json.dumps([{"instruction": "Say hi", "dataset": "koala"}]))
    question = read_outputs(tmp_path / "eval.json", "alpaca_eval")[0]
    assert (question.messages, question.output, question.dataset) == (
        ({"role": "user", "content": "Say hi"},),
        "",
        "koala",
    )
    lines = [{"uid": "a", "category": "hard_prompt", "prompt": "Q"}, {"question_id": "b", "turns": [{"content": "R"}]}]
    (tmp_path / "question.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = read_outputs(tmp_path / "question.jsonl", "arena")
    assert [(a.id, a.messages[0]["content"]) for a in found] == [("a", "Q"), ("b", "R")]


def test_several_turns_are_kept_or_written_out(tmp_path):
    turns = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2+2"},
    )
    response = Response("q", turns, "4", "m", "d")
    assert read_outputs(write_outputs([response], "arena", tmp_path, 0.0), "arena")[0].messages == turns
    row = json.loads(write_outputs([response], "alpaca_eval", tmp_path, 0.0).read_text())[0]
    assert row["instruction"] == "User: Hi\nAssistant: Yes?\nUser: 2+2"


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("alpaca_eval", "{", "is not alpaca_eval's JSON"),
        ("alpaca_eval", "[]", "holds no list of rows"),
        ("alpaca_eval", '{"instruction": "a"}', "holds no list of rows"),
        ("alpaca_eval", '[{"instruction": "a"}, {"prompt": "b"}]', "row 2: not a row of alpaca_eval, which needs"),
        ("alpaca_eval", "[3]", "row 1: not a row"),
        ("arena", '{"uid": "a"}', "row 1: not a row of arena"),
        ("arena", '{"uid": "a", "messages": [{"role": "user", "content": "x"}]}', "row 1: not a row of arena"),
        ("arena", "[", "is not arena's JSON"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, format, text, message):
    (tmp_path / "bad").write_text(text)
    with pytest.raises(InputError, match=message):
        read_outputs(tmp_path / "bad", format)
    with pytest.raises(InputError, match="cannot be read"):
        read_outputs(tmp_path / "none", format)


def test_a_question_answered_twice_is_refused(tmp_path):
    response = responses("arena")[0]
    with pytest.raises(InputError, match="has two responses to a question"):
        write_outputs([response, response], "arena", tmp_path, 0.0)
