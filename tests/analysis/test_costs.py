"""Costs in sentences: a method's own, the shared stages that only some need, an answer's, and ours."""

import pytest

from alignment_bench.analysis.costs import cost_sentences, mean_costs, shared_costs, unequal_compute


def row(**parts):
    return {"cost": {}, "inference": {}, "looking": {}} | parts


@pytest.fixture
def summary():
    """PPO takes 60 s and 8 TFLOP, DPO 10 s and 1 TFLOP; the reward model 20 s and 2, the reference 2 s and 0.25."""
    return {
        "methods": {
            "sft": row(inference={"generated_tokens": 40.0, "reward_queries": 0.0}),
            "ppo": row(
                cost={"seconds": 60.0, "flops": 8e12, "examples": 600.0, "reward_queries": 600.0},
                inference={"generated_tokens": 50.0, "reward_queries": 0.0},
            ),
            "dpo": row(cost={"seconds": 10.0, "flops": 1e12, "examples": 600.0}, looking={"flops": 5e11}),
            "best_of_n": row(inference={"generated_tokens": 164.0, "reward_queries": 4.0}),
        },
        "shared": {
            "SFT": {"cost": {"seconds": 9.0, "flops": 9e12}, "needed_by": ["ppo", "dpo", "best_of_n"]},
            "training reward model": {"cost": {"seconds": 20.0, "flops": 2e12}, "needed_by": ["ppo", "best_of_n"]},
            "evaluation reward model": {"cost": {"seconds": 21.0, "flops": 2e12}, "needed_by": []},
            "reference log-probs": {"cost": {"seconds": 2.0, "flops": 2.5e11}, "needed_by": ["dpo"]},
        },
    }


def test_each_cost_stands_where_it_belongs(summary):
    """By hand: 60/10 = 6, 8/1 = 8; with the shared stages (60+20)/(10+2) = 6.67, (8+2)/(1+0.25) = 8; 164/40 = 4.1."""
    assert cost_sentences(summary, None) == [
        "ppo: 1 min 00 s, 8.00 TFLOP, 600 reward queries.",
        "dpo: 10 s, 1.00 TFLOP.",
        "Only ppo and best_of_n need the training reward model: 20 s, 2.00 TFLOP more, once for all seeds.",
        "Only dpo needs the reference log-probs: 2.0 s, 250 GFLOP more, once for all seeds.",
        "best_of_n trains nothing and pays at inference: each response takes 164 generated tokens, 4.1 times the "
        "tokens of SFT's, and 4 reward queries.",
        "On the same data ppo costs 6 to 8 times as much as dpo: 6.0 times the time, 8.0 times the FLOPs; with the "
        "training reward model and reference log-probs, 6.7 and 8.0.",
        "Spent on looking, and charged to no method: the evaluation reward model 21 s, 2.00 TFLOP; probes at most "
        "500 GFLOP a training.",
    ]


def test_what_all_need_sets_none_apart(summary):
    """With DPO and best-of-n left out nothing is shared by some only, and there is no pair to compare."""
    summary["methods"] = {name: summary["methods"][name] for name in ("sft", "ppo")}
    for stage in summary["shared"].values():
        stage["needed_by"] = [name for name in stage["needed_by"] if name == "ppo"]
    said = cost_sentences(summary, None)
    assert said[0].startswith("ppo: 1 min") and said[1].startswith("Spent on looking") and len(said) == 2


def test_budgets_that_differ_are_not_the_same_data(summary):
    summary["methods"]["dpo"]["cost"]["examples"] = 300.0
    (said,) = (s for s in cost_sentences(summary, None) if " times as much " in s)
    assert said.startswith("Here, on budgets that differ, ppo costs 6 to 8 times")


def test_a_run_of_an_older_version_has_its_own_costs_alone():
    made = {"methods": {"sft": {"cost": {}}, "a": {"cost": {"seconds": 4.0}}, "b": {"cost": {"seconds": 3.0}}}}
    assert cost_sentences(made, None) == ["a: 4.0 s.", "b: 3.0 s."]
    assert unequal_compute(made) == []


def test_costs_are_means_over_seeds_and_sorted_by_what_they_are_of():
    seeds = [
        {"seconds": 4.0, "optimizer_steps": 8, "looking_seconds": 1.0, "response_seconds": 0.5},
        {"seconds": 6.0, "optimizer_steps": 8, "looking_seconds": 2.0, "response_seconds": 0.7},
    ]
    found = mean_costs(seeds)
    assert found["cost"] == {"seconds": 5.0, "optimizer_steps": 8}
    assert found["looking"] == {"seconds": 1.5} and found["inference"] == {"seconds": pytest.approx(0.6)}
    nothing = mean_costs([{"seconds": 0.02, "optimizer_steps": 0, "trained_tokens": 0, "response_reward_queries": 4.0}])
    assert nothing == {"cost": {}, "inference": {"reward_queries": 4.0}, "looking": {}}
    assert mean_costs([]) == {"cost": {}, "inference": {}, "looking": {}}


def test_shared_stages_know_the_rows_that_need_them():
    record = {
        "methods": {"ppo": {"needs": ["SFT", "training reward model"]}, "orpo": {"needs": ["SFT"]}, "old": {}},
        "shared": {"SFT": {"seconds": 3.0}, "training reward model": {"seconds": 5.0}, "of another's": {}},
    }
    assert shared_costs(record) == {
        "SFT": {"cost": {"seconds": 3.0}, "needed_by": ["ppo", "orpo"]},
        "training reward model": {"cost": {"seconds": 5.0}, "needed_by": ["ppo"]},
    }
    assert shared_costs({"methods": {}}) == {}
