"""Configurations of well-known sizes of models, for what is counted without a model's folder."""

import re
from pathlib import Path
from typing import Any

from ...errors import InputError, nearest
from ...models.find import find_model

# From the config.json of Qwen2.5-0.5B, -1.5B and -7B (https://huggingface.co/Qwen), and of Llama-3.1-70B, whose layers
# differ from Qwen's in the biases of queries, keys and values alone.
SIZES: dict[str, dict[str, Any]] = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}


def configuration_of(model: str) -> Any:
    """The configuration of a known size, else of a model: hub id or folder. InputError where there is no such model."""
    if model.lower() in (name.lower() for name in SIZES):
        return configuration(model)
    if re.fullmatch(r"[\d.]+[A-Za-z]*", model) and not Path(model).exists():
        raise InputError(
            f"--model {model}: there is no such folder, and the size is not known; {nearest(model, SIZES)}"
        )
    return find_model(model, "--model").config


def configuration(size: str) -> Any:
    """transformers' configuration of a size; InputError for one that is not known."""
    from transformers import Qwen2Config

    known = {name.lower(): values for name, values in SIZES.items()}
    if size.lower() not in known:
        raise InputError(f"the size {size!r} of a model is not known; {nearest(size, [*SIZES])}")
    return Qwen2Config(**known[size.lower()], max_position_embeddings=32768)
