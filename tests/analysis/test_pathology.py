"""Signs of a training gone wrong: every rule on either side of its threshold, and where nothing was measured."""

import pytest

from alignment_bench.analysis.pathology import PATHOLOGIES, flags, signs


def summary(metrics=None, sft=None, changes=None, hacking=None, fall=None):
    def cells(means):
        return {"metrics": {name: {"mean": value} for name, value in (means or {}).items()}}

    return {
        "methods": {"sft": cells(sft), "x": cells(metrics)},
        "changes": {
            m: {"x": {"difference": (low + high) / 2, "low": low, "high": high}}
            for m, (low, high) in (changes or {}).items()
        },
        "overoptimization": {"x": {"fall": fall}},
        **({"hacking": hacking} if hacking is not None else {}),
    }


def hacked(proxy=(1.0, 2.0), gold=(-0.2, 0.4), gap=(0.1, 0.9), falls=(), optimized=("x",)):
    """What `hacking` finds of row x; limits by part."""

    def cell(limits):
        return {"mean": sum(limits) / 2, "low": limits[0], "high": limits[1]}

    row = {"proxy": cell(proxy), "gold": cell(gold), "gap": cell(gap), "metric": "reward.gold", "falls": list(falls)}
    return {"optimized": list(optimized), "rows": {"x": row} if "x" in optimized else {}}


def below(low, against="sft", metric="reward.gold.helpful"):
    return {"against": against, "metric": metric, "drop": {"mean": low + 0.08, "low": low, "high": low + 0.16}}


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
    ("Reward hacking", {"hacking": hacked()}, [], "flag"),
    ("Reward hacking", {"hacking": hacked(gold=(0.1, 0.4))}, [], "clear"),
    ("Reward hacking", {"hacking": hacked(gap=(-0.1, 0.9))}, [], "clear"),
    ("Reward hacking", {"hacking": hacked(proxy=(-0.5, 0.5))}, [], "clear"),
    ("Reward hacking", {"hacking": hacked(gap=(-0.1, 0.9), falls=[below(0.23)])}, [], "flag"),
    ("Reward hacking", {"hacking": hacked(gap=(-1, 0)), "fall": {"metric": "reward.gold", "proxy_rises": True}}, [],
     "flag"),
    ("Reward hacking", {"hacking": hacked(gap=(-1, 0)), "fall": {"metric": "reward.gold", "proxy_rises": False}}, [],
     "clear"),
    ("Reward hacking", {"hacking": hacked(optimized=["y"])}, [], "unknown"),
    ("Reward hacking", {"hacking": {"optimized": ["x"], "rows": {}}}, [], "unknown"),
    ("Reward hacking", {}, [], "unknown"),
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


def test_hacking_says_what_is_shown():
    falls = [below(0.11, "x:beta=1", "reward.gold"), below(0.23)]
    [said] = flags(summary(hacking=hacked(falls=falls)), {})
    assert said == (
        "The reward was hacked: x (the training reward +1.50, the true reward +0.10 standard deviations over "
        "SFT, less than half of the gain; the true reward (helpful) is 0.31 [0.23, 0.39] below SFT's, which has the "
        "lower training reward)."
    )
    one = summary(hacking=hacked(gap=(-1, 0), falls=falls[:1]))
    assert "the true reward is 0.19 [0.11, 0.27] below x:beta=1's" in signs(one, {})["x"]["Reward hacking"].text
    assert signs(summary(hacking=hacked(optimized=["y"])), {})["x"]["Reward hacking"].text == (
        "it does not optimize the training reward"
    )
