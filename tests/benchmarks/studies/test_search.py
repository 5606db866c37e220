"""Search spaces as methods declare them and benchmarks change them; settings that are tried."""

import math

import numpy as np
import pytest
from scipy.stats import qmc

from alignment_bench.benchmarks.definition.plugins import available, load
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.studies.search import Search, space_of
from alignment_bench.errors import InputError
from alignment_bench.results.records import Range

UNIT = "{low: 0.1, high: 1, scale: log}"
OURS = [n for n, e in available("methods").items() if e.value.startswith("alignment_bench.")]


@pytest.fixture(scope="module")
def quick():
    return load_spec("quick")


@pytest.mark.parametrize("method", OURS)
def test_every_method_of_ours_declares_a_space_of_its_own_fields(quick, method):
    space = space_of(quick, method)
    assert space.ranges and all(isinstance(limits, Range) for limits in load("methods", method).space.values())
    for settings in Search(space, "halton", 4, 0).ask(4):
        for field, value in settings.items():
            limits = space.ranges[field]
            assert limits.low * 0.99 <= value <= limits.high * 1.01
            assert isinstance(value, int) == isinstance(space.shared[field], int)


def test_a_factor_counts_from_the_benchmarks_own_value_and_typed_fields_are_left_alone(quick):
    """quick has dpo's lr at 1e-4 and beta at 0.5."""
    space = space_of(quick, "dpo")
    assert space.shared == {"lr": 1e-4, "beta": 0.5}
    assert (space.ranges["lr"].low, space.ranges["lr"].high) == pytest.approx((3e-5, 3e-4))
    assert (space.ranges["beta"].low, space.ranges["beta"].high) == (0.01, 5.0)
    typed = space_of(quick, "dpo:beta=0.3:label_smoothing=0.1")
    assert list(typed.ranges) == ["lr"] and typed.row.method.beta == 0.3
    assert typed.item({"lr": 0.000123}) == "dpo:beta=0.3:label_smoothing=0.1:lr=0.000123"


def changed(settings):
    return load_spec("quick", settings=[f"{field}={value}" for field, value in settings.items()])


def test_a_benchmark_changes_a_range_and_adds_one():
    spec = changed({
        "space.dpo.beta": "{low: 0.2, high: 2, scale: linear}",
        "space.dpo.warmup": "{low: 0.1, high: 0.2, scale: log}",
    })  # fmt: skip
    assert space_of(spec, "dpo").ranges["beta"] == Range(0.2, 2, "linear")
    assert list(space_of(spec, "dpo").ranges) == ["lr", "beta", "warmup"]
    assert "warmup" not in space_of(spec, "cdpo").ranges


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"space.dpo.beta": "{low: 0.1, high: 1}"}, "space.dpo.beta.scale: field required"),
        ({"space.dpo.beta": "{low: 1, high: 0.1, scale: log}"}, "low 1 must be below high 0.1"),
        ({"space.dpo.beta": "{low: 0, high: 0.1, scale: log}"}, "low 0 must be above 0 on a scale of logarithms"),
        ({"space.dpo.beta": "{low: 0.1, high: 1, scale: log, step: 2}"}, "step"),
    ],
)
def test_a_range_that_is_none_is_told_with_its_place(settings, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")) as told:
        changed(settings)
    assert f"--set {next(iter(settings))}=" in str(told.value)


@pytest.mark.parametrize(
    ("settings", "item", "said"),
    [
        ({"space.dpo.betta": UNIT}, "dpo", "dpo has no field 'betta'; did you mean 'beta'"),
        ({"space.ipo.length": UNIT}, "ipo", "length is 'mean', and only numbers can be tuned"),
        ({"space.dpo.label_smoothing": UNIT.replace("}", ", factor: true}")}, "dpo", "is 0.0, and only numbers"),
        ({}, "sft_chosen:lr=0.001", "sft_chosen:lr=0.001 has no search space, so it cannot be tuned; leave it out, or"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_told(settings, item, said):
    with pytest.raises(InputError) as told:
        space_of(changed(settings), item)
    assert said in str(told.value)


def test_halton_is_the_scrambled_sequence_whatever_it_is_told(quick):
    """scipy's own sequence of the same seed, spread over the logarithms of the ranges."""
    space = space_of(quick, "dpo")
    points = qmc.Halton(2, scramble=True, seed=7).random(6)
    lows, highs = (np.log([getattr(space.ranges[f], end) for f in ("lr", "beta")]) for end in ("low", "high"))
    expected = np.exp(lows + points * (highs - lows))
    search = Search(space, "halton", 6, 7)
    first = [*search.ask(2)]
    search.tell(first[0], 0.9, -0.5)
    found = [*first, *search.ask(4)]
    assert np.allclose([[*settings.values()] for settings in found], expected, rtol=0.006)  # three digits
    assert all(float(f"{v:.3g}") == v for settings in found for v in settings.values())
    assert [*Search(space, "halton", 6, 8).ask(6)] != found


def test_settings_are_not_tried_twice_and_a_small_space_ends(quick):
    tried = [settings["n"] for settings in Search(space_of(quick, "best_of_n"), "halton", 12, 0).ask(12)]
    assert len(set(tried)) == len(tried) == 12 and all(2 <= n <= 16 for n in tried)
    spec = changed({"space.best_of_n.n": "{low: 2, high: 3, scale: linear}"})
    assert sorted(s["n"] for s in Search(space_of(spec, "best_of_n"), "halton", 5, 0).ask(5)) == [2, 3]


def test_tpe_goes_by_what_it_is_told_and_by_the_limit(quick):
    """The score rises with beta; a beta above 0.5 is beyond the limit, where there is one. One trial fails."""

    def late(limit):
        search, betas = Search(space_of(quick, "dpo"), "tpe", 30, 0), []
        for number in range(30):
            for settings in search.ask(1):
                betas.append(settings["beta"])
                score = None if number == 3 else math.log(settings["beta"])
                search.tell(settings, score, settings["beta"] - limit)
        return np.median(betas[-10:])

    assert late(0.5) < 1 < 2 < late(9.0)
    assert late(0.5) == late(0.5)
