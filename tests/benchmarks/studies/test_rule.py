"""What a benchmark must have to be tuned, told in one sentence before anything trains; what trials see of it."""

import pytest

from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.request import Request
from alignment_bench.benchmarks.studies.rule import criteria, trial_spec
from alignment_bench.benchmarks.studies.tune import Tuning
from alignment_bench.errors import InputError


def tuning(tmp_path, *settings, methods=("dpo",), **more):
    spec = load_spec("quick", settings=settings)
    return Tuning(Request(spec, methods, 2, tmp_path), **more)


@pytest.mark.parametrize(
    ("settings", "more", "said"),
    [
        (["splits.selection=0"], {}, "has nothing to tune on, for its splits give selection no share"),
        (["splits.selection=0", "splits.tuning=0"], {}, "its splits give selection and tuning no share"),
        (["select.at_most_kl=none"], {}, "by selection_reward_model alone picks the trial that over-optimizes"),
        (["select.by=judge", "select.at_most_kl=none"], {}, "by judge alone picks the trial that"),
        (["select.by=judge", "evaluators.judge=null", "select.beside=[]"], {}, "goes by judge, and benchmark"),
        (["select.beside=[gold]", "evaluators.gold=null"], {}, "benchmark quick has no evaluator gold"),
        ([], {"trials": 1}, "--trials 1 is no search; give at least 2"),
        ([], {"halving": True, "optimizer": "tpe"}, "--halving goes with --optimizer halton"),
        ([], {"halving": True, "flops": 1e9}, "--halving shares compute out by itself"),
        (["select.by=labels"], {"methods": ("best_of_n",)}, "labels cannot tell its trials apart"),
        ([], {"methods": ("dpo:lr=0.1:beta=0.2",)}, "dpo:lr=0.1:beta=0.2 has no search space"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_told_before_anything_trains(tmp_path, settings, more, said):
    with pytest.raises(InputError) as told:
        tuning(tmp_path, *settings, **more)
    assert said in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [("select.by=luck", "by: input should be"), ("select.at_most_kl=0", "at_most_kl"), ("select.margin=0.6", "margin")],
)
def test_a_rule_that_is_none_is_told_where_it_stands(setting, said):
    with pytest.raises(InputError, match=f"--set {setting}: select.*{said}"):
        load_spec("quick", settings=[setting])


def test_a_rule_that_misleads_may_be_forced_and_truth_needs_no_limit(tmp_path):
    forced = tuning(tmp_path, "select.at_most_kl=none", "select.force=true")
    assert forced.rule == {"by": "selection_reward_model", "at_most_kl": None, "margin": 0.0}
    assert tuning(tmp_path, "select.by=gold", "select.at_most_kl=none").rule["by"] == "gold"


def test_trials_see_no_scorer_of_the_evaluation_but_those_that_the_rule_names():
    """A user's own reward model evaluates, so trials are given none; along training nothing is scored."""
    spec = load_spec("quick", settings=[
        "select.beside=[labels]", "evaluators.reward_model.model=mine", "evaluation.along=3", "tracker=tensorboard",
    ])  # fmt: skip
    assert criteria(spec) == ["selection_reward_model", "labels"]
    seen = trial_spec(spec, criteria(spec))
    assert seen.evaluators == {"reward_model": {}, "implicit_reward": {}, "divergence": {}}
    assert seen.evaluation.along == 0 and seen.evaluation.prompts == 300 and seen.tracker is None
    picks = spec.with_fields({"evaluation.checkpoint.by": "kl"}, "--set")  # of a trial's checkpoints as of a winner's
    assert trial_spec(picks, criteria(picks)).evaluation == picks.evaluation and picks.evaluation.along == 3
    judged = load_spec("quick", settings=["select.by=judge", "select.beside=[]"])
    assert criteria(judged) == ["selection_reward_model", "judge"]
    assert trial_spec(judged, criteria(judged)).evaluators["judge"]["prompt"] == "compact"
