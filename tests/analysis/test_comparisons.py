"""Who is compared with whom, in one family, and what a margin adds; on tables small enough to work out by hand."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.comparisons import NOT_COMPARED, NOT_DECIDED, comparisons, weights
from alignment_bench.analysis.statistics import holm
from alignment_bench.analysis.verdict import headline

GOLD, JUDGE = "win_rate.gold", "win_rate.judge"


def frame(*seeds):
    return pandas.DataFrame(np.array(seeds, dtype=float), columns=[f"p{i}" for i in range(len(seeds[0]))])


def wins(won, of):
    return [1.0] * won + [0.0] * (of - won)


def pair_of(found, a, b, metric=GOLD):
    return next(row for row in found if (row["a"], row["b"], row["metric"]) == (a, b, metric))


def test_two_rows_at_the_ceiling_are_told_apart_by_their_own_comparison():
    """Both win all of 40 against SFT; a's reward is above b's on 30 of them."""
    grids = {
        ("sft", "reward.gold"): frame([0.0] * 40),
        ("a", "reward.gold"): frame([3.0] * 30 + [1.0] * 10),
        ("b", "reward.gold"): frame([2.0] * 40),
        ("a", GOLD): frame([1.0] * 40),
        ("b", GOLD): frame([1.0] * 40),
    }
    found = comparisons(grids, ["sft", "a", "b"])
    row = pair_of(found, "a", "b")
    assert (row["basis"], row["difference"], row["verdict"]) == ("direct", 0.25, "a is better")
    # Wilson at n = 39 with t[39] = 2.022691: g = 0.104905, centre (0.75 + g / 2) / (1 + g) = 0.72627, half-width
    # sqrt(0.1875 g + g^2 / 4) / (1 + g) = 0.13552
    assert (row["low"], row["high"]) == pytest.approx((0.09075, 0.36179), abs=2e-4)
    # ties between rewards count half
    grids["b", "reward.gold"] = frame([3.0] * 40)
    assert pair_of(comparisons(grids, ["sft", "a", "b"]), "a", "b")["difference"] == 0.5 * 30 / 40 - 0.5


@pytest.mark.parametrize("asked", ["a", "b"])
def test_a_judge_decides_a_pair_only_where_it_was_asked_about_it(asked):
    grids = {("a", JUDGE): frame(wins(36, 40)), ("b", JUDGE): frame(wins(20, 40))}
    row = pair_of(comparisons(grids, ["sft", "a", "b"]), "a", "b", JUDGE)
    # 36 and 20 of 40 against SFT are far apart, and yet nothing is claimed
    assert (row["basis"], row["difference"], row["verdict"]) == ("through_sft", pytest.approx(0.4), NOT_COMPARED)
    assert np.isnan(row["p_adjusted"])
    other = {"a": "b", "b": "a"}[asked]
    grids[asked, f"versus.judge:{other}"] = frame(wins(33, 40))
    row = pair_of(comparisons(grids, ["sft", "a", "b"]), "a", "b", JUDGE)
    assert (row["basis"], row["verdict"]) == ("direct", f"{asked} is better")
    assert abs(row["difference"]) == pytest.approx(33 / 40 - 0.5)


def test_the_headline_alone_is_tested():
    """The judge is as sure as the true reward; it makes no claims and costs none."""
    grids = {("a", GOLD): frame(wins(32, 40)), ("a", JUDGE): frame(wins(32, 40))}
    gold, judge = comparisons(grids, ["sft", "a"])
    assert (gold["metric"], gold["verdict"], gold["p_adjusted"]) == (GOLD, "a is better", gold["p"])
    assert (judge["verdict"], judge["equal"], judge["not_worse"]) == ("", False, []) and np.isnan(judge["p_adjusted"])
    # a first scorer that answered nothing leaves its place to the next
    grids["a", GOLD] = frame([np.nan] * 40)
    gold, judge = comparisons(grids, ["sft", "a"])
    assert judge["verdict"] == "a is better" and gold["verdict"] == ""


@pytest.mark.parametrize(("labelled", "leads"), [(29, False), (30, True)])
def test_people_lead_before_a_reward_model_once_they_labelled_enough(labelled, leads):
    grids = {("a", "win_rate.reward_model"): frame(wins(32, 40))}
    grids["a", "win_rate.people"] = frame(wins(labelled - 4, labelled) + [np.nan] * (40 - labelled))
    found = {row["metric"]: row["verdict"] for row in comparisons(grids, ["sft", "a"])}
    tested, beside = ("win_rate.people", "win_rate.reward_model")[:: 1 if leads else -1]
    assert (found[tested], found[beside]) == ("a is better", "")
    made = {"comparisons": comparisons(grids, ["sft", "a"])}
    assert headline(made) == [tested, beside]


def test_weighted_holm_by_hand():
    # p / w = 0.01, 0.02, 0.015: 0.01 * 4; then 0.015 * 3; then 0.02 * 1, which may not be below the one before
    assert holm([0.01, 0.02, 0.03], [1, 1, 2]) == pytest.approx([0.04, 0.045, 0.045])


def plain(a, b, basis="direct", p=0.5):
    return {"a": a, "b": b, "basis": "sft" if b == "sft" else basis, "p": p}


def test_a_sweep_shares_one_weight():
    owners = {"ppo": "ppo", "d1": "dpo", "d2": "dpo"}
    rows = [plain("ppo", "sft"), plain("d1", "sft"), plain("d2", "sft")]
    rows += [plain("ppo", "d1"), plain("ppo", "d2"), plain("d1", "d2")]
    assert weights(rows, owners) == [1.0, 0.5, 0.5, 0.5, 0.5, 0.0]
    # nothing but the sweep: then its settings are the question
    alone = [plain("d1", "sft"), plain("d2", "sft"), plain("d1", "d2")]
    assert weights(alone, owners) == [1.0, 1.0, 1.0]
    # an untested pair leaves its weight to the other of the same two methods
    rows[3] = plain("ppo", "d1", "through_sft")
    assert weights(rows, owners) == [1.0, 0.5, 0.5, 0.0, 1.0, 0.0]
    rows[1] = plain("d1", "sft", p=float("nan"))
    assert weights(rows, owners)[:3] == [1.0, 0.0, 1.0]


def test_more_settings_of_one_method_cost_another_nothing():
    """ppo wins 27 of 40 (p = 0.0349 by the score test); with dpo at one setting or at five the same p comes out."""

    def ppo(settings):
        names = [f"dpo:beta={i}" for i in range(settings)]
        grids = {("ppo", GOLD): frame(wins(29, 40)), **{(n, GOLD): frame([1.0, 0.0] * 20) for n in names}}
        found = comparisons(grids, ["sft", "ppo", *names], {**dict.fromkeys(names, "dpo"), "ppo": "ppo"})
        return pair_of(found, "ppo", "sft")

    one, five = ppo(1), ppo(5)
    # the pair is not compared directly by these scores, so the family is of two methods against SFT
    assert one["p_adjusted"] == pytest.approx(2 * one["p"]) == pytest.approx(five["p_adjusted"])
    assert one["verdict"] == five["verdict"] == "ppo is better"


def test_equality_needs_its_own_test():
    """Half of 400 won: (0.05)^2 * 399 / (0.45 * 0.55) = 4.030, t = 2.0076, two-sided p = 0.0453; of 300 only 0.083."""
    found = comparisons({("a", GOLD): frame([1.0, 0.0] * 200)}, ["sft", "a"])[0]
    assert (found["verdict"], found["equal"], found["not_worse"]) == ("equal within 5 points", True, ["a", "sft"])
    found = comparisons({("a", GOLD): frame([1.0, 0.0] * 150)}, ["sft", "a"])[0]
    assert (found["verdict"], found["equal"]) == (NOT_DECIDED, False)
    # a wider margin, stated before, is reached
    found = comparisons({("a", GOLD): frame([1.0, 0.0] * 150)}, ["sft", "a"], margin=0.06)[0]
    assert found["verdict"] == "equal within 6 points"


def test_not_worse_is_half_of_equal():
    """163 of 300 won: not shown to be better (p = 0.13), but -5 points are far below."""
    found = comparisons({("a", GOLD): frame(wins(163, 300))}, ["sft", "a"])[0]
    assert (found["verdict"], found["not_worse"]) == ("a is not worse by more than 5 points", ["a"])
    found = comparisons({("a", GOLD): frame(wins(137, 300))}, ["sft", "a"])[0]
    assert (found["verdict"], found["not_worse"]) == ("sft is not worse by more than 5 points", ["sft"])


def test_a_row_that_is_far_worse_is_not_called_not_worse():
    """8 of 40 won: far from the margin, on the wrong side of it."""
    found = comparisons({("a", GOLD): frame(wins(8, 40))}, ["sft", "a"])[0]
    assert (found["verdict"], found["not_worse"], found["equal"]) == ("sft is better", ["sft"], False)


def test_margins_are_corrected_over_the_family():
    """One row is equal to SFT at p = 0.0453; beside another like it, twice that is too much."""
    grids = {("a", GOLD): frame([1.0, 0.0] * 200), ("b", GOLD): frame([1.0, 0.0] * 200)}
    assert pair_of(comparisons(grids, ["sft", "a", "b"]), "a", "sft")["verdict"] == NOT_DECIDED


def test_pairs_use_only_common_seeds_and_prompts():
    grids = {
        ("a", "reward.gold"): frame([2.0] * 30 + [0.0] * 10, [0.0] * 40),
        ("b", "reward.gold"): frame([1.0] * 40),
        ("a", GOLD): frame(wins(32, 40), wins(0, 40)),
        ("b", GOLD): frame([1.0, 0.0] * 20),
    }
    row = pair_of(comparisons(grids, ["sft", "a", "b"]), "a", "b")
    assert (row["difference"], row["seeds"]) == (0.25, 1)
    assert pair_of(comparisons(grids, ["sft", "a", "b"]), "a", "sft")["seeds"] == 2
