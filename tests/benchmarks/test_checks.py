"""What a run cannot be, told before anything trains."""

import pytest

from alignment_bench.benchmarks.checks import reward_model_starts
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.errors import InputError
from alignment_bench.models.find import find_model

ROLES = ("training", "evaluation")
QUICK = find_model("builtin/base_model", "--model").tokenizer()


def starts(tokenizer=QUICK, **settings):
    spec = load_spec("quick", settings=[f"reward_model.{name}={value}" for name, value in settings.items()])
    return reward_model_starts(spec, tokenizer, ROLES)


def test_reward_models_start_at_sft_or_at_a_model_for_both_or_for_the_training_one():
    base, judge = (find_model(f"builtin/{name}", "").path for name in ("base_model", "judge_model"))
    assert starts() == {}
    assert {role: found.path for role, found in starts(model="builtin/judge_model").items()} == dict.fromkeys(
        ROLES, judge
    )
    assert [*starts(training_model="builtin/judge_model")] == ["training"]
    both = starts(model="builtin/base_model", training_model="builtin/judge_model")
    assert {role: found.path for role, found in both.items()} == {"training": judge, "evaluation": base}


def test_a_model_of_another_vocabulary_or_context_is_refused(tiny, make_tiny, tmp_path):
    place = f"--set reward_model.training_model={tiny.path}, reward_model.training_model"
    with pytest.raises(InputError, match="has another vocabulary than builtin/base_model") as told:
        starts(training_model=tiny.path)
    assert str(told.value).startswith(place)
    spec = load_spec("quick", settings=[f"reward_model.model={tiny.path}", "max_prompt_tokens=250"])
    with pytest.raises(InputError, match=f"is 290, but {tiny.path} reads at most 256 tokens"):
        reward_model_starts(spec, tiny.tokenizer(), ROLES)
    with pytest.raises(InputError, match=r"reward_model.model nowhere: .*there is no such folder"):
        starts(model="nowhere")
