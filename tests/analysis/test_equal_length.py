"""Win rates at equal length: a judge that likes length, whose win rate without that liking is known."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from alignment_bench.analysis.equal_length import at_equal_length, sentences


def logistic(x):
    return 1 / (1 + np.exp(-x))


def biased_judge(rng, *, theta, phi, longer, seeds=1, prompts=250, psi=0.0, seed_sd=0.0):
    """Wins by a judge with log-odds theta + phi tanh(length difference / its standard deviation) - psi difficulty.

    The policy's responses are `longer` tokens longer than SFT's, give or take 20.
    """
    lengths = rng.normal(longer, 20.0, (seeds, prompts))
    difficulty = rng.normal(0, 1, (1, prompts))
    odds = theta + rng.normal(0, seed_sd, (seeds, 1)) + phi * np.tanh(lengths / 20.0) - psi * difficulty
    wins = (rng.random((seeds, prompts)) < logistic(odds)).astype(float)
    others = np.mean([rng.random((seeds, prompts)) < logistic(-psi * difficulty) for _ in range(4)], axis=0)
    return wins, lengths, others


def test_the_length_free_win_rate_is_found_where_the_raw_one_misleads():
    """Equal answers (true rate 50%), 20 tokens longer, to a judge with phi = 2: the raw rate is far above 50%."""
    wins, lengths, _ = biased_judge(np.random.default_rng(0), theta=0.0, phi=2.0, longer=20.0, prompts=100_000)
    found = at_equal_length(wins, lengths)
    assert wins.mean() > 0.72
    assert found.win_rate.mean == pytest.approx(0.5, abs=0.01)
    assert found.length_effect.mean == pytest.approx(2.0, abs=0.06)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.3), (5, 0.3)])
def test_coverage_of_the_length_free_win_rate(seeds, seed_sd):
    rng = np.random.default_rng(1)
    truth = (
        quad(lambda x: norm.pdf(x, 0, max(seed_sd, 1e-9)) * logistic(0.5 + x), -3, 3, points=[0])[0]
        if seed_sd
        else logistic(0.5)
    )
    hits, raw = [], []
    for _ in range(300):
        wins, lengths, _ = biased_judge(rng, theta=0.5, phi=1.5, longer=10.0, seeds=seeds, seed_sd=seed_sd)
        found = at_equal_length(wins, lengths).win_rate
        hits.append(found.low <= truth <= found.high)
        raw.append(wins.mean())
    assert np.mean(raw) > truth + 0.04
    assert 0.92 <= np.mean(hits) <= 0.985


def test_without_a_length_bias_the_raw_win_rate_stays():
    wins, lengths, _ = biased_judge(np.random.default_rng(2), theta=0.8, phi=0.0, longer=30.0, prompts=20_000)
    found = at_equal_length(wins, lengths)
    assert found.win_rate.mean == pytest.approx(wins.mean(), abs=0.02)
    assert found.length_effect.low < 0 < found.length_effect.high


def test_difficulty_from_the_other_methods_keeps_the_estimate():
    """Mean over prompts of P at equal length: E logistic(0.5 - 1.5 z), z standard normal, by integration."""
    truth = quad(lambda z: norm.pdf(z) * logistic(0.5 - 1.5 * z), -8, 8)[0]
    wins, lengths, others = biased_judge(
        np.random.default_rng(3), theta=0.5, phi=1.5, longer=15.0, psi=1.5, prompts=60_000
    )
    assert at_equal_length(wins, lengths, others).win_rate.mean == pytest.approx(truth, abs=0.015)


@pytest.mark.parametrize(
    ("wins", "lengths"),
    [
        ([[1.0] * 30], [list(range(30))]),  # nothing lost
        ([[1.0, 0.0] * 15], [[3.0] * 30]),  # lengths never differ
        ([[1.0] * 15 + [0.0] * 15], [[9.0] * 15 + [-9.0] * 15]),  # every longer one wins
    ],
)
def test_nothing_to_fit_is_no_number(wins, lengths):
    found = at_equal_length(wins, lengths)
    assert np.isnan([found.win_rate.mean, found.win_rate.low, found.length_effect.mean]).all()


def test_responses_about_as_long_as_sfts_are_counted():
    """20 differ by 30 tokens and 5 not at all: s = 30 sqrt(20 / 25) = 26.8, a quarter 6.7; then 2 by 7 and -6."""
    lengths = np.array([[30.0, -30.0] * 10 + [0.0] * 5])
    wins = np.array([[1.0, 0.0, 0.0, 1.0] * 6 + [1.0]])
    assert at_equal_length(wins, lengths).near == 5
    lengths[0, :2] = 7.0, -6.0  # s = 25.6 now, a quarter 6.4
    assert at_equal_length(wins, lengths).near == 6


def test_few_of_them_are_told():
    rows = {"ppo": {"near": 19, "n": 300}, "dpo": {"near": 20, "n": 300}, "old": {"n": 300}}
    assert sentences({"equal_length": {"judge": rows, "gold": {"dpo": rows["dpo"]}}}) == [
        "Win rates at equal length by the judge are extrapolated where few responses are about as long as SFT's: "
        "ppo 19 of 300."
    ]
    assert sentences({}) == []
