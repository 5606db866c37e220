"""The published table of architectures, and that it is what the suite does today for some of them."""

from pathlib import Path

import pytest

from alignment_bench.benchmarks.selfcheck import architectures
from alignment_bench.benchmarks.selfcheck.architecture_sizes import ARCHITECTURES
from alignment_bench.benchmarks.selfcheck.architectures import TOLERANCE, USES, agrees, measure, page, statement
from alignment_bench.results.store import read_json

PUBLISHED = read_json(architectures.PUBLISHED)
ROWS = PUBLISHED["architectures"]
DOCS = Path(__file__).parents[3] / "docs" / "howto" / "model.md"


def test_the_page_and_the_docs_say_what_the_file_says():
    assert [*ROWS] == [*ARCHITECTURES] and len(ROWS) >= 40
    assert architectures.PUBLISHED.with_suffix(".md").read_text(encoding="utf-8") == page(PUBLISHED)
    assert statement(PUBLISHED) in " ".join(DOCS.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_use_agrees_with_transformers_or_is_refused_by_name(name):
    row = ROWS[name]
    assert [*row["uses"]] == [*USES]
    assert row["looks_back"] > 100 * TOLERANCE  # else a leak between sequences would not show
    for use in row["uses"].values():
        assert agrees(use) or use["refused"].startswith(f"--model {name}: {row['class']} ")


def test_what_is_not_within_the_tolerance_does_not_agree():
    assert agrees({"difference": TOLERANCE}) and not agrees({"difference": 1.01 * TOLERANCE})
    assert not agrees({"refused": "..."}) and not agrees({"difference": float("nan")})


def test_the_statement_counts_by_hand():
    same, refused = {"difference": 1e-6}, {"refused": "--model x: X cannot"}
    rows = {
        "a": {"uses": {"pack": same}},
        "b": {"uses": {"pack": same, "score": refused}},
        "c": {"uses": {"pack": same}},
    }
    said = statement({"architectures": rows, "packages": {"transformers": "9"}})
    assert said.startswith("2 of 3 architectures of transformers 9,") and said.endswith("; 1 are refused by name")


@pytest.mark.parametrize("name", ["cohere", "gemma2", "lfm2", "mamba", "mixtral"])
def test_the_table_is_what_the_suite_does(name):
    """A factor on logits, a soft cap, states beside keys and values, states alone, stacked experts."""
    found = measure(name)
    assert all(map(agrees, found["uses"].values())), found
    for use, row in ROWS[name]["uses"].items():
        assert found["uses"][use].get("packed") == row.get("packed")
        assert found["uses"][use].get("adapted") == pytest.approx(row.get("adapted"))
