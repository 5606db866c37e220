"""Policies from elsewhere: read as they are, in tokens where these are SFT's, else through text; refusals."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from alignment_bench.errors import InputError
from alignment_bench.models.chat import encode_prompt, encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.elsewhere import find_elsewhere, open_copy, reads_alike, respond_elsewhere
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampling import respond
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.adapters import set_base
from alignment_bench.results.records import Generation, Prompt

TUNING = Tuning(lora_rank=2, lora_alpha=8.0, precision="fp32", device="cpu")
ASKED = [({"role": "user", "content": text},) for text in ("Why?", "Who is it", "Where to?")]
OTHER = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
HOW = {"max_new_tokens": 8, "temperature": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def places(tmp_path_factory, make_tiny):
    """SFT and policies on disk: `alike` with its tokens, `other` with another template, `adapter` on SFT's weights."""
    root = tmp_path_factory.mktemp("elsewhere")
    make_tiny(root / "sft", seed=1)
    make_tiny(root / "alike", seed=2)
    make_tiny(root / "other", seed=2, template=OTHER)
    torch.manual_seed(0)
    settings = LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, use_rslora=True, task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(root / "sft"), settings)
    model.save_pretrained(root / "adapter")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[0, 40, 41, 42]])).logits[0, :-1]
    return root, logits


@pytest.fixture(scope="module")
def sft(places):
    return Policy.open(Checkpoint(places[0] / "sft", "sft"), TUNING, trainable=False)


def prompts(policy):
    return [Prompt(f"p{i}", m, tuple(encode_prompt(policy.tokenizer, m))) for i, m in enumerate(ASKED)]


def test_an_adapter_is_what_peft_makes_of_it(places, sft):
    """With settings that our own adapters never have; it has no tokenizer of its own, so its base's."""
    root, logits = places
    found = find_elsewhere(str(root / "adapter"), "--policy theirs")
    policy = open_copy(found, TUNING)
    torch.testing.assert_close(policy.logits([((0,), (40, 41, 42))]), logits, rtol=1e-4, atol=1e-4)
    assert not policy.network.is_adapter and found.base == (root / "sft").resolve()
    assert policy.tokenizer.chat_template == sft.tokenizer.chat_template
    assert reads_alike(policy, sft, ASKED)


def test_what_reads_alike_is_measured_as_ours_is(places, sft):
    policy = open_copy(find_elsewhere(str(places[0] / "alike"), "--policy theirs"), TUNING)
    answers = respond_elsewhere(policy, sft, prompts(sft), **HOW)
    assert answers.generations == respond(policy, sft, prompts(sft), **HOW).generations
    assert all(g.kl > 0 and g.entropy > 0 for g in answers.generations)


def test_another_template_goes_through_text(places, sft):
    """It is asked in its own template; what it says is counted in SFT's tokens and has neither KL nor entropy."""
    policy = open_copy(find_elsewhere(str(places[0] / "other"), "--policy theirs"), TUNING)
    assert not reads_alike(policy, sft, ASKED)
    answers = respond_elsewhere(policy, sft, prompts(sft), **HOW)
    asked_in_its_own = respond(policy, None, prompts(policy), **HOW).generations
    assert [g.response for g in answers.generations] == [g.response for g in asked_in_its_own]
    assert [g.prompt for g in answers.generations] == ASKED
    for g in answers.generations:
        assert g.kl is None and g.entropy is None
        assert g.length == len(encode_response(sft.tokenizer, g.response)) - (not g.finished)
    assert answers.generated_tokens == sum(g.length for g in asked_in_its_own)


@pytest.mark.parametrize("change", ["vocabulary", "eos", "width"])
def test_other_tokens_do_not_read_alike(places, sft, tmp_path, change):
    shutil.copytree(places[0] / "alike", tmp_path / "theirs")
    if change == "width":
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
        model.resize_token_embeddings(264)
        model.save_pretrained(tmp_path / "theirs")
    else:
        names = {
            "vocabulary": ("tokenizer.json", '"!": 3', '"~~": 3'),
            "eos": ("tokenizer_config.json", "</s>", "<pad>"),
        }
        name, old, new = names[change]
        text = json.dumps(json.loads((tmp_path / "theirs" / name).read_text()), ensure_ascii=False)
        assert old in text
        (tmp_path / "theirs" / name).write_text(text.replace(old, new))
    policy = open_copy(find_elsewhere(str(tmp_path / "theirs"), "--policy theirs"), TUNING)
    assert reads_alike(policy, sft, [()]) is False  # in a prompt that has no EOS


def test_what_is_refused_before_anything_trains(places, tmp_path):
    root, _ = places

    def refused(place):
        with pytest.raises(InputError) as told:
            find_elsewhere(str(place), "--policy theirs")
        return str(told.value)

    assert "--policy theirs nobody/nothing: there is no such folder" in refused("nobody/nothing")
    LlamaForSequenceClassification(AutoModelForCausalLM.from_pretrained(root / "sft").config).save_pretrained(
        tmp_path / "classifier"
    )
    assert "a LlamaForSequenceClassification, not a causal language model" in refused(tmp_path / "classifier")
    shutil.copytree(root / "adapter", tmp_path / "lost")
    set_base(tmp_path / "lost", "nobody/base")
    assert "an adapter whose base cannot be had: base nobody/base: there is no such folder" in refused(
        tmp_path / "lost"
    )
    shutil.copytree(root / "adapter", tmp_path / "both")
    shutil.copytree(root / "sft", tmp_path / "both", dirs_exist_ok=True)
    assert "a whole model beside an adapter; merge the two first" in refused(tmp_path / "both")
    shutil.copytree(root / "adapter", tmp_path / "scorer")
    config = tmp_path / "scorer" / "adapter_config.json"
    config.write_text(config.read_text().replace("CAUSAL_LM", "SEQ_CLS"))
    assert "an adapter for SEQ_CLS, not for a causal language model" in refused(tmp_path / "scorer")


def test_an_adapter_that_does_not_fit_its_base_is_told(places, tmp_path, make_tiny):
    """Of a model with fewer layers: peft alone would leave the others out in silence."""
    root, _ = places
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path / "small", seed=1), num_hidden_layers=1)
    model.save_pretrained(tmp_path / "small")
    shutil.copytree(root / "adapter", tmp_path / "adapter")
    set_base(tmp_path / "adapter", str(tmp_path / "small"))
    with pytest.raises(InputError, match=r"the adapter cannot be merged into .*small \(.*layers.1.* is in one of them"):
        open_copy(find_elsewhere(str(tmp_path / "adapter"), "--policy theirs"), TUNING)


def test_contents_are_its_identity(places, tmp_path):
    """Of an adapter also its base's: other weights there are another policy, wherever the two lie."""
    root, _ = places

    def key(name, base):
        shutil.copytree(root / "adapter", tmp_path / name / "adapter")
        set_base(tmp_path / name / "adapter", "../base")
        shutil.copytree(root / base, tmp_path / name / "base")
        found = find_elsewhere(str(tmp_path / name / "adapter"), f"--policy {name}")
        assert found.base == (tmp_path / name / "base").resolve()
        return found.key

    assert key("one", "sft") == key("two", "sft") != key("three", "alike")


def test_generations_of_ours_are_untouched():
    """`recounted` is for other tokens alone: a cut response has no EOS to count."""
    from conftest import build_tokenizer

    from alignment_bench.models.elsewhere import recounted

    given = [Generation("p", (), "abcd", 99, finished) for finished in (True, False)]
    assert [g.length for g in recounted(given, build_tokenizer())] == [5, 4]
