"""Reading preferences in every accepted format, what is dropped and why, and the split by prompt."""

import gzip
import json
from pathlib import Path

import pandas
import pytest

from alignment_bench.benchmarks.data import from_rows, read_preferences, split_by_prompt
from alignment_bench.results.records import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"
USER = {"role": "user", "content": "Why?"}
YES, NO = ({"role": "assistant", "content": text} for text in ("Because.", "No idea."))


def one(row):
    (found,) = from_rows([row], "test").rows
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."},
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No idea."},
        {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": "Because.", "rejected": "No idea."},
    ],
)
def test_every_format_gives_the_same_row(row):
    found = one(row)
    assert (found.prompt, found.chosen, found.rejected) == ((USER,), "Because.", "No idea.")
    assert found.id == one({"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}).id


def test_transcripts_of_several_turns_are_read_turn_by_turn():
    start = "\n\nHuman: One?\n\nAssistant: Two.\n\nwith a break\n\nHuman: Three?\n\nAssistant: "
    found = one({"chosen": start + "Four.", "rejected": start + "Five."})
    assert [m["content"] for m in found.prompt] == ["One?", "Two.\n\nwith a break", "Three?"]
    assert (found.chosen, found.rejected) == ("Four.", "Five.")


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "chosen is null"),
        ({"prompt": "p", "chosen": "a"}, "rejected is missing"),
        ({"prompt": "p", "chosen": "  ", "rejected": "b"}, "chosen is empty"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen equals rejected"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": "p", "chosen": 3, "rejected": "b"}, "chosen is neither text nor chat messages"),
        ({"chosen": "a", "rejected": "b"}, "there is no prompt, and chosen and rejected share no beginning"),
        ({"prompt": [YES], "chosen": "a", "rejected": "b"}, "the prompt does not end with the user's turn"),
        ({"prompt": [USER], "chosen": [YES, USER], "rejected": [NO]}, "chosen is not one assistant reply after the prompt"),
        (GOOD, "the same prompt and replies again"),
        ("text", "the row is no object with fields"),
    ],
)
def test_unusable_rows_are_dropped_and_counted(row, reason):
    found = from_rows([GOOD, row], "test")
    assert len(found.rows) == 1 and found.read == 2
    assert found.dropped == {reason: 1}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


ROWS = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "subset": "s"} for i in range(12)]


def test_file_formats_agree(tmp_path):
    lines = "\n".join(map(json.dumps, ROWS))
    sources = [write(tmp_path / "a.jsonl", lines), write(tmp_path / "a.json", json.dumps(ROWS))]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame(ROWS).to_csv(tmp_path / "a.csv", index=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "1.jsonl", "\n".join(map(json.dumps, ROWS[:5])))
    write(folder / "2.jsonl", "\n".join(map(json.dumps, ROWS[5:])))
    sources += [str(tmp_path / name) for name in ("a.jsonl.gz", "a.parquet", "a.csv")] + [str(folder)]
    digests = {read_preferences(source).digest for source in sources}
    assert len(digests) == 1
    assert read_preferences(sources[0]).rows[0].subset == "s"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", json.dumps(GOOD) + '\n{"prompt": "p", "cho', r"a\.jsonl, line 2, column 15: not valid JSON"),
        ("a.jsonl", "", r"has no usable preference pair \(it is empty\)"),
        ("a.jsonl", '{"prompt": "p", "chosen": "a", "rejected": ""}', r"1 x rejected is empty"),
        ("a.jsonl", '{"prompt": "p", "choosen": "a", "rejected": "b"}', r"no field 'chosen'; did you mean 'choosen'"),
        ("a.json", '{"a": 1}', r"a list of objects"),
        ("a.parquet", "no parquet", r"not a readable Parquet file"),
        ("a.jsonl.gz", "no gzip", r"cannot be read to its end"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_preferences(write(tmp_path / name, text))


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="there is no such file"):
        read_preferences(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="owner/none: there is no such file, and the hub did not give it"):
        read_preferences("owner/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        read_preferences(str(tmp_path / "empty"))


SHARES = {"sft": 1.0, "training": 2.0, "evaluation": 1.0, "heldout": 1.0}


def test_split_keeps_prompts_together_and_meets_the_shares():
    rows = from_rows([{**GOOD, "prompt": f"p{i % 50}", "chosen": f"a{i}"} for i in range(200)], "t").rows
    parts = split_by_prompt(rows, SHARES, seed=0)
    prompts = {name: {r.prompt[0]["content"] for r in part} for name, part in parts.items()}
    assert {name: len(p) for name, p in prompts.items()} == {"sft": 10, "training": 20, "evaluation": 10, "heldout": 10}
    assert sum(map(len, parts.values())) == 200
    assert len(set.union(*prompts.values())) == 50  # disjoint: 10 + 20 + 10 + 10
    again = split_by_prompt(rows[::-1], SHARES, seed=0)
    assert {n: {r.id for r in p} for n, p in again.items()} == {n: {r.id for r in p} for n, p in parts.items()}
    other = split_by_prompt(rows, SHARES, seed=1)
    assert {r.id for r in other["sft"]} != {r.id for r in parts["sft"]}


def test_too_few_prompts_to_split():
    with pytest.raises(InputError, match="1 usable prompt,.* at least 8 different prompts"):
        split_by_prompt(from_rows([GOOD], "t").rows, SHARES, seed=0)
    rows = from_rows([{**GOOD, "prompt": f"p{i}"} for i in range(8)], "t").rows
    assert {n: len(p) for n, p in split_by_prompt(rows, SHARES, 0).items()} == dict.fromkeys(SHARES, 2)


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real data {name} is not beside this checkout (shared/data)")
    return str(path)


def test_real_human_preferences():
    found = read_preferences(shared("hh_harmless.jsonl.gz"))
    assert found.read == 1861 and len(found.rows) + sum(found.dropped.values()) == 1861
    assert len(found.rows) > 1800


def test_real_raw_transcripts():
    found = read_preferences(shared("hh_harmless_raw_sample.jsonl"))
    assert found.read == 169 and len(found.rows) > 150
    assert all(r.prompt[-1]["role"] == "user" and "Human:" not in r.chosen for r in found.rows)


def test_real_pairs_with_many_rows_a_prompt():
    found = read_preferences(shared("alpacaeval_gpt4.jsonl.gz"))
    assert found.read == 9061
    parts = split_by_prompt(found.rows, SHARES, seed=0)
    prompts = [{r.prompt[0]["content"] for r in part} for part in parts.values()]
    assert len(set.union(*prompts)) == sum(map(len, prompts))
