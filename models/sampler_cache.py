"""The key-value cache of our own sampler, and how many rows of it the memory holds."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..runtime.device import constants
from ..runtime.memory import free_on
from .network import Network


def reserved_cache(config: Any, length: int, dtype: torch.dtype | None = None) -> Any:
    """A key-value cache with room for so many tokens: a step copies its own keys and values, not all before it.

    dtype: of keys and values; None: theirs.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class ReservedLayer(DynamicLayer):
        """Keys and values are views of the used part of a reserved tensor."""

        def update(self, keys: Tensor, values: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
            used = self.get_seq_length()
            if not used:
                self.lazy_initialization(keys, values)
                self.room = [
                    part.new_empty(*part.shape[:2], length, part.shape[3], dtype=dtype) for part in (keys, values)
                ]
            end = used + keys.shape[2]
            for room, new in zip(self.room, (keys, values), strict=True):
                room[:, :, used:end] = new
            self._see(end)
            return self.keys, self.values

        def reorder_cache(self, beam_idx: Tensor) -> None:
            if not (end := self.get_seq_length()):
                raise ValueError("it keeps no keys and values in the cache that it is given")
            self.room = [room[beam_idx] for room in self.room]
            self._see(end)

        def join(self, other: "ReservedLayer", width: int, length: int) -> None:
            """Take in the other's rows; the last `width` tokens of either stay, and there is room for `length`."""
            for n, (mine, theirs) in enumerate(((self.keys, other.keys), (self.values, other.values))):
                rows, more = len(mine), len(theirs)
                made = mine.new_zeros(rows + more, mine.shape[1], length, mine.shape[3])  # padding must be finite
                for part, found in ((made[:rows], mine), (made[rows:], theirs)):
                    found = found[:, :, -width:]
                    part[:, :, width - found.shape[2] : width] = found
                self.room[n] = made
            self._see(width)

        def _see(self, end: int) -> None:
            self.keys, self.values = (room[:, :, :end] for room in self.room)

    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_join(cache: Any) -> bool:
    """True if rows of another cache can be taken in: all layers keep keys and values of all tokens."""
    return all(hasattr(layer, "join") for layer in cache.layers)


def join(cache: Any, other: Any, width: int, length: int) -> None:
    """Take the rows of another cache into this one; the last `width` tokens of either stay, with room for `length`."""
    for mine, theirs in zip(cache.layers, other.layers, strict=True):
        mine.join(theirs, width, length)


def rows_at_once(network: Network, lengths: Sequence[int], new_tokens: int) -> int:
    """Rows to sample at once: as many as the memory holds that a CUDA device has free, a fixed number elsewhere.

    lengths: of the prompts; new_tokens: most of a response.
    """
    device = network.tuning.device
    free, most = free_on(device), constants(device)
    if free is None or not lengths:
        return most.rows
    row = row_bytes(network.model.config, max(lengths), new_tokens, bf16=network.tuning.precision == "bf16")
    return max(1, min(most.rows, int(most.sampling_share * free / row)))


def token_bytes(config: Any, *, bf16: bool) -> int:
    """Bytes of a token's keys and values."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * (2 if bf16 else 4)


def row_bytes(config: Any, prompt: int, new_tokens: int, *, bf16: bool) -> int:
    """Bytes that a row takes at its peak: its keys and values twice, while they are copied, and the larger of its
    prompt's activations and its probabilities.

    Keys and values have room for a response behind the longest prompt and another, since rows that come later start
    where others end. Activations: a layer's states and what its MLP makes of them, all in fp32. Probabilities: logits,
    their softmax and its running sum in fp64, with a copy each.
    """
    text = config.get_text_config()
    cache = token_bytes(config, bf16=bf16) * (prompt + 2 * new_tokens)
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    activations = 4 * prompt * (6 * text.hidden_size + 3 * inner)
    return 2 * cache + max(activations, 32 * text.vocab_size)
