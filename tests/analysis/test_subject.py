"""The line that names what a run compared, from summary.json alone."""

import pytest

from alignment_bench.analysis.subject import prompts, rows_used, short, subject


def cell(n, **more):
    return {"mean": 0.5, "low": 0.4, "high": 0.6, "n": n, **more}


def summary(**changed):
    rows = {
        "sft": {"seeds": 2, "metrics": {"length": cell(46)}, "cost": {}},
        "dpo": {"seeds": 2, "metrics": {"win_rate.judge": cell(23, coverage=0.5)}, "cost": {"optimizer_steps": 8.0}},
    }
    data = {"source": "data/alpaca_eval.jsonl.gz", "read": 9061, "used": 480}
    contract = {"model": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    return {"benchmark": "hh", "contract": contract, "data": data, "methods": rows} | changed


def test_model_data_steps_and_prompts():
    made = summary()
    assert subject(made) == "SmolLM2-135M-Instruct on alpaca_eval: 8 optimizer steps, 23 prompts"
    assert rows_used(made) == "480 of 9,061 rows"
    made["methods"]["ppo"] = {"seeds": 1, "metrics": {}, "cost": {"optimizer_steps": 1600.0}}
    made["methods"]["best_of_n"] = {"seeds": 1, "metrics": {}, "cost": {}}  # trains nothing
    made["contract"]["questions"] = {"used": 23}
    assert subject(made) == "SmolLM2-135M-Instruct on alpaca_eval: 8 to 1,600 optimizer steps, 23 questions"


def test_prompts_without_a_value_count():
    judged = {"seeds": 2, "metrics": {"win_rate.judge": cell(23, coverage=0.5)}, "cost": {}}
    assert prompts({"methods": {"dpo": judged}}) == 23


def test_held_out_pairs_and_policies_from_elsewhere_are_no_prompts_of_a_seed():
    rows = {
        "dpo": {"seeds": 2, "metrics": {"kl": cell(46), "implicit_reward.accuracy": cell(900)}},
        "theirs": {"seeds": 1, "trained_here": False, "metrics": {"length": cell(46)}},
    }
    assert prompts({"methods": rows}) == 23


def test_what_is_not_known_is_left_out():
    assert subject(summary(contract="ab" * 32, data={}, methods={})) == "Benchmark hh"
    assert subject(summary(data={}, methods={})) == "SmolLM2-135M-Instruct on benchmark hh"
    assert subject({}) == "Benchmark without a name"
    assert rows_used({"data": {"used": 480}}) == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("builtin/world", "builtin/world"), ("Anthropic/hh-rlhf", "hh-rlhf"), ("/models/llama-3.1-8b/", "llama-3.1-8b"),
        ("/data/helpful/train.jsonl", "helpful/train"), ("train.jsonl", "train"), ("C:\\data\\mine.CSV", "mine"),
        ("~/.cache/hub/models--Qwen--Qwen2.5-0.5B/snapshots/7ae55", "Qwen2.5-0.5B"), ("v1.2", "v1.2"),
    ],
)  # fmt: skip
def test_names_within_paths(name, expected):
    assert short(name) == expected
