"""What the pick of a checkpoint gained, from scores along training; and in which words."""

import pandas
import pytest

from alignment_bench.analysis.picked import picked_checkpoints, sentences


def pick(examples, last=16, points=3, by="selection_reward_model"):
    return {"by": by, "kl": 1.0, "examples": examples, "last": last, "points": [{}] * points}


def along(rewards, metric="reward.gold", method="dpo"):
    """rewards: by seed and examples, of the prompts p0, p1, ..."""
    rows = [
        (method, seed, examples, metric, f"p{place}", value)
        for (seed, examples), values in rewards.items()
        for place, value in enumerate(values)
    ]
    return pandas.DataFrame(rows, columns=["method", "seed", "examples", "metric", "prompt_id", "value"])


def test_the_gain_is_how_often_the_picked_one_has_the_higher_reward_of_the_same_seed_and_prompt():
    """Seed 0 picked 4 examples and has won, tied, lost, won; seed 1 kept its last, which ties with itself: 5 of 8, the
    missing value of the last prompt and that of the metric left out."""
    rewards = {
        (0, 4): [1.0, 2.0, 0.0, 5.0, None],
        (0, 16): [0.0, 2.0, 3.0, 4.0, 1.0],
        (1, 4): [9.0] * 5,
        (1, 16): [7.0, 7.0, 7.0, 7.0, None],
    }
    table = pandas.concat([along(rewards), along({(0, 4): [1.0]}, "kl"), along(rewards, method="ppo")])
    found = picked_checkpoints({"dpo": {0: pick(4), 1: pick(16)}, "ppo": {0: pick(16), 1: pick(16)}}, table)
    assert (found["by"], found["kl"]) == ("selection_reward_model", 1.0)
    gain = found["rows"]["dpo"]["gains"]["reward.gold"]
    assert gain["mean"] == pytest.approx((1 + 0.5 + 0 + 1 + 4 * 0.5) / 8) and gain["n"] == 8
    assert gain["low"] < gain["mean"] < gain["high"] and [*found["rows"]["dpo"]["gains"]] == ["reward.gold"]
    assert found["rows"]["ppo"] == {"examples": [16, 16], "last": 16, "had_choice": True, "gains": {}}


def test_the_sentences_name_rule_gain_and_rows_without_a_choice():
    cell = {"mean": 0.625, "low": 0.5, "high": 0.75}
    rows = {
        "dpo": {"examples": [400, 800, 400], "last": 1600, "had_choice": True, "gains": {"reward.gold": cell}},
        "ppo": {"examples": [1600], "last": 1600, "had_choice": True, "gains": {}},
        "best_of_n": {"examples": [0], "last": 0, "had_choice": False, "gains": {}},
    }
    assert sentences({"checkpoints": {"by": "selection_reward_model", "kl": 1.0, "rows": rows}}) == [
        "Of each training the checkpoint was evaluated that is the best on the tuning prompts by the selection reward "
        "model with KL at most 1 nat.",
        "dpo after 400, 800 of 1,600 examples wins against its last policy on held-out prompts: 62.5% (50.0 to 75.0) "
        "by the true reward; 50% is no gain.",
        "That is the last one of ppo.",
        "best_of_n saved no checkpoints to pick from, so the last policy was evaluated.",
    ]
    (by_kl, *_) = sentences({"checkpoints": {"by": "kl", "kl": 0.5, "rows": rows}})
    assert by_kl.endswith("that is the first whose KL to SFT reaches 0.5 nats on the tuning prompts.")
    assert sentences({}) == []
