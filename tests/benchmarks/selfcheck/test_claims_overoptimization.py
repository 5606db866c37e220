"""False claims about over-optimization in simulations: few, and a true fall is found."""

from alignment_bench.benchmarks.selfcheck.claims_overoptimization import CURVES, PROMPTS, SEEDS, rates, shown


def test_false_claims_are_rare_and_true_falls_are_found():
    """2.5% is promised; with 60 runs a rate of 2.5% gives 8 or more with a probability below 0.0001."""
    found = rates(60, seed=0)
    assert len(found) == (len(CURVES) + 1) * len(PROMPTS) * len(SEEDS) * 2
    assert {row["sentence"] for row in found} == {"the true reward falls", "over-optimized"}
    assert max(row["false"] for row in found) < 8 / 60
    of_all = [row["false"] for row in found if row["sentence"] == "the true reward falls"]
    assert 0 < sum(of_all) / len(of_all) < 0.025  # the simulation can see a false claim
    assert all(row["low"] <= row["false"] <= row["high"] for row in found)
    assert shown(40, 0, drop=0.3, prompts=300, seeds=3) > 0.9
