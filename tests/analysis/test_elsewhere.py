"""Rows that were trained elsewhere: one training whatever the seeds, marked, and nothing said of a method."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis import learnt_scorer
from alignment_bench.analysis.comparisons import comparisons, trainings
from alignment_bench.analysis.costs import cost_sentences
from alignment_bench.analysis.elsewhere import MARK, marked, sentences
from alignment_bench.analysis.findings import findings
from alignment_bench.analysis.grids import grids_of
from alignment_bench.analysis.power import pooled
from alignment_bench.analysis.statistics import interval
from alignment_bench.analysis.summary import summarize
from alignment_bench.analysis.verdict import compared, recommendation, verdict

PROMPTS = [f"p{i:02}" for i in range(60)]


def scores(rewards, seeds):
    """Rewards by row [prompts] or [seeds, prompts]; wins against SFT's, which are all 0."""
    rows = []
    for name, values in {"sft": np.zeros(60), **rewards}.items():
        for seed in seeds.get(name, range(3)):
            for prompt, value in zip(PROMPTS, np.broadcast_to(values, (3, 60))[seed], strict=True):
                win = 0.5 if name == "sft" or value == 0 else float(value > 0)
                rows += [(name, seed, "reward.gold", prompt, value), (name, seed, "win_rate.gold", prompt, win)]
                rows += [(name, seed, "kl", prompt, 0.1)] if name != "theirs" else []
    return pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"])


def summed(rewards, seeds=(), elsewhere=("theirs",), costs=None):
    return summarize(
        run_id="r", run_dir=".", benchmark="b", contract={}, scores=scores(rewards, dict(seeds)), costs=costs or {},
        gates=[], warnings=[], elsewhere=elsewhere,
    )  # fmt: skip


def mostly(share, high=1.0):
    """Rewards above SFT's on a share of the prompts, below on the rest."""
    return np.where(np.arange(60) < share * 60, high, -1.0)


def test_samplings_of_one_policy_are_no_trainings():
    """Three seeds' wins [1, 0, 1] on a prompt are one training's two thirds; what no seed tells stays unknown."""
    values = np.array([[1.0, 0.0, np.nan], [0.0, 0.0, np.nan], [1.0, np.nan, np.nan]])
    np.testing.assert_allclose(trainings(values, 1), [[2 / 3, 0.0, np.nan]])
    assert trainings(values, 3) is values


