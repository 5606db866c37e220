"""A frozen model in bf16 is read tensor by tensor in the numbers that it is held in; no bit of it changes."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from alignment_bench.errors import InputError
from alignment_bench.models import checkpoint
from alignment_bench.models.checkpoint import load_model, read_model
from alignment_bench.models.logit_rule import LogitRule
from alignment_bench.models.lora import round_products


@pytest.fixture(params=[False, True], ids=["own head", "tied head"])
def folder(request, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=259, tie_word_embeddings=request.param, **sizes)).save_pretrained(tmp_path)
    return tmp_path


def numbers(model):
    return {name: value for part in (model.named_parameters(), model.named_buffers()) for name, value in part}


def test_it_is_rounded_as_it_is_read(folder, monkeypatch):
    later = read_model(AutoModelForCausalLM, folder, dtype=torch.float32)
    assert {p.dtype for p in later.parameters()} == {torch.float32}
    round_products(later)
    asked = []
    monkeypatch.setattr(
        checkpoint,
        "round_products",
        lambda model, real=checkpoint.round_products: (
            asked.append({p.device.type for p in model.parameters()}) or real(model)
        ),
    )
    read = read_model(AutoModelForCausalLM, folder, rounds=True, dtype=torch.float32)
    assert asked == [{"meta"}]  # before there were any numbers: no weight was there in fp32
    assert type(read) is LlamaForCausalLM
    found, expected = numbers(read), numbers(later)
    assert [*found] == [*expected] and torch.bfloat16 in {value.dtype for value in found.values()}
    for name, value in found.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


def test_where_it_is_read_in_fp32_it_is_rounded_then(folder, full, monkeypatch):
    read = checkpoint.read_model
    expected = numbers(load_model(folder, "lm", replace(full, precision="bf16"), frozen=True))
    monkeypatch.setattr(checkpoint, "read_model", lambda auto, folder, rounds, **given: read(auto, folder, **given))
    found = numbers(load_model(folder, "lm", replace(full, precision="bf16"), frozen=True))
    assert {name: value.dtype for name, value in found.items()} == {n: v.dtype for n, v in expected.items()}
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_an_output_layer_is_looked_at_in_fp32_all_the_same(folder, full, monkeypatch):
    """A factor of 1.01, near the 1 in 256 by which bf16 rounds."""
    tuning = replace(full, precision="bf16")
    load_model(folder, "lm", tuning, frozen=True)
    monkeypatch.setattr(LogitRule, "of", classmethod(lambda cls, config: cls(factor=1.01)))
    with pytest.raises(InputError, match="LlamaForCausalLM changes its logits after the output layer"):
        load_model(folder, "lm", tuning, frozen=True)
