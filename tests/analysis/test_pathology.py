"""Signs of a training gone wrong: every rule on either side of its threshold, and where nothing was measured."""

import pytest

from alignment_bench.analysis.pathology import PATHOLOGIES, flags, signs


def summary(metrics=None, sft=None, changes=None, text=""):
    def cells(means):
        return {"metrics": {name: {"mean": value} for name, value in (means or {}).items()}}

    return {
        "methods": {"sft": cells(sft), "x": cells(metrics)},
        "changes": {
            m: {"x": {"difference": (low + high) / 2, "low": low, "high": high}}
            for m, (low, high) in (changes or {}).items()
        },
        "overoptimization": {"x": {"text": text}} if text else {},
    }


PROXY, GOLD = "reward.reward_model.training", "reward.gold"
CASES = [
    ("Displacement", {}, [[{"chosen_displacement": 0.5}, {"chosen_displacement": -1.5}], [{"loss": 1.0}]], "flag"),
    # the mean over seeds decides: (-1.5 - 0.3) / 2 = -0.9
    ("Displacement", {}, [[{"chosen_displacement": -1.5}], [{"chosen_displacement": -0.3}]], "clear"),
    ("Displacement", {}, [[{"loss": 1.0}]], "unknown"),
    ("Collapse", {"metrics": {"entropy": 0.9}, "sft": {"entropy": 2.0}}, [], "flag"),
    ("Collapse", {"metrics": {"entropy": 1.1}, "sft": {"entropy": 2.0}}, [], "clear"),
    ("Collapse", {"metrics": {"distinct.2.across": 0.1}, "sft": {"distinct.2.across": 0.3}}, [], "flag"),
    ("Collapse", {"metrics": {"repetition.3": 0.15}, "sft": {"repetition.3": 0.02}}, [], "flag"),
    ("Collapse", {}, [], "unknown"),
    ("Length drift", {"metrics": {"length": 13}, "sft": {"length": 10}, "changes": {"length": (1, 5)}}, [], "flag"),
    ("Length drift", {"metrics": {"length": 13}, "sft": {"length": 10}, "changes": {"length": (-1, 7)}}, [], "clear"),
    ("Length drift", {"metrics": {"length": 11}, "sft": {"length": 10}, "changes": {"length": (0, 1)}}, [], "clear"),
    ("Length drift", {"metrics": {"length": 7}, "sft": {"length": 10}}, [], "flag"),
    ("Length drift", {"metrics": {"length": 7}}, [], "unknown"),
    ("Reward hacking", {"changes": {PROXY: (0.5, 1.5), GOLD: (-0.2, 0.4)}}, [], "flag"),
    ("Reward hacking", {"changes": {PROXY: (0.5, 1.5), GOLD: (0.1, 0.4)}}, [], "clear"),
    ("Reward hacking", {"changes": {PROXY: (-0.5, 0.5), GOLD: (-0.2, 0.4)}}, [], "clear"),
    (
        "Reward hacking",
        {"changes": {PROXY: (0.5, 1.5), GOLD: (0.1, 0.4)}, "text": "x is over-optimized: it falls"}, [], "flag",
    ),
    ("Reward hacking", {"changes": {PROXY: (0.5, 1.5)}}, [], "unknown"),
    ("No end", {"metrics": {"eos_rate": 0.8}, "sft": {"eos_rate": 0.9}}, [], "flag"),
    ("No end", {"metrics": {"eos_rate": 0.88}, "sft": {"eos_rate": 0.9}}, [], "clear"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parts", "logs", "state"), CASES)
def test_each_rule(name, parts, logs, state):
    made = summary(**parts)
    assert signs(made, {"x": logs})["x"][name].state == state
    assert any(": x (" in said for said in flags(made, {"x": logs})) == (state == "flag")


def test_every_pathology_is_tried():
    assert {p.name for p in PATHOLOGIES} == {name for name, *_ in CASES}


def test_a_flag_is_a_plain_sentence():
    made = summary({"length": 13.8}, {"length": 10.0}, {"length": (3.0, 4.6)})
    assert flags(made, {}) == ["Length drifted: x (responses are 38% longer than SFT's)."]
