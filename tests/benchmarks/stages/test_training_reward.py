"""The reward that a benchmark brings: found, keyed by its code or weights, tried before anything trains, or refused."""

import importlib
import pickle
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from alignment_bench.benchmarks.context import function_code
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.stages.training_reward import find_training_reward
from alignment_bench.errors import InputError
from alignment_bench.evaluators.gold import Gold
from alignment_bench.results.integrity import file_digest
from alignment_bench.results.records import Generation, LabelledPair
from alignment_bench.results.store import folder_digest

MODULE = """
from brought_helper import other


def length(prompt, response):
    return {"reward": len(response), "facet": None}


def bare(prompt, response):
    return 1.0


def infinite(prompt, response):
    return {"reward": float("nan")}


def broken(prompt, response):
    return {"reward": 1 / len(prompt[0]["content"].split("?")[1])}
"""
PAIR = LabelledPair("p7", ({"role": "user", "content": "Why?"},), "yes", "never")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A file of functions that can be imported; module(more) changes it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brought_helper.py").write_text("def other(prompt, response):\n    return {'reward': 0}\n")

    def write(more=""):
        (tmp_path / "brought_rewards.py").write_text(MODULE + more)
        for name in ("brought_rewards", "brought_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return tmp_path / "brought_rewards.py"

    yield write
    for name in ("brought_rewards", "brought_helper"):
        sys.modules.pop(name, None)


def found(name, evaluators=None, **more):
    return find_training_reward(
        load_spec("quick").with_fields({"training_reward": name, **more}, "--set x"), evaluators or {}
    )


def shown(*texts):
    return [Generation("p", PAIR.prompt, text, 0, True) for text in texts]


def test_a_function_is_a_reward_by_its_name(module):
    file = module()
    reward = found("brought_rewards:length")
    reward.try_on(PAIR)
    ask = pickle.loads(pickle.dumps(reward.open("cpu")))
    assert ask(shown("four", "", "a")) == [4.0, 0.0, 1.0]
    scores = [(s.metric, s.value) for s in reward.evaluator("cpu").score(shown("four"), shown("a"))]
    assert scores == [("reward.reward_model.training", 4.0), ("win_rate.reward_model.training", 1.0)]
    assert function_code("brought_rewards:length") == {"files": {"brought_rewards": file_digest(file)}, "versions": {}}
    assert set(function_code("brought_rewards:other")["files"]) == {"brought_rewards", "brought_helper"}


def test_its_key_hangs_on_its_name_and_its_file(module):
    module()
    keys = [found(f"brought_rewards:{name}").key for name in ("length", "length", "infinite")]
    module("# changed\n")
    keys.append(found("brought_rewards:length").key)
    assert keys[0] == keys[1] and len(set(keys)) == 3
    assert found(None) is None


def test_the_true_reward_is_known_as_such(module):
    """By the function itself, whichever module it is named by."""
    module()
    gold = {"gold": Gold("brought_helper:other")}
    assert found("brought_rewards:other", gold).is_true and not found("brought_rewards:length", gold).is_true
    assert not found("brought_rewards:other").is_true


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "brought_rewards:nothing",
            r"^--set x, training_reward 'brought_rewards:nothing' cannot be loaded .*PYTHONPATH",
        ),
        ("no_such_module:length", "'no_such_module:length' cannot be loaded"),
        ("brought_rewards:__name__", "'brought_rewards:__name__' is not a function"),
        ("brought_rewards:bare", "brought_rewards:bare returned 1.0 for prompt p7; it has to return a mapping"),
        ("brought_rewards:infinite", "finite numbers with the key 'reward'"),
        ("brought_rewards:broken", r"brought_rewards:broken failed \(ZeroDivisionError: .*\); repair the function"),
    ],
)
def test_a_function_that_cannot_be_used_is_told_before_anything_trains(module, name, said):
    module()
    with pytest.raises(InputError, match=said):
        found(name).try_on(PAIR)


@pytest.mark.parametrize("field", ["pairs", "contrast_in_training"])
def test_settings_of_the_reward_model_that_is_not_trained_are_refused(module, field):
    module()
    with pytest.raises(InputError, match=f"--set x: reward_model.{field} is of the reward model whose place"):
        found("brought_rewards:length", **{f"reward_model.{field}": 1})


def test_a_reward_model_from_elsewhere_reads_text_by_its_own_tokenizer(tiny, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_labels=1, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    model, tokenizer = LlamaForSequenceClassification(config).eval(), tiny.tokenizer()
    model.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    reward = found(str(tmp_path / "rm"))
    assert reward.key == folder_digest(tmp_path / "rm")
    texts = ("four", "a")
    expected = []
    for text in texts:
        talk = [*PAIR.prompt, {"role": "assistant", "content": text}]
        ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            expected.append(float(model(input_ids=torch.tensor([ids])).logits[0, 0]))
    assert reward.open("cpu")(shown(*texts)) == pytest.approx(expected, rel=1e-4)
    assert reward.evaluator("cpu").rewards(shown(*texts)) == pytest.approx(expected, rel=1e-4)
    assert expected[0] != pytest.approx(expected[1], rel=1e-2)


def test_a_model_without_a_head_is_refused(tiny):
    with pytest.raises(InputError, match="holds no weights for score.weight, so its scores would be random"):
        found(str(tiny.path))
    with pytest.raises(InputError, match="--set x, training_reward nowhere/none: there is no such folder"):
        found("nowhere/none")
