"""Expected results after k trials, worked out by hand and by going over all draws."""

from itertools import product

import pytest

from alignment_bench.analysis.tuning_curve import expected_after


def test_two_trials_by_hand():
    """One draw: the mean. Two: both are the worse with probability 1/4, so 0.25 * 0.2 + 0.75 * 0.6."""
    assert expected_after([0.2, 0.6]) == pytest.approx([0.4, 0.5])
    assert expected_after([0.7]) == [0.7] and expected_after([]) == []


def test_it_is_the_mean_over_all_draws_of_the_preferred_trials_value():
    """The values need not rise: they may be another scorer's than the rule goes by."""
    values = [0.5, 0.9, 0.3, 0.6]
    for k, found in enumerate(expected_after(values), 1):
        draws = [values[max(drawn)] for drawn in product(range(4), repeat=k)]
        assert found == pytest.approx(sum(draws) / len(draws))


def test_a_scorer_that_the_rule_works_against_falls():
    assert expected_after([0.7, 0.6, 0.5]) == sorted(expected_after([0.7, 0.6, 0.5]), reverse=True)
