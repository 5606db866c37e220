"""Fits to curves that are known, their cover, and the sentence about the turn."""

from math import exp, log, sqrt

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.overoptimization import GOLD, PROXY, fit, overoptimization, value

DISTANCES = np.linspace(0.4, 2.0, 6)


def curve(form, alpha, beta, d=DISTANCES):
    return d * (alpha - beta * (d if form == "best_of_n" else np.log(d)))


def noisy(rng, means, seeds=3, prompts=200, sd=0.8, seed_sd=0.0):
    """Rewards over SFT [checkpoints, seeds, prompts]: shared between checkpoints by prompt, as real ones are."""
    shared = rng.normal(0, sd, (1, 1, prompts)) * means[:, None, None]
    runs = 1 + rng.normal(0, seed_sd, (1, seeds, 1))  # a training run has its own alpha and beta
    return means[:, None, None] * runs + shared + rng.normal(0, sd, (len(means), seeds, prompts))


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_an_exact_curve_is_found(form):
    rewards = np.repeat(np.repeat(curve(form, 2.0, 1.0)[:, None, None], 2, 1), 5, 2)
    found = fit(form, np.repeat(DISTANCES[:, None], 2, 1), rewards)
    assert (found["alpha"]["mean"], found["beta"]["mean"]) == pytest.approx((2.0, 1.0))
    assert found["rmse"] == pytest.approx(0, abs=1e-9)
    # Peaks 2 / (2 * 1) = 1 and exp(2 - 1) = e; slopes at d = 2: 2 - 4 = -2 and 2 - log 2 - 1.
    assert found["peak"] == pytest.approx(1.0 if form == "best_of_n" else exp(1))
    assert found["slope_at_end"]["mean"] == pytest.approx(-2.0 if form == "best_of_n" else 1 - log(2))
    assert value(found, 0.5) == pytest.approx(curve(form, 2.0, 1.0, np.array([0.5]))[0])


def test_a_curve_without_a_maximum_has_no_peak():
    rewards = np.repeat(curve("rl", 1.0, -0.5)[:, None, None], 5, 2)
    assert np.isnan(fit("rl", DISTANCES[:, None], rewards)["peak"])


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.2), (5, 0.2)])
def test_coverage_of_the_coefficients_and_of_the_slope(seeds, seed_sd):
    rng, hits = np.random.default_rng(1), []
    means, d = curve("best_of_n", 2.0, 0.7), np.repeat(DISTANCES[:, None], seeds, 1)
    for _ in range(200):
        found = fit("best_of_n", d, noisy(rng, means, seeds, seed_sd=seed_sd))
        truth = {"alpha": 2.0, "beta": 0.7, "slope_at_end": 2.0 - 2 * 0.7 * 2.0}
        hits += [found[name]["low"] <= t <= found[name]["high"] for name, t in truth.items()]
    assert 0.92 <= np.mean(hits) <= 0.985


def rows(rewards, method="ppo", distances=DISTANCES):
    """A table of checkpoints as they lie on disk; rewards: metric -> [checkpoints, seeds, prompts] over SFT's."""
    rng, found = np.random.default_rng(0), []
    for metric, table in {**rewards, "kl": None}.items():
        checkpoints, seeds, prompts = next(iter(rewards.values())).shape
        for s in range(seeds):
            start = rng.normal(0, 1, prompts)
            for c in range(checkpoints + 1):
                if metric == "kl":
                    values = np.full(prompts, distances[c - 1] ** 2 if c else 0.0)
                else:
                    values = start + (table[c - 1, s] if c else 0.0)
                found += [(method, s, 100 * c, metric, f"p{i}", v) for i, v in enumerate(values)]
    return pandas.DataFrame(found, columns=["method", "seed", "examples", "metric", "prompt_id", "value"])


def test_the_turn_is_named_and_only_then():
    rng = np.random.default_rng(2)
    rising, turning = curve("rl", 2.0, 0.2), curve("best_of_n", 2.0, 1.0)

    def said(gold):
        found = overoptimization(rows({PROXY: noisy(rng, rising, prompts=80), GOLD: noisy(rng, gold, prompts=80)}))
        return found["ppo"]

    bad = said(turning)
    assert bad["fits"][GOLD]["form"] == "best_of_n" and bad["fits"][GOLD]["peak"] == pytest.approx(1.0, abs=0.2)
    assert bad["text"].startswith("ppo is over-optimized: the true reward falls from a KL of about ")
    assert bad["text"].endswith("while the training reward model still rises at a KL of 4 nats")
    assert "no turn up to a KL of 4 nats" in said(rising)["text"]
    flat = said(np.zeros(6))
    assert "is shown neither to rise nor to fall" in flat["text"]
    assert [p["examples"] for p in flat["points"]] == [100, 200, 300, 400, 500, 600]
    assert flat["points"][-1]["distance"] == pytest.approx(2.0)


def test_too_few_checkpoints_are_told():
    few = {PROXY: np.ones((2, 1, 10)), GOLD: np.ones((2, 1, 10))}
    found = overoptimization(rows(few, distances=np.array([1.0, sqrt(2)])))["ppo"]
    assert found["fits"] == {} and "2 checkpoints are too few to fit a curve" in found["text"]
