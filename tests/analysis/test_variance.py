"""Components of variance that were put in are found, on average over many made-up studies."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.variance import PROMPTS, SEED, sentences, split_variance

SDS = {"sft": 0.05, "reward_model": 0.1, SEED: 0.03}
PROMPT_SD, NOISE, COUNT, SEEDS, LEVELS = 0.3, 0.2, 100, 3, 3
METRIC = "win_rate.gold"


def study(rng, sds=None, levels=LEVELS):
    """World 0, all sources moved together, and each moved alone."""
    sds = {**SDS, **(sds or {})}
    sft, reward = (rng.normal(0, sds[name], levels) for name in ("sft", "reward_model"))
    prompts = rng.normal(0, PROMPT_SD, COUNT)
    worlds = (
        {(0, 0)} | {(k, k) for k in range(levels)} | {(k, 0) for k in range(levels)} | {(0, k) for k in range(levels)}
    )
    rows = []
    for i, j in sorted(worlds):
        for seed in range(SEEDS):
            run = rng.normal(0, sds[SEED])
            values = 0.6 + sft[i] + reward[j] + run + prompts + rng.normal(0, NOISE, COUNT)
            rows += [("dpo", seed, METRIC, f"p{p}", v, i, j) for p, v in enumerate(values)]
    return pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value", "sft", "reward_model"])


def test_the_components_that_were_put_in_are_found():
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        (row,) = split_variance(study(rng), ["sft", "reward_model"])
        found.append({part["source"]: part["sd"] ** 2 for part in row["parts"]})
    mean = {name: np.mean([f[name] for f in found]) for name in found[0]}
    # a variance from two degrees of freedom has a relative sd of 1, so its mean over 60 studies one of 13%
    assert mean["reward_model"] == pytest.approx(0.1**2, rel=0.4)
    assert mean["sft"] == pytest.approx(0.05**2, rel=0.5)
    # response sampling is part of the seed's: 0.2^2 / 100
    assert mean[SEED] == pytest.approx(0.03**2 + NOISE**2 / COUNT, rel=0.15)
    assert mean[PROMPTS] == pytest.approx(PROMPT_SD**2 / COUNT, rel=0.15)


def test_shares_and_what_one_more_saves():
    (row,) = split_variance(study(np.random.default_rng(1), {"reward_model": 0.3}), ["sft", "reward_model"])
    assert sum(part["share"] for part in row["parts"]) == pytest.approx(1)
    variance = {p["source"]: p["sd"] ** 2 for p in row["parts"]}
    total = variance["sft"] + variance["reward_model"] + variance[SEED] / 3 + variance[PROMPTS]
    assert row["sd"] ** 2 == pytest.approx(total)
    saved = {p["source"]: p["saved"] for p in row["parts"]}
    assert saved["reward_model"] == pytest.approx(variance["reward_model"] / 2 / total)  # V - V / 2
    assert saved[SEED] == pytest.approx((variance[SEED] / 3 - variance[SEED] / 4) / total)
    (said,) = sentences({"variance": [row]}, METRIC)
    assert row["shown"] is True and "a second pair of reward models would help most (" in said
    assert "runs of 3 seeds" in said
    (said,) = sentences({"variance": [{**row, "shown": False}]}, METRIC)
    assert "a second pair of reward models seems to help most, which is not shown (" in said
    assert sentences({"variance": [row]}, "win_rate.judge") == []


def test_of_two_sources_that_are_alike_none_is_shown_to_be_the_first():
    rng = np.random.default_rng(4)
    alike = [split_variance(study(rng, {"sft": 0.1}), ["sft", "reward_model"])[0]["shown"] for _ in range(10)]
    assert sum(alike) <= 3  # more than 3 of 10 at 5%: 1 in 1,000


def test_one_seed_has_nothing_to_divide():
    scores = study(np.random.default_rng(2))
    assert split_variance(scores[scores["seed"] == 0], ["sft", "reward_model"]) == []


def test_the_methods_own_seeds_do_not_count_for_a_source():
    rng, found = np.random.default_rng(3), []
    for _ in range(150):
        (row,) = split_variance(study(rng, {"sft": 0.1, SEED: 0.15}), ["sft", "reward_model"])
        found.append(next(part["sd"] ** 2 for part in row["parts"] if part["source"] == "sft"))
    # 0.01, and 0.0175 if a third of 0.15^2 stayed in it
    assert np.mean(found) == pytest.approx(0.01, rel=0.3)
