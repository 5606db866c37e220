"""Detectable differences: against statsmodels, bounded, pooled over rows, and planned before a run."""

import math

import numpy as np
import pandas
import pytest
from statsmodels.stats.power import TTestPower

from alignment_bench.analysis.power import (
    ASSUMED,
    MOST,
    Spread,
    add_detectable,
    detectable,
    from_run,
    needed_prompts,
    plan_sentences,
    plan_warnings,
    pooled,
)
from alignment_bench.analysis.statistics import analyse, compare
from alignment_bench.analysis.summary import summarize
from alignment_bench.errors import InputError

GOLD = "win_rate.gold"


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.02), (5, 0.05)])
def test_a_difference_of_the_detectable_size_is_found_in_about_80_percent(seeds, seed_sd):
    rng = np.random.default_rng(6)

    def draw(shift):
        prompt = rng.normal(0, 0.35, (1, 250))
        return prompt + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, 0.35, (seeds, 250)) + shift

    size = np.mean([detectable(analyse(draw(0.0))) for _ in range(100)])
    power = np.mean([compare(draw(size), np.zeros((seeds, 250))).p < 0.05 for _ in range(400)])
    assert 0.7 <= power <= 0.92


def test_detectable_size_by_hand():
    """One seed, 100 even wins: the least d with (d - t s) / (s sqrt(1 - 4 d^2)) = z, where s = 0.5 / 10.

    t = 1.984 at 5% with 99 degrees of freedom; by statsmodels a t-test finds 0.283 standard deviations in 80%, so
    z = 2.829 - 1.984; the standard deviation without its bias.
    """
    size = detectable(analyse(np.tile([0.5, -0.5], 50)[None]))
    s = np.std([0.5, -0.5] * 50, ddof=1) * (1 + 1 / (4 * 99)) / 10
    assert TTestPower().power(0.2829, 100, 0.05) == pytest.approx(0.8, abs=1e-3)
    assert (size - 1.984 * s) / (s * math.sqrt(1 - 4 * size**2)) == pytest.approx(0.845, abs=2e-3)
    assert math.isnan(detectable(analyse(np.array([[1.0]]))))


def test_no_size_above_forty_points_is_named():
    """Of 14 prompts of coins, 0.136 * (2.16 + 0.90 * sqrt(1 - 4 d^2)) = d at 0.375; of 6 none is."""
    assert detectable(Spread(0.0, 0.25, 0.0).grid(1, 6)) == math.inf
    assert detectable(Spread(0.0, 0.25, 0.0).grid(1, 14)) == pytest.approx(0.375, abs=0.005)
    assert MOST == 0.4


