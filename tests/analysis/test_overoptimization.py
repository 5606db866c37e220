"""Fits to curves that are known, their cover, and the fall: shown, corrected, not claimed of curves that level off."""

from math import exp, sqrt

import numpy as np
import pandas
import pytest
from scipy.stats import t

from alignment_bench.analysis.overoptimization import (
    GOLD,
    PROXY,
    STAND_IN,
    _saturating,
    curve,
    fit,
    overoptimization,
    value,
)

DISTANCES = np.linspace(0.4, 2.0, 6)


def noisy(rng, means, seeds=3, prompts=200, sd=0.8, seed_sd=0.0):
    """Rewards over SFT [checkpoints, seeds, prompts]: shared between checkpoints by prompt, as real ones are."""
    shared = rng.normal(0, sd, (1, 1, prompts)) * means[:, None, None]
    runs = 1 + rng.normal(0, seed_sd, (1, seeds, 1))  # a training run has its own alpha and beta
    return means[:, None, None] * runs + shared + rng.normal(0, sd, (len(means), seeds, prompts))


@pytest.mark.parametrize(
    ("form", "peak", "at_half"),
    [
        # peaks 2 / (2 * 1) and exp(2 - 1); R(1/2) = 1/2 (2 - 1/2), 1/2 (2 + log 2), 2 (1 - exp(-1/2))
        ("best_of_n", 1.0, 0.75),
        ("rl", exp(1), 1.3465736),
        ("saturating", None, 0.7869387),
    ],
)
def test_an_exact_curve_is_found(form, peak, at_half):
    rewards = np.repeat(np.repeat(curve(form, 2.0, 1.0, DISTANCES)[:, None, None], 2, 1), 5, 2)
    found = fit(form, np.repeat(DISTANCES[:, None], 2, 1), rewards)
    assert (found["alpha"]["mean"], found["beta"]["mean"]) == pytest.approx((2.0, 1.0), rel=1e-3)
    assert found["rmse"] == pytest.approx(0, abs=1e-4) and found["end"] == 2.0
    assert np.isnan(found["peak"]) if peak is None else found["peak"] == pytest.approx(peak)
    assert value(found, 0.5) == pytest.approx(at_half, rel=1e-3)


def test_a_curve_without_a_maximum_has_no_peak():
    rewards = np.repeat(curve("rl", 1.0, -0.5, DISTANCES)[:, None, None], 5, 2)
    assert np.isnan(fit("rl", DISTANCES[:, None], rewards)["peak"])


@pytest.mark.parametrize("form", ["best_of_n", "saturating"])
@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.2), (5, 0.2)])
def test_coverage_of_the_coefficients(form, seeds, seed_sd):
    """A run's own scale moves alpha (and beta of a form that is linear in it) around the truth."""
    rng, hits = np.random.default_rng(1), []
    truth = {"alpha": 2.0, "beta": 0.7}
    means, d = curve(form, *truth.values(), DISTANCES), np.repeat(DISTANCES[:, None], seeds, 1)
    for _ in range(200):
        found = fit(form, d, noisy(rng, means, seeds, seed_sd=seed_sd))
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


def limits(values, tail):
    """Student's interval, by the book."""
    half = t.ppf(1 - tail, len(values) - 1) * np.std(values, ddof=1) / sqrt(len(values))
    return np.mean(values) - half, np.mean(values) + half


RISING, TURNING = curve("rl", 2.0, 0.2, DISTANCES), curve("best_of_n", 2.0, 1.0, DISTANCES)
LEVEL = curve("saturating", 1.0, 0.4, DISTANCES)


def said(gold, proxy=RISING, seeds=3, **more):
    rng = np.random.default_rng(2)
    tables = {PROXY: noisy(rng, proxy, seeds, 80), GOLD: noisy(rng, gold, seeds, 80)}
    return overoptimization(rows({**tables, **more}))["ppo"]


def test_a_fall_is_named_and_only_then():
    bad = said(TURNING)
    assert bad["fits"][GOLD]["form"] == "best_of_n" and bad["fits"][GOLD]["peak"] == pytest.approx(1.0, abs=0.2)
    # gold is 1 at d = 1 and 0 at d = 2, the end; its best checkpoints are those at d = 0.72, 1.04 and 1.36
    assert bad["fall"]["metric"] == GOLD and bad["fall"]["examples"] in (200, 300, 400) and bad["fall"]["proxy_rises"]
    assert 0.6 < bad["fall"]["drop"]["mean"] < 1.2 and bad["fall"]["drop"]["low"] > 0
    assert bad["text"].startswith("ppo is over-optimized in these 3 policies: the true reward falls by ")
    assert f"({bad['fall']['examples']} examples) to the end at a KL of 4 nats" in bad["text"]
    assert "while the training reward rises by" in bad["text"]
    for fine in (said(RISING), said(np.zeros(6)), said(LEVEL)):
        assert fine["fall"] is None and "no fall of the true reward is shown up to a KL of 4 nats" in fine["text"]
    assert said(LEVEL)["fits"][GOLD]["form"] == "saturating"
    assert [p["examples"] for p in fine["points"]] == [100, 200, 300, 400, 500, 600]
    assert fine["points"][-1]["distance"] == pytest.approx(2.0)


def test_a_fall_without_a_rise_of_the_proxy_is_another_sentence():
    both = said(TURNING, proxy=TURNING)
    assert both["fall"] and not both["fall"]["proxy_rises"] and both["fall"]["rise"]["low"] < 0
    assert (
        both["text"].startswith("ppo: in these 3 policies the true reward falls by ")
        and "is not shown to rise" in both["text"]
    )


