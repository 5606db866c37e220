"""Our own sampler: batches of prompts, left-padded, one uniform number a token."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..results.records import Prompt
from .micro_batches import halved
from .policy import Policy
from .sampler import Sample


def sample_rows(
    policy: Policy,
    prompts: Sequence[Prompt],
    rows: Sequence[int],
    *,
    streams: Sequence[int],
    max_new_tokens: int,
    seed: int,
    temperature: float,
    top_p: float,
    progress: str | None,
    value_head: nn.Module | None = None,
    batch_size: int = 64,
) -> list[Sample]:
    """Our own `Sampler`. Prompts of similar length share a batch of batch_size, left-padded.

    A prompt that stands in a batch more than once is computed once; rows that are finished leave it. A batch that the
    memory does not hold is sampled again in halves; OutOfMemory if it does not hold one row.
    """
    order = sorted(rows, key=lambda i: len(prompts[i].ids))
    found: dict[int, Sample] = {}
    with tqdm(total=len(order), desc=progress, unit="response", leave=False, disable=None if progress else True) as bar:
        while order:
            group = order[: min(batch_size, policy.most_rows or batch_size)]
            numbers = torch.stack([uniforms(seed, streams[i], max_new_tokens) for i in group])
            numbers = numbers.to(policy.device, torch.float32 if policy.device == "mps" else torch.float64)
            try:
                drawn = _sample_batch(policy, [prompts[i] for i in group], temperature, top_p, numbers, value_head)
            except (RuntimeError, MemoryError) as error:
                policy.most_rows = halved(len(group), error, policy.device)
                continue
            del order[: len(group)]
            found |= zip(group, drawn, strict=True)
            bar.update(len(group))
    return [found[i] for i in rows]


def uniforms(seed: int, stream: int, count: int) -> Tensor:
    """Uniform numbers [count] of a seed and a stream, in [0, 1).

    Philox, whose streams are told apart by a key: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=key)).random(count))


def nucleus(chances: Tensor, top_p: float) -> Tensor:
    """Probabilities [batch, vocabulary] of the fewest likeliest tokens that hold at least top_p together, scaled to 1.

    Holtzman et al. (2020, arXiv:1904.09751), section 3.1. The likeliest token always stays.
    """
    ordered, tokens = chances.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # what the likelier tokens hold together
    kept = torch.zeros_like(chances).scatter(-1, tokens, ordered.masked_fill(before >= top_p, 0.0))
    return kept / kept.sum(-1, keepdim=True)


def _sample_batch(
    policy: Policy,
    prompts: list[Prompt],
    temperature: float,
    top_p: float,
    numbers: Tensor,
    value_head: nn.Module | None,
) -> list[Sample]:
    """One batch of `sample`; numbers [prompts, max_new_tokens] are uniform, one a drawn token."""
    model, device = policy.network.activate(), policy.device
    max_new_tokens = numbers.shape[1]
    different = list(dict.fromkeys(p.ids for p in prompts))
    longest = max(map(len, different))
    gaps = torch.tensor([longest - len(ids) for ids in different], device=device)
    ids = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in different], device=device)
    real = torch.arange(longest + max_new_tokens, device=device)[None] >= gaps[:, None]
    positions = (real[:, :longest].long().cumsum(1) - 1).clamp(min=0)
    cache = reserved_cache(model.config, longest + max_new_tokens)
    takes = inspect.signature(policy.network.backbone.forward).parameters
    name = "cache_params" if "cache_params" in takes else "past_key_values"  # Mamba ignores one under the common name
    stops = policy.stops
    responses: list[list[tuple[int, float, float | None]]] = [[] for _ in prompts]  # token, its log-prob, its value
    alive = list(range(len(prompts)))  # row of the batch -> index of the prompt
    for step in range(max_new_tokens):
        seen = real[:, : longest + step]
        mask: Tensor | None = seen
        if step and policy.network.packs:  # its attention is one that takes a mask made already
            mask = seen[:, None, None]
        elif step and name == "cache_params":  # its state is without padding; it would take the mask for the token's
            mask = None
        with policy.network.autocast():
            states = policy.network.backbone(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **{name: cache}
            ).last_hidden_state[:, -1]
            logits = policy.network.head(states)
        if step == 0 and len(different) < len(prompts):  # from here on a row a response
            row_of = {ids: row for row, ids in enumerate(different)}
            rows = torch.tensor([row_of[p.ids] for p in prompts], device=device)
            cache.reorder_cache(rows)
            positions, real, states, logits = positions[rows], real[rows], states[rows], logits[rows]
        chances = torch.softmax(logits.float() / temperature, dim=-1)
        if top_p < 1:
            chances = nucleus(chances, top_p)
        tokens = draw(chances, numbers[:, step])
        logps = chances.gather(1, tokens[:, None])[:, 0].log()
        values = value_head(states.float())[:, 0].tolist() if value_head else [None] * len(alive)
        drawn = list(zip(tokens.tolist(), logps.tolist(), values, strict=True))
        going = []
        for row, i in enumerate(alive):
            if not responses[i] or responses[i][-1][0] not in stops:
                responses[i].append(drawn[row])
                if drawn[row][0] not in stops:
                    going.append(row)
        if not going:
            break
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        if len(going) <= 0.75 * len(alive):  # moving the cache costs, so rows leave in groups
            keep = torch.tensor(going, device=device)
            cache.reorder_cache(keep)
            ids, positions, real, numbers = ids[keep], positions[keep], real[keep], numbers[keep]
            alive = [alive[row] for row in going]
    columns = (zip(*response, strict=True) for response in responses)
    return [
        Sample(prompt, ids, ids[-1] in stops, logps, values if value_head else ())
        for prompt, (ids, logps, values) in zip(prompts, columns, strict=True)
    ]


def draw(chances: Tensor, uniform: Tensor) -> Tensor:
    """A token [batch] from probabilities [batch, vocabulary], by one uniform number [batch] a row.

    Sums are taken in the numbers' precision. torch.multinomial draws one for every token of the vocabulary.
    """
    uniform = uniform.clamp(max=1 - torch.finfo(uniform.dtype).eps)  # float32 may have rounded it up to 1
    reached = chances.cumsum(-1, dtype=uniform.dtype)
    # the first token whose sum is above the number; never one of probability 0
    tokens = torch.searchsorted(reached, uniform[:, None] * reached[:, -1:], right=True)[:, 0]
    return tokens.clamp(max=chances.shape[1] - 1)


def reserved_cache(config: Any, length: int) -> Any:
    """A key-value cache with room for so many tokens: a step copies its own keys and values, not all before it."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class ReservedLayer(DynamicLayer):
        """Keys and values are views of the used part of a reserved tensor."""

        def update(self, keys: Tensor, values: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
            used = self.get_seq_length()
            if not used:
                self.lazy_initialization(keys, values)
                self.room = [part.new_empty(*part.shape[:2], length, part.shape[3]) for part in (keys, values)]
            end = used + keys.shape[2]
            for room, new in zip(self.room, (keys, values), strict=True):
                room[:, :, used:end] = new
            self.keys, self.values = (room[:, :, :end] for room in self.room)
            return self.keys, self.values

        def reorder_cache(self, beam_idx: Tensor) -> None:
            if not (end := self.get_seq_length()):
                raise ValueError("it keeps no keys and values in the cache that it is given")
            self.room = [room[beam_idx] for room in self.room]
            self.keys, self.values = (room[:, :, :end] for room in self.room)

    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
