"""Ratings, equal length and a judge asked until decided, as summary.json holds them."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.sequential import (
    UNTIL_DECIDED,
    asking_order,
    confidence_sequence,
    p_value,
    until_decided,
)
from alignment_bench.analysis.summary import summarize
from alignment_bench.analysis.verdict import could_show, verdict
from alignment_bench.analysis.win_rates import equal_length, ratings


def frame(values, prompts=None):
    values = np.atleast_2d(values).astype(float)
    return pandas.DataFrame(values, columns=prompts or [f"p{i}" for i in range(values.shape[1])])


def test_ratings_come_from_rewards_where_there_are_any_and_else_from_wins():
    """Rewards compare all pairs: b beats a on every third prompt more; the judge knows only SFT."""
    rng = np.random.default_rng(0)
    rewards = {"sft": rng.normal(0, 1, 300), "a": rng.normal(0.5, 1, 300), "b": rng.normal(0.5, 1, 300)}
    grids = {(m, "reward.gold"): frame(r) for m, r in rewards.items()}
    grids |= {(m, "win_rate.gold"): frame(rewards[m] > rewards["sft"]) for m in ("a", "b")}
    grids |= {(m, "win_rate.judge"): frame([1.0] * 200 + [0.0] * 100) for m in ("a", "b")}
    found = ratings(grids, ["sft", "a", "b"])
    assert list(found) == ["gold", "judge"]
    # 200 of 300 wins: 400 log10(2) = 120.41
    assert found["judge"]["a"]["mean"] == pytest.approx(120.41, abs=0.01)
    ahead = {m: (rewards[m] > rewards["sft"]).mean() for m in ("a", "b")}
    alone = {m: 400 * np.log10(share / (1 - share)) for m, share in ahead.items()}
    assert found["gold"]["a"]["mean"] != pytest.approx(alone["a"], abs=0.01)  # a against b counts as well
    assert found["gold"]["sft"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 300}
    assert ratings({k: v for k, v in grids.items() if k[0] != "b"}, ["sft", "a"]) == {}


def test_ratings_use_what_all_methods_share():
    grids = {
        ("sft", "reward.gold"): frame([0.0] * 4),
        ("a", "reward.gold"): frame([1.0, -1.0, 1.0], ["p0", "p1", "p9"]),
    }
    grids |= {("b", "reward.gold"): frame([1.0, -1.0, 0.5, 2.0])}
    grids |= {(m, "win_rate.gold"): frame([1.0, 0.0]) for m in ("a", "b")}
    assert ratings(grids, ["sft", "a", "b"])["gold"]["a"]["n"] == 2


def test_equal_length_needs_lengths_and_uses_sft_of_the_same_seed():
    rng = np.random.default_rng(1)
    longer = rng.normal(20, 20, (1, 400))
    wins = (rng.random((1, 400)) < 1 / (1 + np.exp(-2 * np.tanh(longer / 20)))).astype(float)
    grids = {
        ("a", "win_rate.judge"): frame(wins),
        ("a", "length"): frame(50 + longer),
        ("sft", "length"): frame([50.0] * 400),
    }
    found = equal_length(grids, ["sft", "a"])["judge"]["a"]
    assert wins.mean() > 0.65 and found["low"] < 0.5 < found["high"]
    assert found["length_effect"]["low"] > 0
    assert equal_length({k: v for k, v in grids.items() if k[0] != "sft"}, ["sft", "a"]) == {}


def test_until_decided_takes_the_values_in_the_order_of_asking():
    values = np.array([1.0] * 20 + [0.0] * 2 + [np.nan] * 8)
    grid = frame(values)
    found, p = until_decided(grid)
    order = grid.iloc[0].loc[asking_order(grid.columns)].dropna().to_numpy()
    expected = confidence_sequence(order)
    assert (found.mean, found.low, found.high, found.n) == (20 / 22, expected.low, expected.high, 22)
    assert p == p_value(order) < 0.05


def test_policies_that_disagree_decide_nothing():
    found, p = until_decided(frame([[1.0] * 30, [0.0] * 30]))
    assert p == 1 and found.low < 0.5 < found.high
    both, p = until_decided(frame([[1.0] * 30, [1.0] * 30]))
    assert p < 0.001 and both.low > 0.5


def test_a_summary_of_a_judge_that_stopped_early():
    """Compared with SFT only, by the sequential test; few prompts are no reason for a warning about the interval."""
    rows = [("a", 0, UNTIL_DECIDED, f"p{i}", 1.0) for i in range(20)]
    rows += [("b", 0, UNTIL_DECIDED, f"p{i}", float(i % 2)) for i in range(60)]
    found = summarize(
        run_id="r", run_dir="d", benchmark="quick", contract={}, costs={}, gates=[], warnings=[],
        scores=pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"]),
    )  # fmt: skip
    assert [(c["a"], c["b"], c["verdict"]) for c in found["comparisons"]] == [
        ("a", "sft", "a is better"), ("b", "sft", "not decided"),
    ]  # fmt: skip
    assert found["methods"]["a"]["metrics"][UNTIL_DECIDED]["n"] == 20
    assert found["ratings"] == found["equal_length"] == {}
    assert all("fewer than 30" not in w for w in found["warnings"])
    assert verdict(found)[0] == (
        "No method is recommended, for each was trained once: this a policy is shown to beat SFT by the judge, asked "
        "until decided."
    )


def test_words_for_what_the_run_could_have_shown_and_for_length():
    rng = np.random.default_rng(3)
    longer = rng.normal(15, 20, 250)
    wins = (rng.random(250) < 1 / (1 + np.exp(-2 * np.tanh(longer / 20)))).astype(float)
    rows = []
    for i in range(250):
        rows += [("a", 0, "win_rate.judge", f"p{i}", wins[i]), ("a", 0, "length", f"p{i}", 40 + longer[i])]
        rows += [("sft", 0, "length", f"p{i}", 40.0), ("b", 0, "win_rate.judge", f"p{i}", float(i % 2))]
    found = summarize(
        run_id="r", run_dir="d", benchmark="quick", contract={}, costs={}, gates=[], warnings=[],
        scores=pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"]),
    )  # fmt: skip
    said = verdict(found)
    assert any("at equal length: part of it is a preference for longer or shorter responses" in s for s in said)
    found["equal_length"]["judge"]["a"]["length_effect"]["low"] = -0.1  # length is not shown to matter
    assert not any("at equal length" in s for s in verdict(found))
    even = next(s for s in said if s.startswith("Not decided between this b policy and SFT"))
    row = next(c for c in found["comparisons"] if c["a"] == "b")
    size = f"{100 * row['detectable']:.0f} points"
    assert even.endswith(f"; the smallest difference that a run of this size shows with 80% power is {size}.")
    # about (t + t) * 0.5 / sqrt(250) at 5% / 2 comparisons, for the judge was not asked about the pair:
    # (2.25 + 0.84) * 0.0316
    assert row["detectable"] == pytest.approx(0.098, abs=0.003)
    assert any(s.startswith("a and b were not compared directly: a's win rate against SFT is 2") for s in said)
    assert row["p_permutation"] == 1.0 and row["bootstrap"]["low"] < 0 < row["bootstrap"]["high"]
    assert any(s.startswith("Elo points over SFT by the judge: a +") for s in said)


def test_what_the_seeds_leave_open_stands_beside_the_size_where_it_says_something_else():
    def said(least, low, high):
        return could_show([{"detectable": least, "detectable_low": low, "detectable_high": high}]).rpartition("is ")[2]

    assert said(0.12, 0.09, 0.16) == "12 points (9 to 16 points as far as the seeds tell)"
    assert said(0.12, 0.09, None) == "12 points (9 to more than 40 points as far as the seeds tell)"
    assert said(0.12, 0.118, 0.123) == "12 points" and said(None, None, None) == "more than 40 points"
