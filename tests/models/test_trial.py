"""Models that are tried before anything trains: what cannot be sampled or adapted is refused by name."""

import pytest

from alignment_bench.benchmarks.selfcheck.architectures import LORA, make
from alignment_bench.errors import InputError
from alignment_bench.models import lora, sampler_torch
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.trial import try_model


def made(model_type, folder) -> Checkpoint:
    make(model_type, folder)
    return Checkpoint(folder, "")


def test_a_model_says_the_same_token_by_token_and_in_one_pass(tiny, tuning):
    assert try_model(tiny, tuning, "--model m")["apart"] < 1e-5


def test_a_model_without_a_cache_that_can_be_reordered_is_refused_by_name(tmp_path, full):
    with pytest.raises(InputError, match="^--model m: RwkvForCausalLM cannot be sampled here"):
        try_model(made("rwkv", tmp_path), full, "--model m")


def test_a_cache_that_forgets_is_refused_by_name(tiny, full, monkeypatch):
    """Rows get the keys and values of others: nothing raises."""
    cache = sampler_torch.reserved_cache

    def mixed_up(*given):
        made = cache(*given)
        reorder = made.reorder_cache
        made.reorder_cache = lambda rows: reorder(rows.flip(0))
        return made

    monkeypatch.setattr(sampler_torch, "reserved_cache", mixed_up)
    with pytest.raises(InputError, match="^--model m: LlamaForCausalLM says other log-probabilities token by token"):
        try_model(tiny, full, "--model m")


def test_adapters_that_a_models_code_passes_by_are_refused_by_name(tmp_path, monkeypatch):
    """Mamba's code multiplies by the weight of dt_proj itself."""
    assert try_model(made("mamba", tmp_path / "known"), LORA, "--model m")["apart"] < 1e-5
    monkeypatch.setitem(lora.BYPASSED, "mamba", ("out_proj",))
    checkpoint = made("mamba", tmp_path / "unknown")
    with pytest.raises(InputError, match="^--model m: MambaForCausalLM does not use LoRA adapters on dt_proj"):
        try_model(checkpoint, LORA, "--model m")
