"""Win rates at equal length and Markdown: counts by hand, and a judge that likes lists."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.equal_style import equal_style, markdown
from alignment_bench.results.records import Generation

LIST = (
    "# Title\n\n- one\n- two\n\n1. **three** and __four__\n\n```\n# no header\n- no item\n```\nA 2-1 win * 3 * 4. #tag"
)


def test_markdown_is_counted_by_hand():
    assert markdown(LIST) == {"headers": 1, "lists": 3, "bold": 2}
    assert markdown("") == markdown("plain, 3 - 2 = 1") == {"headers": 0, "lists": 0, "bold": 0}
    assert markdown("## a\n### b\n####### c") == {"headers": 2, "lists": 0, "bold": 0}


def runs(prompts, wins, texts, lengths):
    """Responses of a against SFT's plain ones, and a's wins."""
    ids = [f"p{i}" for i in range(prompts)]
    made = [Generation(name, (), text, length, True) for name, text, length in zip(ids, texts, lengths, strict=True)]
    plain = [Generation(name, (), "plain", 20, True) for name in ids]
    rows = [("a", 0, "win_rate.judge", name, win) for name, win in zip(ids, wins, strict=True)]
    table = pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"])
    return table, {("a", 0): made, ("sft", 0): plain}


def test_a_judge_that_likes_lists_is_seen_through():
    """Log-odds 0 without a list and 2 with one (88%), of 1 item or of 20: beside SFT's none all lists are alike.

    Lists in half of the responses: 69% raw, 50% at equal style.
    """
    rng = np.random.default_rng(0)
    prompts = 6000
    listed = rng.random(prompts) < 0.5
    wins = (rng.random(prompts) < 1 / (1 + np.exp(-2.0 * listed))).astype(float)
    texts = ["- one\n" * (1 if i % 2 else 20) if has else "plain" for i, has in enumerate(listed)]
    table, responses = runs(prompts, wins, texts, rng.integers(10, 30, prompts))
    assert wins.mean() == pytest.approx(0.69, abs=0.02)
    row = equal_style(table, responses)["judge"]["a"]
    assert row["mean"] == pytest.approx(0.5, abs=0.025) and row["low"] < 0.5 < row["high"]


def test_without_markdown_or_with_it_missing_there_is_nothing():
    rng = np.random.default_rng(1)
    wins = (rng.random(80) < 0.6).astype(float)
    table, responses = runs(80, wins, ["plain"] * 80, rng.integers(10, 30, 80))
    assert equal_style(table, responses) == {}
    table, responses = runs(80, wins, ["- one"] * 40 + ["plain"] * 40, rng.integers(10, 30, 80))
    assert equal_style(table, responses)["judge"]["a"]["n"] == 80
    assert equal_style(table, {("a", 0): responses["a", 0]}) == {}  # SFT's are not there
