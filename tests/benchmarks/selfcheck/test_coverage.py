"""The published coverage holds what is claimed, and the script that wrote it runs."""

import json

import numpy as np
import pytest

from alignment_bench.benchmarks.selfcheck import coverage

PUBLISHED = json.loads(coverage.PUBLISHED.read_text())
NOISE = 3 * (0.05 * 0.95 / 1000) ** 0.5  # three standard errors of 1,000 simulations


def test_published_intervals_cover_93_to_97_percent():
    assert PUBLISHED["simulations"] == 1000
    rows = PUBLISHED["intervals"]
    assert {(r["seeds"], r["prompts"]) for r in rows} == {(s, p) for s in (1, 3, 5) for p in (200, 300)}
    kept = [r[name] for r in rows for name in ("win_rate_even", "win_rate_high", "mean", "mean_bootstrap")]
    kept += [r["equal_length"] for r in PUBLISHED["equal_length"]]
    kept += [r["rating"] for r in PUBLISHED["ratings"]]
    assert len(kept) == 104
    assert min(kept) >= 0.93 and max(kept) <= 0.97 + NOISE / 3
    assert max(r["false_claim"] for r in rows if "false_claim" in r) <= 0.05 + NOISE
    assert max(r["false_claim_at_0.01"] for r in rows if "false_claim_at_0.01" in r) <= 0.02


def test_published_limits_of_one_seed_and_of_peeking():
    """One seed covers its own policy, not the method, as soon as seeds differ; a t-test under peeking does not hold."""
    some = [r for r in PUBLISHED["intervals"] if r["seeds"] == 1 and r["seed_sd"] >= 0.2]
    assert len(some) == 4 and all(r["win_rate_even_of_the_method"] < 0.6 < r["win_rate_even"] for r in some)
    assert PUBLISHED["peeking"]["betting"] <= 0.05 < 0.2 < PUBLISHED["peeking"]["t_test"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_row_can_be_simulated_again(seeds):
    found = coverage.simulate(seeds, 200, 0.2, simulations=40)
    assert all(0.85 <= found[name] <= 1 for name in ("win_rate_even", "win_rate_high", "mean", "mean_bootstrap"))
    assert ("win_rate_even_of_the_method" in found) == (seeds == 1)


def test_the_true_win_rate_is_that_of_many_prompts():
    rng = np.random.default_rng(0)
    latent = coverage.scores(rng, coverage.effects(rng, 2000, 0.6), 2000, 0.7)
    assert coverage.wins(latent).mean() == pytest.approx(coverage.win_rate(0.7, 0.6), abs=0.02)
