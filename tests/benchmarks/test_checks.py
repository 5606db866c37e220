"""What a run cannot be: models that are no whole ones, lengths that they do not read, sampling that says otherwise."""

import json
from types import SimpleNamespace

import pytest
from transformers import CTRLConfig, LlamaConfig

from alignment_bench.benchmarks import checks
from alignment_bench.benchmarks.checks import check_model, check_sampling, check_start, reward_model_starts
from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.errors import InputError
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.find import find_model
from alignment_bench.results.store import Looking, Store

SPEC = load_spec("quick", {"model": "m"})


@pytest.fixture
def tried(monkeypatch):
    """The models that are tried, in place of trying them."""
    found = []
    monkeypatch.setattr(checks, "try_model", lambda base, *more: found.append(base.key) or {"apart": 0.0})
    return found


def test_a_model_is_tried_once_and_by_no_store_that_only_looks(tmp_path, full, tried):
    shop = Workshop(Store(tmp_path), full, {})
    looking = Workshop(Looking(tmp_path), full, {})
    for key, by in (("one", looking), ("one", shop), ("one", shop), ("one", looking), ("other", shop)):
        check_sampling(SPEC, Checkpoint(tmp_path, key), by)
    assert tried == ["one", "other"]


def test_what_is_refused_is_tried_again(tmp_path, full, monkeypatch):
    def refuse(*given):
        raise InputError("--model m: X cannot be sampled here")

    for _ in range(2):
        monkeypatch.setattr(checks, "try_model", refuse)
        with pytest.raises(InputError, match="cannot be sampled"):
            check_sampling(SPEC, Checkpoint(tmp_path, "one"), Workshop(Store(tmp_path / "store"), full, {}))


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        (None, "is 120, but m reads at most 100 tokens; lower them"),
        (
            {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            r"reads at most 64 tokens \(beyond, it scales positions by the sequence's length, which is not",
        ),
    ],
)
def test_lengths_beyond_what_the_model_reads_are_refused(tmp_path, rope, said):
    given = {"rope_parameters": {**rope, "rope_theta": 1e4, "original_max_position_embeddings": 64}} if rope else {}
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=100, **given)
    config.save_pretrained(tmp_path)
    spec = SPEC.with_fields({"max_prompt_tokens": 80, "max_response_tokens": 40}, "test")
    with pytest.raises(InputError, match=said):
        check_model(spec, Checkpoint(tmp_path, ""))


def test_adapters_and_longer_tokenizers_are_refused_as_a_runs_model(tmp_path, make_tiny):
    folder = make_tiny(tmp_path / "tiny")
    spec = SPEC.with_fields({"max_prompt_tokens": 80, "max_response_tokens": 40}, "test")
    assert check_model(spec, Checkpoint(folder, "")).eos_token_id == 1
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    with pytest.raises(InputError, match="^--model m: its tokenizer has 259 tokens and its embedding 200"):
        check_model(spec, Checkpoint(folder, ""))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="^--model m is an adapter"):
        check_model(spec, Checkpoint(folder, ""))


def test_layers_that_cannot_be_computed_again_are_refused_where_they_must(tmp_path, make_tiny):
    """CTRL's are plain modules. Where nobody insists it may be trained."""
    folder = make_tiny(tmp_path / "tiny")
    ask = ["model=m", "tuning.gradient_checkpointing=true", "max_prompt_tokens=80", "max_response_tokens=40"]
    asking = load_spec("quick", settings=ask)
    assert check_model(asking, Checkpoint(folder, "")).eos_token_id == 1
    config = CTRLConfig(vocab_size=259, n_positions=256, n_embd=32, dff=64, n_layer=2, n_head=4)
    config.save_pretrained(folder)
    with pytest.raises(InputError) as told:
        check_model(asking, Checkpoint(folder, ""))
    assert str(told.value) == (
        "--set tuning.gradient_checkpointing=true, tuning.gradient_checkpointing: CTRLLMHeadModel has no layers that "
        "transformers can compute again; set it to false, and micro_tokens lower if memory runs out"
    )
    for setting in ("auto", "false"):
        ask[1] = f"tuning.gradient_checkpointing={setting}"
        check_model(load_spec("quick", settings=ask), Checkpoint(folder, ""))


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


@pytest.mark.parametrize("name", ["builtin/", "builtin/no_model", "builtin/no/model"])
def test_who_names_no_built_in_model_is_told_of_all(name):
    with pytest.raises(InputError, match=r"known: builtin/base_model, builtin/judge_model, builtin/small_model$"):
        find_model(name, "--model")


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


def test_a_trainer_that_loads_the_model_itself_is_refused_on_a_base_in_4_bits():
    spec = SPEC.with_fields({"tuning.lora_rank": 8, "tuning.base_bits": 4}, "--set")
    theirs, ours = SimpleNamespace(libraries=("trl",)), SimpleNamespace()
    check_start(spec, {"dpo": ours})
    check_start(SPEC, {"trl-dpo": theirs})
    with pytest.raises(InputError, match="^--set, tuning.base_bits: trl-dpo would start from the whole weights, "):
        check_start(spec, {"dpo": ours, "trl-dpo": theirs})
