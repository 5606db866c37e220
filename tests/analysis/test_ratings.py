"""Ratings: by hand, on counts that a model fits exactly, and their cover on simulated runs."""

import numpy as np
import pytest

from alignment_bench.analysis.ratings import ELO, all_pairs, bradley_terry

NAN = float("nan")


def row(*counts):
    """Outcomes of one seed: so many wins, ties and losses."""
    return np.array([[v for v, count in zip((1.0, 0.5, 0.0), counts, strict=True) for _ in range(count)]])


def test_two_players_are_the_log_odds_of_the_win_rate():
    # 60 wins, 20 ties, 20 losses: 70%, 400 log10(70 / 30) = 147.19. The standard error of the log-odds is
    # sd / (sqrt(n) p (1 - p)) with sd^2 = (60 + 20 / 4) / 100 - 0.49 = 0.16, times 100 / 99: 0.40202 / 10 / 0.21;
    # times t[99] = 1.98422 and 173.718: 65.99.
    found = bradley_terry({("dpo", "sft"): row(60, 20, 20)}, "sft")
    assert found["sft"].mean == found["sft"].low == found["sft"].high == 0
    assert found["dpo"].mean == pytest.approx(147.19, abs=0.01)
    assert found["dpo"].high - found["dpo"].mean == pytest.approx(65.99, abs=0.02)


def test_three_players_whose_counts_fit_exactly():
    # Strengths 1, 2, 4: P = 2/3, 4/5, 2/3 in 30 games each. Ratings 400 log10 2 = 120.41 and 240.82.
    outcomes = {("b", "a"): row(20, 0, 10), ("c", "a"): row(24, 0, 6), ("c", "b"): row(20, 0, 10)}
    found = bradley_terry(outcomes, "a")
    assert found["b"].mean == pytest.approx(120.412, abs=0.01)
    assert found["c"].mean == pytest.approx(240.824, abs=0.01)
    assert found["c"].low > 0


def test_every_pair_from_rewards():
    found = all_pairs({"sft": np.array([[0.0, 1.0, NAN]]), "a": np.array([[1.0, 1.0, 1.0]]), "b": np.zeros((1, 3))})
    assert list(found) == [("sft", "a"), ("sft", "b"), ("a", "b")]
    assert found["sft", "a"][0, :2].tolist() == [0.0, 0.5] and np.isnan(found["sft", "a"][0, 2])
    assert found["a", "b"].tolist() == [[1.0, 1.0, 1.0]]


def test_a_method_that_never_lost_has_no_rating():
    found = bradley_terry({("a", "sft"): row(10, 0, 0), ("b", "sft"): row(5, 0, 5)}, "sft")
    assert np.isnan([found["a"].mean, found["a"].low, found["b"].high]).all()
    assert found["sft"].mean == 0


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.4), (5, 0.4)])
def test_coverage_on_rewards_of_four_methods(seeds, seed_sd):
    """Gaussian rewards, compared in all pairs; the truth is the fit to a very large run of the same kind."""
    rng = np.random.default_rng(5)
    shifts = {"sft": 0.0, "a": 0.3, "b": 0.6, "c": 0.6}

    def run(seeds, prompts):
        prompt = rng.normal(0, 1, (1, prompts))
        return {
            m: shift
            + prompt
            + (rng.normal(0, seed_sd, (seeds, 1)) if m != "sft" else 0)
            + rng.normal(0, 1, (seeds, prompts))
            for m, shift in shifts.items()
        }

    truth = bradley_terry(all_pairs(run(4000, 100)), "sft")
    hits = []
    for _ in range(250):
        found = bradley_terry(all_pairs(run(seeds, 200)), "sft")
        hits += [found[m].low <= truth[m].mean <= found[m].high for m in ("a", "b", "c")]
    assert truth["b"].mean == pytest.approx(ELO * 0.6 * 1.15, rel=0.2)  # a logistic of about the Gaussian's width
    assert 0.92 <= np.mean(hits) <= 0.985