def test_a_fall_over_which_the_proxy_rises_goes_before_a_larger_one():
    """From the first checkpoint both fall by 1; from the others gold falls by 0.5, and the proxy rises by 1."""
    gold, proxy = np.array([1.0, 0.5, 0.5, 0.5, 0.5, 0.0]), np.array([2.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    fell = said(gold, proxy=proxy)["fall"]
    assert fell["proxy_rises"] and fell["examples"] > 100 and fell["drop"]["mean"] == pytest.approx(0.5, abs=0.25)


def test_derivatives_of_the_form_that_levels_off():
    rewards = curve("saturating", 2.0, 0.7, DISTANCES)
    (alpha, beta), slopes = _saturating(DISTANCES, rewards)
    assert (alpha, beta) == (pytest.approx(2.0, rel=1e-3), pytest.approx(0.7, rel=1e-3))
    for place, (a, b) in enumerate(((1e-5, 0.0), (0.0, 1e-5))):
        step = curve("saturating", alpha + a, beta + b, DISTANCES) - curve("saturating", alpha - a, beta - b, DISTANCES)
        assert slopes[:, place] == pytest.approx(step / 2e-5, rel=1e-4)


def test_the_fall_is_that_of_the_mean_over_seeds():
    """Two runs, 80 prompts: the interval is over prompts, of each prompt's mean over both."""
    rng = np.random.default_rng(6)
    gold = noisy(rng, TURNING, 2, 80)
    fell = said(TURNING, seeds=2, **{GOLD: gold})["fall"]
    drop = (gold[fell["examples"] // 100 - 1] - gold[-1]).mean(0)
    assert fell["drop"]["mean"] == pytest.approx(drop.mean())
    assert fell["drop"]["high"] == pytest.approx(limits(drop, 0.025 / 6)[1])


def test_one_seed_speaks_of_the_policy():
    assert said(TURNING, seeds=1)["text"].startswith("ppo is over-optimized in this policy: ")


def test_a_facet_that_falls_is_found_beneath_a_reward_that_does_not():
    """Half of the prompts have the facet; there it falls, and the others make up for it."""
    rng = np.random.default_rng(3)
    facet = noisy(rng, np.array([0.5, 0.8, 0.8, 0.5, 0.2, -0.2]), 3, 80)
    facet[:, :, 40:] = np.nan
    found = said(LEVEL, **{f"{GOLD}.helpful": facet})
    assert found["fall"]["metric"] == f"{GOLD}.helpful"
    assert "the true reward (helpful) falls by" in found["text"]
    drop = (facet[found["fall"]["examples"] // 100 - 1] - facet[-1]).mean(0)[:40]
    assert found["fall"]["drop"]["high"] == pytest.approx(limits(drop, 0.025 / 12)[1])  # two metrics, six checkpoints
    assert set(found["fits"]) == {PROXY, GOLD}  # no curve of a facet


def test_a_fall_is_corrected_for_every_checkpoint_and_method():
    """One method: six earlier checkpoints, alpha 0.05 / 6; beside a second method 0.05 / 12."""
    rng = np.random.default_rng(4)
    tables = {PROXY: noisy(rng, RISING, 1, 80), GOLD: noisy(rng, TURNING, 1, 80)}
    alone, other = rows(tables), rows(tables, method="dpo")
    for frame, tests in ((alone, 6), (pandas.concat([alone, other]), 12)):
        fell = overoptimization(frame)["ppo"]["fall"]
        gold = frame[(frame["method"] == "ppo") & (frame["metric"] == GOLD)].pivot(
            index="examples", columns="prompt_id", values="value"
        )
        drop = (gold.loc[fell["examples"]] - gold.loc[600]).to_numpy()
        assert fell["drop"]["high"] == pytest.approx(limits(drop, 0.025 / tests)[1])
        unseen = -(gold.max().max() - gold.min().min())
        assert fell["drop"]["low"] == pytest.approx(limits([*drop, unseen], 0.025 / tests)[0])


def test_without_a_true_reward_the_evaluation_reward_model_stands_in():
    rng = np.random.default_rng(5)
    tables = {PROXY: noisy(rng, RISING, 3, 80), STAND_IN: noisy(rng, TURNING, 3, 80)}
    assert "the evaluation reward model falls by" in overoptimization(rows(tables))["ppo"]["text"]


@pytest.mark.parametrize(
    ("distances", "reason"),
    [
        ([1.0, sqrt(2)], "2 checkpoints are too few to fit a curve"),
        (np.linspace(1.25, 1.32, 6), "the checkpoints lie 1.25 to 1.32 from SFT"),
        (np.linspace(1.01, 2.0, 6), "the checkpoints lie 1.01 to 2.00 from SFT"),
        (np.linspace(1.0, 2.0, 6), None),
        (np.zeros(6), "did not move away from SFT"),
    ],
)
def test_no_curve_is_fitted_to_too_little(distances, reason):
    tables = {name: np.ones((len(distances), 1, 10)) for name in (PROXY, GOLD)}
    found = overoptimization(rows(tables, distances=np.array(distances)))["ppo"]
    if reason is None:
        assert found["refused"] is None and set(found["fits"]) == {PROXY, GOLD}
    else:
        assert found["fits"] == {} and reason in found["refused"] and reason in found["text"]
