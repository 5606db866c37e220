"""Splits by prompt: their sizes, what they depend on, and real preference data in them."""

import random
from pathlib import Path

import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences.read import from_rows, read_preferences, split_by_prompt

REAL = Path(__file__).parents[3] / "shared" / "data"
SHARES = {"sft": 0.25, "training": 0.4, "evaluation": 0.2, "heldout": 0.15}


def many(prompts, each):
    """Rows of several prompts, prompt after prompt, with one reply or more each."""
    rows = [{"prompt": f"p{i}", "chosen": f"a{j}", "rejected": "b"} for j in range(each) for i in range(prompts)]
    return tuple(from_rows(rows, "memory"))


def prompts_of(rows):
    return {row.prompt[0]["content"] for row in rows}


def test_split_sizes_are_shares_of_prompts():
    # 103 prompts: 25.75, 41.2, 20.6, 15.45. Floors leave 2 over; the largest remainders are sft's and evaluation's.
    parts = split_by_prompt(many(103, 3), SHARES, seed=0)
    assert list(parts) == ["sft", "training", "evaluation", "heldout"]
    assert [len(prompts_of(rows)) for rows in parts.values()] == [26, 41, 21, 15]
    assert [len(rows) for rows in parts.values()] == [78, 123, 63, 45]
    # Shares need not sum to 1.
    assert split_by_prompt(many(103, 3), {name: 20 * share for name, share in SHARES.items()}, seed=0) == parts


def test_split_depends_on_seed_and_not_on_the_order_of_rows():
    rows = many(40, 2)
    parts = split_by_prompt(rows, SHARES, seed=0)
    shuffled = random.Random(1).sample(rows, len(rows))
    again = split_by_prompt(shuffled, SHARES, seed=0)
    for name, part in parts.items():
        assert prompts_of(again[name]) == prompts_of(part)
        assert part == [row for row in rows if row in part]  # the input's order is kept
        assert again[name] == [row for row in shuffled if row in part]
    other = split_by_prompt(rows, SHARES, seed=1)
    assert any(prompts_of(other[name]) != prompts_of(parts[name]) for name in SHARES)


def test_split_tells_conversations_apart_by_all_their_messages():
    roles = ("user", "assistant", "user")
    texts = [("x", f"{i}", "same") for i in range(10)]
    chats = [[{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)] for turns in texts]
    rows = tuple(from_rows([{"prompt": chat, "chosen": "a", "rejected": "b"} for chat in chats], "memory"))
    parts = split_by_prompt(rows, {"one": 0.5, "two": 0.5}, seed=0)
    assert [len(part) for part in parts.values()] == [5, 5]


def test_too_few_prompts_to_split(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    preferences = read_preferences(str(tmp_path / "one.jsonl"))
    rows = list(preferences)
    assert len(rows) == 1
    # The smallest share is 15%: 7 prompts give it at least one for certain (7 * 0.15 > 1 > 6 * 0.15).
    with pytest.raises(InputError, match=r"needs at least 7 prompts, .*one\.jsonl has 1"):
        split_by_prompt(rows, SHARES, seed=0, source=preferences.source)
    with pytest.raises(InputError, match="needs at least 7 prompts, the preferences has 1"):
        split_by_prompt(many(1, 50), SHARES, seed=0)
    assert all(split_by_prompt(many(7, 1), SHARES, seed=0).values())


def real(name):
    if not (REAL / name).is_file():
        pytest.skip(f"shared/data/{name} does not lie beside the project")
    preferences = read_preferences(str(REAL / name))
    return preferences, list(preferences)


def test_real_chats():
    preferences, rows = real("hh_harmless.jsonl.gz")
    assert (preferences.read, len(rows), preferences.dropped) == (1861, 1861, {})
    assert all(row.prompt[-1]["role"] == "user" and row.prompt[-1]["content"] for row in rows)


def test_real_transcripts_are_rows_of_the_real_chats():
    preferences, rows = real("hh_harmless_raw_sample.jsonl")
    # One transcript ends in "Assistant:" with nothing after it.
    assert (preferences.read, len(rows), preferences.dropped) == (169, 168, {"chosen is empty": 1})
    chats = {row.id: row for row in real("hh_harmless.jsonl.gz")[1]}
    assert all(chats[row.id] == row for row in rows)


def test_real_pairs_with_many_replies_to_a_prompt():
    preferences, rows = real("alpacaeval_gpt4.jsonl.gz")
    assert (preferences.read, len(rows), preferences.dropped) == (9061, 9061, {})
    parts = split_by_prompt(rows, SHARES, seed=0)
    # 442 prompts: 110.5, 176.8, 88.4, 66.3. Floors leave 2 over: training's and sft's.
    assert [len(prompts_of(rows)) for rows in parts.values()] == [111, 177, 88, 66]
    # The counts sum to 442, so if the union has 442 prompts as well, no prompt is on two sides.
    assert len(set().union(*(prompts_of(rows) for rows in parts.values()))) == 442
    assert sum(len(rows) for rows in parts.values()) == 9061
