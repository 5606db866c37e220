"""Detectable differences: against statsmodels, bounded, pooled over rows, and planned before a run."""

import math

import numpy as np
import pandas
import pytest
from statsmodels.stats.power import TTestPower

from alignment_bench.analysis.power import (
    ASSUMED,
    Spread,
    add_detectable,
    detectable,
    from_run,
    needed_prompts,
    plan_sentences,
    plan_warnings,
    spreads,
)
from alignment_bench.analysis.statistics import analyse, compare
from alignment_bench.analysis.summary import summarize
from alignment_bench.errors import InputError

GOLD = "win_rate.gold"


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.02), (5, 0.05)])
def test_a_difference_of_the_detectable_size_is_found_in_about_80_percent(seeds, seed_sd):
    rng = np.random.default_rng(6)

    def draw(shift):
        prompt = rng.normal(0, 0.5, (1, 250))
        return prompt + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, 0.5, (seeds, 250)) + shift

    size = np.mean([detectable(analyse(draw(0.0))) for _ in range(100)])
    power = np.mean([compare(draw(size), np.zeros((seeds, 250))).p < 0.05 for _ in range(400)])
    assert 0.7 <= power <= 0.92


def test_detectable_size_by_hand():
    # One seed, n = 100: the power of the one-sample t-test at this size is 80% by statsmodels.
    values = np.tile([1.0, -1.0], 50)[None]
    size = detectable(analyse(values))
    sd = values.std(ddof=1) * (1 + 1 / (4 * 99))  # the standard deviation without its bias
    assert TTestPower().power(size / sd, 100, 0.05) == pytest.approx(0.8, abs=1e-3)
    assert math.isnan(detectable(analyse(np.array([[1.0]]))))


def test_no_size_above_one_half_is_named():
    """A win rate is at most 50 points from even: of 6 prompts of coins even that is not found at 80%."""
    assert detectable(Spread(0.0, 0.25, 0.0).grid(1, 6)) == math.inf
    assert detectable(Spread(0.0, 0.25, 0.0).grid(1, 40)) < 0.5


def test_the_spread_of_a_design_gives_back_its_table():
    """The expected variances are those of simulated tables: seeds 0.3, prompts 0.5, rest 0.7 as standard deviations."""
    rng, spread = np.random.default_rng(0), Spread(0.09, 0.25, 0.49)
    made = [
        analyse(rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 0.5, (1, 60)) + rng.normal(0, 0.7, (3, 60)))
        for _ in range(4000)
    ]
    expected = spread.grid(3, 60)
    assert np.mean([g.seed_variance for g in made]) == pytest.approx(expected.seed_variance, rel=0.08)
    assert np.mean([g.prompt_variance for g in made]) == pytest.approx(expected.prompt_variance, rel=0.08)
    assert np.mean([g.rest for g in made]) == pytest.approx(0.49, rel=0.02)


def run(rows, seeds=3, prompts=200, seed_sd=0.03, seed=0):
    rng = np.random.default_rng(seed)
    grids, found = {}, []
    for i in range(rows):
        values = (rng.random((seeds, prompts)) < 0.5 + rng.normal(0, seed_sd, (seeds, 1))).astype(float)
        grids[f"m{i}", GOLD] = pandas.DataFrame(values)
        row = {"a": f"m{i}", "b": "sft", "metric": GOLD, "basis": "sft", "seeds": seeds, "p": 0.5, "weight": 1.0}
        found.append(row)
    return found, grids


def test_the_variation_between_runs_is_pooled_over_rows():
    """Alone, the three runs of a row say anything; pooled over eight rows the sizes agree, and their limits narrow."""

    def add(made):
        add_detectable(*made)
        return made[0]

    alone = [add(run(1, seed=seed))[0]["detectable"] for seed in range(30)]
    pooled = [row["detectable"] for row in add(run(8))]
    assert max(alone) / min(alone) > 2 > 1.2 > max(pooled) / min(pooled)
    one, eight = (add(run(rows, seeds=5, prompts=400, seed=3))[0] for rows in (1, 8))
    assert eight["detectable_low"] < eight["detectable"] < eight["detectable_high"]
    assert eight["detectable_high"] / eight["detectable_low"] < one["detectable_high"] / one["detectable_low"]
    # the weighted mean of the rows' own variances, 8 rows with 2 degrees of freedom each
    found, grids = run(8, seed=3)
    own = [spreads([row], grids)["sft"][0].seed for row in found]
    assert spreads(found, grids)["sft"][0].seed == pytest.approx(np.mean(own))
    assert spreads(found, grids)["sft"][1] == 16
    # unequal seeds: 1 and 4 degrees of freedom
    two, five = run(1, seeds=2, seed=11), run(1, seeds=5, seed=13)
    rows = [two[0][0], {**five[0][0], "a": "other"}]
    both = {**two[1], ("other", GOLD): five[1]["m0", GOLD]}
    first, second = (spreads([row], both)["sft"][0].seed for row in rows)
    pooled, freedom = spreads(rows, both)["sft"]
    assert (pooled.seed, freedom) == (pytest.approx((first + 4 * second) / 5), 5) and first != pytest.approx(second)


