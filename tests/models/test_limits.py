"""What a model reads: how many tokens, which ids, and which folders can be trained from."""

import json

import pytest
from conftest import build_tokenizer
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, MambaConfig, Phi3Config

from alignment_bench.errors import InputError
from alignment_bench.models.limits import check_vocabulary, context_window
from alignment_bench.models.model_files import check_model_files, check_whole

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 131072}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (GPT2Config(n_positions=64), 64),
        (MambaConfig(), None),
        (Phi3Config(**SMALL, rope_parameters=LONG, original_max_position_embeddings=2048), 2048),
        (LlamaConfig(max_position_embeddings=2048, rope_parameters={"rope_type": "dynamic", "factor": 4.0}), 2048),
        (LlamaConfig(max_position_embeddings=8192, rope_parameters={**LONG, "rope_type": "yarn", "factor": 2.0}), 8192),
        (Gemma3TextConfig(max_position_embeddings=1024), 1024),  # parameters by the layers' kind
    ],
)
def test_positions_that_are_scaled_by_the_length_end_at_the_original_context(config, window):
    assert context_window(config) == window


def test_a_tokenizer_longer_than_the_embedding_is_refused():
    tokenizer = build_tokenizer()
    check_vocabulary(tokenizer, LlamaConfig(vocab_size=len(tokenizer)), "--model m")
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    with pytest.raises(InputError, match=f"^--model m: its tokenizer has {len(tokenizer)} tokens and its embedding"):
        check_vocabulary(tokenizer, LlamaConfig(vocab_size=len(tokenizer) - 1), "--model m")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modules_to_save": ["lm_head"]}, r"replaces whole layers as well \(modules_to_save: lm_head\)"),
        ({"use_dora": True}, "of the kind DoRA, not plain LoRA; merge it into its base first"),
        ({"peft_type": "IA3"}, "of the kind IA3, not plain LoRA"),
    ],
)
def test_adapters_that_are_more_than_matrices_are_refused(tmp_path, settings, said):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    with pytest.raises(InputError, match=f"^--policy p is an adapter .*{said}"):
        check_model_files(tmp_path, "--policy p")


def test_plain_adapters_and_those_of_reward_models_pass_but_are_no_whole_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "modules_to_save": ["score"]}))
    check_model_files(tmp_path, "--policy p")
    with pytest.raises(InputError, match="^--model m is an adapter, and a run needs a whole model; merge it"):
        check_whole(tmp_path, "--model m")


@pytest.mark.parametrize("place", ["config", "text_config"])
def test_quantized_weights_are_refused(tmp_path, place):
    settings = {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(settings if place == "config" else {"text_config": settings}))
    with pytest.raises(InputError, match=r"^--model m: its weights are quantized \(gptq\)"):
        check_whole(tmp_path, "--model m")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": None}))
    check_whole(tmp_path, "--model m")