def test_a_policy_sampled_three_times_has_the_interval_of_one_training():
    rng = np.random.default_rng(0)
    rewards = rng.choice([-1.0, 1.0], (3, 60))
    row = summed({"theirs": rewards})["methods"]["theirs"]
    wins = (rewards > 0).astype(float)
    expected = interval(wins.mean(0)[None], bounds=(0.0, 1.0))
    cell = row["metrics"]["win_rate.gold"]
    assert (row["seeds"], row["trained_here"], row["cost"]) == (1, False, {})
    assert (cell["mean"], cell["low"], cell["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    of_methods = summed({"theirs": rewards}, elsewhere=())["methods"]["theirs"]
    assert of_methods["seeds"] == 3 and "trained_here" not in of_methods
    assert of_methods["metrics"]["win_rate.gold"]["low"] != pytest.approx(cell["low"])


def test_a_method_is_recommended_and_a_policy_from_elsewhere_only_told():
    """theirs beats dpo on every prompt, and still dpo is the method to use."""
    found = summed({"dpo": mostly(0.9), "theirs": mostly(1.0, 2.0)})
    said = recommendation(found, ["win_rate.gold"])
    assert said == (
        "Use dpo: it is shown to beat SFT by the true reward; not trained here, and no method: this theirs policy, "
        "shown to beat SFT and to be better than dpo."
    )
    seeds = {(row["a"], row["b"]): row["seeds"] for row in found["comparisons"]}
    assert seeds == {("dpo", "sft"): 3, ("theirs", "sft"): 1, ("dpo", "theirs"): 3}
    told = {(row["a"], row["b"]): compared(row, found) for row in found["comparisons"]}
    assert told["theirs", "sft"].startswith("This theirs policy beats SFT: it wins 100%")
    assert "theirs not trained here" in told["theirs", "sft"] and "seed" not in told["theirs", "sft"]
    assert told["dpo", "theirs"].startswith("This theirs policy is better than dpo: ")
    assert "3 seeds of dpo" in told["dpo", "theirs"]


def test_a_policy_that_loses_is_told_too():
    said = recommendation(summed({"dpo": mostly(0.9), "theirs": mostly(0.0)}), ["win_rate.gold"])
    assert said.endswith("; not trained here, and no method: this theirs policy, than which dpo is shown to be better.")


def test_policies_from_elsewhere_alone_are_compared_as_policies():
    found = summed({"a": mostly(1.0, 2.0), "b": mostly(0.9)}, elsewhere=("a", "b"))
    assert recommendation(found, ["win_rate.gold"]) == (
        "No method is recommended, for none was trained here: this a policy and this b policy are shown to beat SFT by "
        "the true reward, and this a policy to be better than this b policy."
    )
    assert [row["seeds"] for row in found["comparisons"]] == [1, 1, 1]


def test_one_seed_of_a_method_beside_it():
    """The price of another seed is that of the method alone, for what theirs cost nobody knows."""
    costs = {"dpo": [{"seconds": 90.0, "examples": 8.0}]}
    found = summed({"dpo": mostly(0.9), "theirs": mostly(1.0, 2.0)}, {"dpo": [0], "theirs": [0]}, costs=costs)
    said = recommendation(found, ["win_rate.gold"])
    assert said.startswith(
        "No method is recommended, for each was trained once: this dpo policy and this theirs policy"
    )
    assert said.endswith("each further seed of dpo would train for about 1 min 30 s.")
    assert "theirs: not trained here, so what training took is not known." in cost_sentences(found, None)
    assert not any("theirs" in line for line in verdict(found) if line.startswith("Training time"))


def test_what_is_not_known_and_what_is_left_out_is_said_first():
    found = summed({"dpo": mostly(0.9), "theirs": mostly(0.5)})
    confounds = findings(found).confounds
    assert confounds[0].startswith(f"theirs: {MARK}; what was learnt from, whether the held-out prompts were seen")
    assert confounds[1] == "theirs: KL to SFT (nats) left out; its tokens or its template are not those of SFT"
    assert not any("theirs" in line for line in confounds[2:])  # neither few seeds nor unequally many
    assert confounds[0] in found["warnings"] and confounds[1] in found["warnings"]
    assert "theirs" not in (found["frontier"] or {}).get("methods", {})


def test_its_samplings_tell_nothing_about_training_runs():
    """Three seeds of dpo have two degrees of freedom, and a policy sampled with three seeds adds none."""
    made = scores({"dpo": mostly(0.8), "theirs": mostly(0.5)}, {})
    grids = grids_of(made)
    rows = comparisons(grids, ["sft", "dpo", "theirs"], elsewhere=("theirs",))
    assert {basis: found.freedom for basis, found in pooled(rows, grids).items()} == {"sft": 2, "direct": 2}


def test_how_far_it_went_is_said_to_be_unknown():
    """Where a learnt reward model is the headline, distance matters, and a policy with other tokens has none."""
    comparison = {"a": "theirs", "b": "sft", "metric": "win_rate.reward_model", "verdict": "not decided"}
    rows = {"sft": {"metrics": {}}, "theirs": {"metrics": {}, "trained_here": False}}
    summary = {"comparisons": [comparison], "methods": rows, "contract": {}}
    said = "How far theirs went from SFT, and so how far reward models err on it, is not known."
    assert said in learnt_scorer.sentences(summary)
    near = {"theirs": {"far": 0.0, "very_far": 0.0, "responses": 9}}
    assert said not in learnt_scorer.sentences({**summary, "far": near})


def test_marks():
    methods = {"sft": {"metrics": {}}, "dpo": {"metrics": {}}, "theirs": {"metrics": {}, "trained_here": False}}
    assert [marked(name, methods) for name in methods] == ["sft", "dpo", "theirs (not trained here)"]
    assert sentences({"dpo": {"metrics": {}}}) == []
