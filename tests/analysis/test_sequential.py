"""Betting: values by hand, false decisions under peeking, and the cover of the confidence sequence."""

import numpy as np
import pytest
from scipy import stats

from alignment_bench.analysis.sequential import asking_order, confidence_sequence, is_decided, p_value


def test_the_first_bets_by_hand():
    """Before the first value the gambler expects one half and bets nothing; after a win it expects 0.75.

    Then the variance is (0.25 + 0.25^2) / 2 = 0.15625, the gap 0.25 and the bet 0.25 / (0.15625 + 0.0625) = 1.142857,
    cut to 0.5 / 0.5 = 1. A second win multiplies by 1 + 0.5, so p = 1 / 1.5; a loss by 0.5, and p stays 1.
    """
    assert p_value([]) == p_value([1.0]) == 1
    assert p_value([1.0, 1.0]) == pytest.approx(1 / 1.5)
    assert p_value([1.0, 0.0]) == 1
    assert p_value([0.0, 0.0]) == pytest.approx(1 / 1.5)


def test_all_wins_are_decided_and_all_ties_never():
    # The bet stays at its limit: 1.5^(n - 1) >= 20 at n - 1 = 8.
    assert not is_decided([1.0] * 8, 0.05) and is_decided([1.0] * 9, 0.05)
    assert not is_decided([0.5] * 10_000, 0.05)
    assert confidence_sequence([0.5] * 1000).low < 0.5 < confidence_sequence([0.5] * 1000).high


def test_looking_after_every_prompt_keeps_the_level():
    """Even judges, 2,000 prompts, a look after each: p <= 5% in at most 5%. A t-test at the same looks: far above."""
    rng = np.random.default_rng(1)
    runs = rng.choice([0.0, 0.5, 1.0], p=[0.35, 0.3, 0.35], size=(1000, 2000))
    false = np.mean([is_decided(run, 0.05) for run in runs])
    assert false <= 0.05 + 2 * (0.05 * 0.95 / 1000) ** 0.5
    looks = np.arange(20, 2001, 20)
    t = [[(run[:n].mean() - 0.5) / (run[:n].std(ddof=1) / n**0.5) for n in looks] for run in runs[:300]]
    assert np.mean((np.abs(t) > stats.t.ppf(0.975, looks - 1)).any(axis=1)) > 0.2


def test_a_clear_winner_is_decided_early():
    rng = np.random.default_rng(2)
    needed = []
    for _ in range(200):
        run = (rng.random(300) < 0.75).astype(float)
        needed.append(next((n for n in range(20, 301, 20) if is_decided(run[:n], 0.05)), None))
    assert np.mean([n is not None for n in needed]) > 0.95
    assert np.median([n for n in needed if n]) <= 80


@pytest.mark.parametrize("rate", [0.5, 0.7, 0.95])
def test_the_confidence_sequence_holds_the_mean_at_the_time_of_stopping(rate):
    rng, hits = np.random.default_rng(3), []
    for _ in range(300):
        run = (rng.random(300) < rate).astype(float)
        stop = next((n for n in range(20, 301, 20) if is_decided(run[:n], 0.05)), 300)
        found = confidence_sequence(run[:stop])
        hits.append(found.low <= rate <= found.high)
        assert (found.low >= 0.5 or found.high <= 0.5) == is_decided(run[:stop], 0.05)
    assert np.mean(hits) >= 0.95 - 2 * (0.05 * 0.95 / 300) ** 0.5


def test_no_values_and_wrong_values():
    assert np.isnan(confidence_sequence([]).low)
    with pytest.raises(ValueError, match="between 0 and 1"):
        p_value([2.0])


def test_the_order_is_fixed_and_distinct():
    names = [f"p{i}" for i in range(50)]
    assert asking_order(names) == asking_order(reversed(names + names)) != names
    assert sorted(asking_order(names)) == sorted(names)
