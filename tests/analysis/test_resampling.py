"""Permutation test and bootstrap: exact counts by hand, cover and error rates on simulated runs."""

import numpy as np
import pytest
from scipy import stats

from alignment_bench.analysis import resampling
from alignment_bench.analysis.resampling import bootstrap_interval, permutation_p
from alignment_bench.analysis.statistics import interval


def test_permutation_by_hand():
    # Totals 3, 2, 1: of the 8 sign patterns only +++ and --- reach 6 in size.
    assert permutation_p(np.array([[3.0, 2.0, 1.0]])) == pytest.approx(2 / 8)
    # Two seeds of the same prompts are swapped together: totals 4, 4, 4 give 2 of 8 as well.
    assert permutation_p(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])) == pytest.approx(2 / 8)
    assert np.isnan(permutation_p(np.array([[1.0], [2.0]])))


@pytest.mark.parametrize(("prompts", "draws"), [(14, 9_999), (60, 499), (60, 1_000), (60, 2_500)])
def test_random_swaps_are_those_of_scipy(prompts, draws):
    """The same draws, so the same p to the last digit: on Gaussian scores, and on win rates, whose sums often tie."""
    rng = np.random.default_rng(prompts + draws)
    for totals in (rng.normal(0.2, 1, prompts), rng.choice([-0.5, 0.0, 0.5], prompts, p=[0.3, 0.2, 0.5])):
        found = stats.permutation_test(
            (totals,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True,
            n_resamples=draws, batch=1_000, rng=np.random.default_rng(0),
        )  # fmt: skip
        assert permutation_p(totals[None], draws) == found.pvalue


@pytest.mark.parametrize("numbers", [59, 601, 10**7])
def test_draws_are_the_same_however_many_are_in_memory_at_once(numbers, monkeypatch):
    """One draw of 60 prompts at a time, ten at a time with a rest, or all."""
    rng = np.random.default_rng(9)
    values = rng.normal(0.15, 1, (1, 60)) + rng.normal(0, 0.3, (2, 60))
    wanted = permutation_p(values, 499), bootstrap_interval(values, draws=501)
    assert 0.02 < wanted[0] < 0.9 and wanted[1].low != interval(values).low  # there is something to tell apart
    for kept in (resampling._swaps, resampling._counts):
        kept.cache_clear()
    monkeypatch.setattr(resampling, "NUMBERS", numbers)
    found = bootstrap_interval(values, draws=501)
    assert permutation_p(values, 499) == wanted[0]
    assert (found.low, found.high) == pytest.approx((wanted[1].low, wanted[1].high), rel=1e-12)


def test_permutation_agrees_with_the_paired_t_test_on_gaussian_scores():
    values = np.random.default_rng(2).normal(0.12, 1, (1, 250))
    assert permutation_p(values) == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue, abs=0.01)


def test_permutation_keeps_its_level_over_prompts():
    rng = np.random.default_rng(3)
    shared = [rng.normal(0, 1, (1, 40)) + rng.normal(0, 0.5, (3, 40)) for _ in range(250)]
    assert 0.02 <= np.mean([permutation_p(d, 499) < 0.05 for d in shared]) <= 0.08


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.3)])
def test_coverage_of_the_bootstrap_on_skewed_scores(seeds, seed_sd):
    rng, hits = np.random.default_rng(4), []
    for _ in range(200):
        values = rng.exponential(1, (1, 200)) + rng.exponential(1, (seeds, 200)) + rng.normal(0, seed_sd, (seeds, 1))
        found = bootstrap_interval(values, draws=500)
        hits.append(found.low <= 2 <= found.high)
    assert 0.925 <= np.mean(hits) <= 0.985


def test_the_bootstrap_leans_to_the_long_tail_and_agrees_on_symmetric_scores():
    rng = np.random.default_rng(5)
    skewed = bootstrap_interval(rng.lognormal(0, 1.2, (1, 200)))
    assert skewed.high - skewed.mean > 1.1 * (skewed.mean - skewed.low)
    even = rng.normal(0, 1, (3, 300))
    ours, plain = bootstrap_interval(even), interval(even)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_too_few_prompts_are_not_resampled():
    few = bootstrap_interval(np.random.default_rng(0).normal(0, 1, (3, 19)))
    assert np.isnan([few.low, few.high]).all() and np.isfinite(few.mean)
    same = bootstrap_interval(np.full((3, 40), 0.5))  # nothing varies: the formula's interval, of no width
    assert (same.low, same.high) == (0.5, 0.5)