def test_runs_that_agree_by_chance_vary_by_no_less_than_unrelated_values():
    """Five runs whose means are nearly the same: the size is that of 300 values, not that of runs which are one."""
    wins = np.tile([0.5, -0.5], (5, 30)) * np.array([[1], [-1], [1], [-1], [1]])
    wins[0, 0] = -0.5
    assert analyse(wins).seed_variance < analyse(wins).apart / 50
    # 0.0289, the error of 300 such values, without its bias at 4 degrees of freedom 0.0308: 2.0 and 0.88 times that
    assert detectable(analyse(wins)) == pytest.approx(2.88 * 0.0308, rel=0.02)


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
    together = [row["detectable"] for row in add(run(8))]
    assert max(alone) / min(alone) > 2 > 1.2 > max(together) / min(together)
    one, eight = (add(run(rows, seeds=5, prompts=400, seed=3))[0] for rows in (1, 8))
    assert eight["detectable_low"] < eight["detectable"] < eight["detectable_high"]
    assert eight["detectable_high"] / eight["detectable_low"] < one["detectable_high"] / one["detectable_low"]

    # the mean of the rows' own variances between runs, at a win rate of one half; 8 rows with 2 degrees of freedom each
    def between(made):
        means = made.to_numpy().mean(1)
        return np.var(means, ddof=1) / (1 - 4 * (means.mean() - 0.5) ** 2)

    found, grids = run(8, seed=3, seed_sd=0.1)
    assert pooled(found, grids)["sft"].between == pytest.approx(np.mean([between(one) for one in grids.values()]))
    assert pooled(found, grids)["sft"].freedom == 16
    # unequal seeds: 1 and 4 degrees of freedom
    two, five = run(1, seeds=2, seed=11, seed_sd=0.1), run(1, seeds=5, seed=13, seed_sd=0.1)
    rows = [two[0][0], {**five[0][0], "a": "other"}]
    both = {("m0", GOLD): two[1]["m0", GOLD], ("other", GOLD): five[1]["m0", GOLD]}
    first, second = (between(one) for one in both.values())
    of_all = pooled(rows, both)["sft"]
    assert (of_all.between, of_all.freedom) == (pytest.approx((first + 4 * second) / 5), 5)
    # runs alike by chance: the variance of their means is not taken for less than responses alone give it
    even = pandas.DataFrame(np.tile([[0.0, 1.0], [1.0, 0.0]], (2, 50)))
    row = {"a": "m0", "b": "sft", "metric": GOLD, "basis": "sft", "seeds": 4, "p": 0.5}
    assert pooled([row], {("m0", GOLD): even})["sft"].between == pytest.approx(0.25 / 100, rel=0.4)


def test_runs_are_not_counted_once_a_pair():
    """Three rows with five seeds: three pairs, whose differences have 2 * 4 degrees of freedom; one pair has 4."""
    rng = np.random.default_rng(0)
    grids = {(name, "reward.gold"): pandas.DataFrame(rng.normal(size=(5, 40))) for name in "abc"}
    pairs = [{"a": a, "b": b, "metric": GOLD, "basis": "direct", "seeds": 5, "p": 0.5} for a, b in ("ab", "ac", "bc")]
    assert pooled(pairs, grids)["direct"].freedom == 8
    assert pooled(pairs[:1], grids)["direct"].freedom == 4


def test_a_win_rate_far_from_even_tells_the_variation_near_it():
    """Runs that win 90% vary by 0.09 a response where even ones vary by 0.25: the size is that of even ones."""
    rng = np.random.default_rng(5)
    values = (rng.random((1, 20_000)) < 0.9).astype(float)
    row = {"a": "m0", "b": "sft", "metric": GOLD, "basis": "sft", "seeds": 1, "p": 0.5, "weight": 1.0}
    add_detectable([row], {("m0", GOLD): pandas.DataFrame(values)})
    assert row["detectable"] == pytest.approx((1.96 + 0.84) * 0.5 / math.sqrt(20_000), rel=0.02)


def test_the_limits_of_a_size_are_those_of_its_variance():
    """Five seeds of ten rows: 40 degrees of freedom of the runs' part A, 199 of the prompts' part B.

    By tables chi-squared lies below 63.69 and above 22.16 in 99% with 40 degrees, 248.3 and 155.6 with 199: A may be
    0.628 or 1.805 times, B 0.801 or 1.279 times as large, their excesses add as squares, and a size goes as the root.
    """
    rows, grids = run(10, seeds=5, prompts=200, seed=7)
    add_detectable(rows, grids)
    row, own = rows[0], analyse(grids["m0", GOLD].to_numpy() - 0.5)
    a, b = pooled(rows, grids)["sft"].between / 5, own.prompt_variance
    low, high = (math.hypot(a * x, b * y) / (a + b) for x, y in ((0.372, 0.199), (0.805, 0.279)))
    assert row["detectable_low"] / row["detectable"] == pytest.approx(math.sqrt(1 - low), rel=0.1)
    assert row["detectable_high"] / row["detectable"] == pytest.approx(math.sqrt(1 + high), rel=0.1)


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
    assert "no difference of less than 40 points between these policies" in plan_sentences(4, 1, 2, 0.05)[0]
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
