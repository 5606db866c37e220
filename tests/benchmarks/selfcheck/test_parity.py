"""Losses and gradients of methods beside TRL's own, and that what is published of it is so."""

import json
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest

from alignment_bench.benchmarks.definition.proof import EQUAL, PARITY, PUBLISHED
from alignment_bench.benchmarks.selfcheck.parity import RECORDED, Case, cases, difference, recorded_difference
from alignment_bench.errors import InputError

CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_of_the_same_log_probs_are_those_of_trl(name):
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    assert difference(CASES[name]) < EQUAL


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_that_trl_had(name):
    """Without TRL: what was recorded of it; and each method's loss is told from the next one's."""
    recorded = json.loads((PUBLISHED / RECORDED).read_text())
    assert recorded_difference(name, CASES[name], recorded) < EQUAL
    names = [*CASES]
    other = names[names.index(name) - 1]
    assert recorded_difference(other, CASES[name], recorded) > 100 * EQUAL


def test_a_trainer_that_trl_no_longer_has_is_one_sentence(monkeypatch):
    trl = pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    monkeypatch.setitem(sys.modules, "trl.experimental.orpo", None)
    monkeypatch.setattr(type(trl), "__getattr__", _missing, raising=False)
    for name, of in (("orpo", "experimental ORPOTrainer"), ("kto", "KTOTrainer")):
        if name == "kto":
            monkeypatch.delitem(vars(trl), "KTOTrainer", raising=False)
        with pytest.raises(InputError, match=f"the installed TRL has no {of} .*trl_losses.json"):
            difference(CASES[name])


def _missing(module, name):
    raise AttributeError(f"module 'trl' has no attribute {name!r}")


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
    ppo = rows.pop("ppo")  # of TRL's own trainer, as it was recorded: tests/methods/test_recorded.py
    assert (ppo["trl"], ppo["of"]) == ("1.12.0", "experimental PPOTrainer, recorded") and ppo["difference"] < EQUAL
    assert {name: row["of"] for name, row in rows.items()} == {name: case.of for name, case in CASES.items()}
    assert {row["trl"] for row in rows.values()} == {version("trl")}
    assert all(row["difference"] < EQUAL for row in rows.values())
