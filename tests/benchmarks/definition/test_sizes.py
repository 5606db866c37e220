"""Sizes of a benchmark: what each takes over, and what it is said to show."""

import math

import pytest

from alignment_bench.analysis.power import ASSUMED, LEVEL, detectable
from alignment_bench.benchmarks.definition.sizes import sentence, sizes
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.errors import InputError

GIVEN = {"model": "m", "preferences": "p.jsonl"}


def test_a_size_takes_the_place_of_the_files_own_fields():
    own, small, full = (load_spec("hh", GIVEN, size=size) for size in (None, "small", "full"))
    assert load_spec("hh", GIVEN, size="smoke").model_dump(exclude={"description"}) == own.model_dump(
        exclude={"description"}
    )
    assert (own.budget, small.budget, full.budget) == (64, 2048, 20_000)
    assert small.sft.lr == own.sft.lr and small.sft.examples == 1024  # what a size leaves out stays
    assert own.rows == 480 and full.rows is None and full.methods == own.methods
    assert load_spec("hh", GIVEN, ["budget=7"], "small").budget == 7  # --set goes over it


def test_each_size_says_steps_prompts_and_the_difference_that_it_can_show():
    """Steps by hand: 64 / 8, 2,048 / 16, 20,000 / 32. Three methods make three comparisons with SFT, three pairs."""
    smoke, small, full = sizes("hh")
    assert [(s.name, s.steps, s.prompts) for s in (smoke, small, full)] == [
        ("smoke", 8, 48), ("small", 128, 256), ("full", 625, 800),
    ]  # fmt: skip
    assert small.shown[5] == detectable(ASSUMED.grid(5, 256), LEVEL / 6)
    assert smoke.shown[1] > small.shown[1] > full.shown[1] > 0 and math.isinf(smoke.shown[3])
    assert sizes("quick") == []


def test_a_run_says_its_size_before_it_begins():
    said = sentence(load_spec("hh", GIVEN, size="full"), "full", 1, 3)
    points = f"{100 * sizes('hh')[2].shown[1]:.0f} points or more between these policies"
    assert said.startswith("hh, size full: 625 optimizer steps of a method that learns from pairs; with 800 prompts")
    assert points in said


def test_a_size_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="no such size; did you mean 'small'"):
        load_spec("hh", GIVEN, size="smal")
    with pytest.raises(InputError, match="benchmark quick has no sizes"):
        load_spec("quick", size="small")
    path = tmp_path / "mine.yaml"
    path.write_text("extends: hh\nname: mine\nsizes:\n  big:\n    budget: -3\n", encoding="utf-8")
    assert load_spec(str(path), GIVEN).budget == 64 and [s.name for s in sizes(str(path))] == [
        "smoke", "small", "full", "big",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"mine.yaml, line 5.*budget"):
        load_spec(str(path), GIVEN, size="big")
    path.write_text("extends: hh\nname: mine\nsizes: [small]\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine.yaml, line 3: sizes is a mapping"):
        load_spec(str(path), GIVEN)


def test_a_size_may_be_named_by_a_number(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: quick\nname: mine\nsizes:\n  3: {budget: 9}\n  small: {budget: 8}\n", encoding="utf-8")
    assert load_spec(str(path), size="3").budget == 9
    with pytest.raises(InputError, match="has no such size; .*3, small"):
        load_spec(str(path), size="big")