def test_needed_prompts_reach_the_difference_and_one_fewer_do_not():
    spread = Spread(0.0, 0.25, 0.0)
    count = needed_prompts(0.1, spread, 1)
    # (t quantiles 1.97 + 0.84)^2 * 0.25 / 0.01 = 198 by the usual formula
    assert count == pytest.approx(198, abs=4)
    assert detectable(spread.grid(1, count)) <= 0.1 < detectable(spread.grid(1, count - 1))
    # no number of prompts shows two points where three runs spread by ten
    assert needed_prompts(0.02, Spread(0.01, 0.1, 0.1), 3) is None


def test_a_plan_says_what_it_can_show():
    (one, need) = plan_sentences(23, 1, 2, 0.05)
    # 0.5 / sqrt(23) * (t[22] at 0.05 / 3: 2.6 + 0.86): about 35 points
    size = detectable(ASSUMED.grid(1, 23), 0.05 / 3)
    assert 0.3 < size < 0.42 and f"a difference of {100 * size:.0f} points or more between these policies" in one
    assert "of methods it can show nothing" in one
    assert need.startswith("5 points between methods need") and "spread by 4.7 points" in need
    assert "no difference between these policies, however large" in plan_sentences(4, 1, 2, 0.05)[0]
    assert "between methods (80% power)" in plan_sentences(300, 3, 2, 0.05)[0]


def test_designs_from_a_finished_run():
    """Two methods at 0.6 with three seeds: its own design and bigger ones; what is said is what is computed."""
    rng = np.random.default_rng(2)
    rows = [("a", seed, GOLD, f"p{i}", float(rng.random() < 0.6)) for seed in range(3) for i in range(100)]
    scores = pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"])
    summary = summarize(
        run_id="r", run_dir="d", benchmark="b", contract={}, scores=scores, costs={}, gates=[], warnings=[]
    )
    (part,) = from_run(scores, summary)["comparisons"]
    assert (part["what"], part["prompts"], part["seeds"]) == (
        "a method against SFT", [100, 200, 400, 1000], [1, 2, 3, 5, 8, 12]
    )  # fmt: skip
    sizes = np.array([[math.inf if size is None else size for size in row] for row in part["detectable"]])
    assert (np.diff(sizes[:, 2:], axis=1) < 0).all() and (np.diff(sizes[:, 2:], axis=0) <= 0).all()
    # one comparison, wins that vary by prompt alone, 1 seed and 100 prompts: (1.98 + 0.85) * 0.49 / 10
    assert sizes[0, 0] == pytest.approx(0.14, abs=0.01)
    assert "measured here" in part["text"] and "5 points need" in part["text"]
    one = scores[scores["seed"] == 0]
    lone = summarize(run_id="r", run_dir="d", benchmark="b", contract={}, scores=one, costs={}, gates=[], warnings=[])
    assert "assumed, for this run has one seed" in from_run(one, lone, 0.1)["comparisons"][0]["text"]
    with pytest.raises(InputError, match="tested no comparison"):
        from_run(scores, {"comparisons": [], "run_dir": "d", "margin": 0.05})


def test_a_plan_warns_of_what_can_show_nothing():
    enough = {"used": 100, "dropped": {"empty": 100}}
    assert plan_warnings(300, 3, 2, enough) == []
    (prompts, _) = plan_warnings(3, 1, 2, enough)
    assert prompts == "3 prompts and one seed can show nothing; raise evaluation.prompts or --seeds"
    (seeds,) = plan_warnings(300, 1, 1, enough)
    assert seeds.startswith("one seed says nothing of methods")
    (rows,) = plan_warnings(300, 3, 2, {"used": 100, "dropped": {"empty": 40, "too long": 61}})
    assert rows == "more rows are dropped (101) than used (100), most of them for: too long"
