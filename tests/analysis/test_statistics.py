"""Intervals and comparisons: values by hand, other people's implementations, and coverage on simulated grids."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from alignment_bench.analysis.statistics import compare, holm, interval

NAN = float("nan")
SIMULATIONS = 1000


def test_one_seed_is_students_interval():
    # mean 3, variance 2.5, standard error sqrt(2.5 / 5) = 0.707107, t[4, 0.975] = 2.776445
    found = interval(np.array([[1, 2, 3, 4, 5]]))
    assert (found.mean, found.n) == (3, 5)
    assert (found.low, found.high) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-5)


def test_two_way_table_by_hand():
    # Rows are seeds. Mean 3.5; row means 2, 5; column means 2, 3, 5.5. MSA = 3 (1.5^2 + 1.5^2) / 1 = 13.5;
    # MSB = 2 (1.5^2 + 0.5^2 + 2^2) / 2 = 6.5; total 29.5, so MSE = (29.5 - 13.5 - 13) / 2 = 1.5.
    # Seed part 13.5 / 6 = 2.25, prompt part (6.5 - 1.5) / 6 = 0.8333; V = 3.0833, share = 0.72973.
    # q^4 = t[2]^4 + (t[1]^4 - t[2]^4) share^2 = 342.73 + (26065.0 - 342.73) 0.53251 = 14040.1, q = 10.8854
    found = interval(np.array([[1, 2, 3], [3, 4, 8]]))
    half = 10.8854 * 3.083333**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((3.5, 3.5 - half, 3.5 + half), abs=1e-3)


def test_gaps_use_the_least_squares_residual():
    values = np.random.default_rng(3).normal(size=(3, 12))
    values[0, 2] = values[1, 5] = values[1, 6] = values[2, 2] = NAN
    seed, prompt = np.nonzero(np.isfinite(values))
    y = values[seed, prompt]
    design = np.hstack([np.eye(3)[seed], np.eye(12)[prompt]])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    n = len(y)
    rest = (residual**2).sum() / (n - 3 - 12 + 1) / n
    by_seed = sum((y - y.mean())[seed == s].sum() ** 2 for s in range(3)) * 3 / 2 / n**2
    by_prompt = sum((y - y.mean())[prompt == p].sum() ** 2 for p in range(12)) * 12 / 11 / n**2
    variance, few, many = by_seed + by_prompt - rest, stats.t.ppf(0.975, 2), stats.t.ppf(0.975, 11)
    half = (many**4 + (few**4 - many**4) * (by_seed / variance) ** 2) ** 0.25 * variance**0.5
    assert by_prompt > rest
    found = interval(values)
    assert (found.mean, found.high - found.mean, found.n) == pytest.approx((y.mean(), half, 32), rel=1e-6)


def test_seed_or_prompt_without_values_is_as_if_it_were_not_there():
    values = np.random.default_rng(0).normal(size=(2, 6))
    padded = np.full((3, 8), NAN)
    padded[1:, 1:7] = values
    assert interval(padded) == interval(values)


@pytest.mark.parametrize("values", [np.full((2, 3), NAN), np.array([[1.0], [2.0]]), np.empty((0, 0))])
def test_too_few_prompts_give_no_limits(values):
    found = interval(values, bounds=(0, 1))
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(compare(values, values).p)


def test_only_wins_get_wilsons_interval():
    # Wilson at 60 of 60: n / (n + t^2) with t[59, 0.975] = 2.000995
    found = interval(np.ones((1, 60)), bounds=(0, 1))
    assert (found.low, found.high) == pytest.approx((60 / 64.003981, 1.0), abs=1e-6)
    lost = interval(np.zeros((1, 60)), bounds=(0, 1))
    assert (lost.low, lost.high) == pytest.approx((0.0, 4.003981 / 64.003981), abs=1e-6)


def test_only_ties_leave_room_for_a_few_wins():
    # g = t^2 * (1 / 64^2) / 0.25 = 0.00391014; half = 0.5 sqrt(g / (1 + g)) = 0.031205
    found = interval(np.full((1, 60), 0.5), bounds=(0, 1))
    assert (found.low, found.high) == pytest.approx((0.5 - 0.031205, 0.5 + 0.031205), abs=1e-5)


def test_wins_and_losses_are_wilsons_interval():
    values = np.array([[1.0] * 1700 + [0.0] * 300])
    found = interval(values, bounds=(0, 1))
    low, high = proportion_confint(1700, 2000, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_bounds_may_be_any_two_numbers():
    wins = np.random.default_rng(5).choice([0, 0.5, 1], size=(3, 40), p=[0.1, 0.2, 0.7])
    share, scaled = interval(wins, bounds=(0, 1)), interval(10 * wins - 4, bounds=(-4, 6))
    assert (scaled.low, scaled.high) == pytest.approx((10 * share.low - 4, 10 * share.high - 4))


def test_comparison_with_one_seed_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(1, 30))
    b = a + rng.normal(0.2, 0.5, size=(1, 30))
    found, reference = compare(a, b), stats.ttest_rel(a[0], b[0])
    assert found.p == pytest.approx(reference.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_comparison_pairs_and_skips_gaps():
    a, b = np.array([[1.0, 2.0, NAN, 9.0]]), np.array([[0.0, 0.0, 5.0, NAN]])
    assert compare(a, b).difference == 1.5
    with pytest.raises(ValueError, match="one shape"):
        compare(a, b[:, :2])


def test_equal_scores_do_not_differ_and_constant_differences_do():
    a = np.random.default_rng(0).normal(size=(3, 40))
    same = compare(a, a)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert compare(np.full((1, 9), 4.0), np.full((1, 9), 3.0)).p == 0


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_p_is_below_5_percent_exactly_when_the_interval_excludes_zero(seeds, bounds):
    rng, excluded = np.random.default_rng(seeds), 0
    for _ in range(150):
        shift = rng.uniform(0, 0.4) * (3 if seeds == 2 else 1)
        share = np.clip(0.5 + shift / 2, 0, 0.97)
        a = rng.choice([0, 0.5, 1], size=(seeds, 40), p=[(1 - share) / 2, (1 - share) / 2, share])
        b = rng.choice([0, 0.5, 1], size=(seeds, 40))
        one, other = compare(a, b, bounds=bounds), compare(b, a, bounds=bounds)
        outside = one.low > 0 or one.high < 0
        excluded += outside
        assert (one.p < 0.05) == outside
        assert (other.difference, other.low, other.high) == pytest.approx((-one.difference, -one.high, -one.low))
        assert other.p == pytest.approx(one.p)
    assert 0 < excluded < 150


def test_holm_by_hand():
    # In order: 0.01 * 3, then 0.03 * 2, then max(0.04 * 1, 0.06).
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def simulate(rng, seeds, prompts, seed_sd, mean=0.0):
    """Gaussian scores: as much variance between prompts as within them, as reward-model scores have."""
    effects = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, 0.7, (1, prompts))
    return mean + effects + rng.normal(0, 0.7, (seeds, prompts))


def wins(rng, seeds, prompts, seed_sd, mean, tie=0.2):
    latent = simulate(rng, seeds, prompts, seed_sd, mean)
    return np.where(latent > tie, 1.0, np.where(latent < -tie, 0.0, 0.5))


def true_win_rate(seed_sd, mean, tie=0.2):
    sd = (seed_sd**2 + 0.98) ** 0.5
    return (norm.sf((tie - mean) / sd) + norm.sf((-tie - mean) / sd)) / 2


# The true cover is 95.0 to 96.6% (see statistics.py); two standard errors of 1,000 simulations are 1.4 points.
LOWEST, HIGHEST = 0.93, 0.98
GRIDS = [(1, 50, 0.0), (1, 200, 0.0)] + [
    (seeds, prompts, sd) for seeds in (3, 5) for prompts in (50, 200) for sd in (0.0, 0.05, 0.2)
]


@pytest.mark.parametrize(("seeds", "prompts", "seed_sd"), GRIDS)
def test_coverage_of_a_mean(seeds, prompts, seed_sd):
    rng = np.random.default_rng(11)
    found = [interval(simulate(rng, seeds, prompts, seed_sd)) for _ in range(SIMULATIONS)]
    assert LOWEST <= np.mean([i.low <= 0 <= i.high for i in found]) <= HIGHEST


@pytest.mark.parametrize(("seeds", "prompts", "seed_sd"), GRIDS)
@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_coverage_of_a_win_rate(seeds, prompts, seed_sd, mean):
    rng, truth = np.random.default_rng(12), true_win_rate(seed_sd, mean)
    found = [interval(wins(rng, seeds, prompts, seed_sd, mean), bounds=(0, 1)) for _ in range(SIMULATIONS)]
    assert LOWEST <= np.mean([i.low <= truth <= i.high for i in found]) <= HIGHEST
    assert all(0 <= i.low < i.high <= 1 for i in found)


def test_the_simulation_catches_an_interval_that_ignores_seeds():
    # Scores averaged over seeds first: right for these runs, wrong for the next one. True cover is about 60%.
    rng = np.random.default_rng(13)
    found = [interval(simulate(rng, 3, 200, 0.2).mean(0, keepdims=True)) for _ in range(SIMULATIONS)]
    assert np.mean([i.low <= 0 <= i.high for i in found]) < 0.75


@pytest.mark.parametrize(("seeds", "prompts"), [(1, 50), (3, 50), (3, 200), (5, 200)])
def test_equal_methods_are_told_apart_in_at_most_7_percent(seeds, prompts):
    rng, seed_sd = np.random.default_rng(14), 0.0 if seeds == 1 else 0.15
    false = 0
    for _ in range(SIMULATIONS):
        a, b = (wins(rng, seeds, prompts, seed_sd, 0.5) for _ in "ab")
        false += compare(a, b, bounds=(-1, 1)).p < 0.05
    assert 0.01 <= false / SIMULATIONS <= 0.07


def test_a_difference_that_is_zero_but_for_rounding_has_p_of_one():
    values = np.full((1, 5), 1e-17)  # vanishes in the share of the way between the bounds
    assert compare(values, np.zeros((1, 5)), bounds=(-1.0, 1.0)).p == 1.0


def test_two_seeds_that_agree_by_chance_are_not_certain():
    """Both win 30 of 48, on prompts as different as can be: the seed part is 0, and the prompt part is as good as gone.

    As if all 96 were of prompts of their own: p (1 - p) / 95 with t[47] = 2.0117, Wilson's g = 0.0426.
    """
    first = [1.0] * 30 + [0.0] * 18
    found = interval(np.array([first, first[::-1]]), bounds=(0.0, 1.0))
    g = 2.0117**2 / 95
    half = np.sqrt(g * 0.625 * 0.375 + g * g / 4) / (1 + g)
    assert found.high - found.low == pytest.approx(2 * half, rel=1e-3)
    # the same prompts won: the seeds tell nothing new, and the interval is that of 48 prompts
    same = interval(np.array([first, first]), bounds=(0.0, 1.0))
    assert same.high - same.low > 1.3 * (found.high - found.low)
