"""Losses and gradients of methods beside TRL's own, and that what is published of it is so."""

import json
from dataclasses import replace
from importlib.metadata import version

import pytest

from alignment_bench.benchmarks.definition.proof import EQUAL, PARITY, PUBLISHED
from alignment_bench.benchmarks.selfcheck.parity import Case, cases, difference

CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_of_the_same_log_probs_are_those_of_trl(name):
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    assert difference(CASES[name]) < EQUAL


def test_the_comparison_tells_losses_apart():
    """Each loss is far from all others, in value or gradient; and a policy that learns from padding is found."""
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    for name, other in zip(CASES, [*CASES][1:], strict=False):
        assert difference(Case(CASES[name].ours, CASES[other].theirs, "")) > 100 * EQUAL, (name, other)

    def padded(tokens):
        return CASES["grpo"].ours(replace(tokens, mask=tokens.mask | True))

    assert difference(Case(padded, CASES["grpo"].theirs, "")) > 100 * EQUAL


def test_what_is_published_is_what_is_tested():
    rows = json.loads((PUBLISHED / PARITY).read_text())
    rows.pop("sha256", None)
    assert {name: row["of"] for name, row in rows.items()} == {name: case.of for name, case in CASES.items()}
    assert {row["trl"] for row in rows.values()} == {version("trl")}
    assert all(row["difference"] < EQUAL for row in rows.values())
