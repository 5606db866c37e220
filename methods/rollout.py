"""Sampling responses from a policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..results import processes
from ..results.chat import decode_response
from ..results.records import Generation
from .base import Ids, Prompt
from .policy import Policy


@dataclass(frozen=True)
class Sample:
    """A sampled response: token ids up to and with the first EOS, and whether there is one."""

    prompt: Prompt
    ids: Ids
    finished: bool


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 64,
    progress: str | None = None,
    together: bool = False,
) -> list[Sample]:
    """One response a prompt, in the order of the prompts; top_p 1 samples purely, below 1 from the `nucleus`.

    Prompts of similar length share a batch, left-padded; rows that are finished leave it. progress: the label of a
    progress bar, none if None. The same seed and prompts give the same responses on the same machine. Each prompt has
    random numbers of its own, so its response does not depend on what shares its batch. together: all processes of the
    run are here, and each samples its share.
    """
    generator = torch.Generator(device=policy.device).manual_seed(seed)
    uniforms = torch.rand(
        (len(prompts), max_new_tokens), generator=generator, device=policy.device, dtype=torch.float64
    )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    if together:
        order = processes.mine(order)
    policy.network.activate()  # with divided weights all processes do, also one whose share is empty
    found: dict[int, Sample] = {}
    with tqdm(total=len(order), desc=progress, unit="response", leave=False, disable=None if progress else True) as bar:
        for start in range(0, len(order), batch_size):
            group = order[start : start + batch_size]
            ids = [prompts[i].ids for i in group]
            responses = _sample_batch(policy, ids, max_new_tokens, temperature, top_p, uniforms[group])
            eos = policy.tokenizer.eos_token_id
            for i, ids in zip(group, responses, strict=True):
                found[i] = Sample(prompts[i], tuple(ids), ids[-1] == eos)
            bar.update(len(group))
    if together:
        found = {i: each for share in processes.gather(found) for i, each in share.items()}
    return [found[i] for i in range(len(prompts))]


def to_generations(policy: Policy, samples: Sequence[Sample], kls: Sequence[float] | None = None) -> list[Generation]:
    """Samples as text records, for reward models, judges and the disk."""
    return [
        Generation(
            prompt_id=s.prompt.id,
            prompt=s.prompt.messages,
            response=decode_response(policy.tokenizer, s.ids),
            length=len(s.ids),
            finished=s.finished,
            kl=kls[i] if kls else None,
        )
        for i, s in enumerate(samples)
    ]


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
    prompts: list[Ids],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    uniforms: Tensor,
) -> list[list[int]]:
    model, device = policy.network.activate(), policy.device
    longest = max(len(p) for p in prompts)
    gaps = torch.tensor([longest - len(p) for p in prompts], device=device)
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    real = torch.arange(longest + max_new_tokens, device=device)[None] >= gaps[:, None]
    positions = (real[:, :longest].long().cumsum(1) - 1).clamp(min=0)
    cache = reserved_cache(model.config, longest + max_new_tokens)
    eos = policy.tokenizer.eos_token_id
    responses: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))  # row of the batch -> index of the prompt
    for step in range(max_new_tokens):
        mask = real[:, : longest + step]
        if step and policy.network.shares_prompts:  # it takes a mask that is made already
            mask = mask[:, None, None]
        with policy.network.autocast():
            states = policy.network.backbone(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state
            logits = policy.network.head(states[:, -1])
        chances = torch.softmax(logits.float() / temperature, dim=-1)
        if top_p < 1:
            chances = nucleus(chances, top_p)
        tokens = draw(chances, uniforms[:, step, None])
        for row, token in enumerate(tokens.tolist()):
            response = responses[alive[row]]
            if not response or response[-1] != eos:
                response.append(token)
        going = [row for row, i in enumerate(alive) if responses[i][-1] != eos]
        if not going:
            break
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        if len(going) <= 0.75 * len(alive):  # moving the cache costs, so rows leave in groups
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            ids, positions, real, uniforms = ids[keep], positions[keep], real[keep], uniforms[keep]
            alive = [alive[row] for row in going]
    return responses


def draw(chances: Tensor, uniform: Tensor) -> Tensor:
    """A token [batch] from probabilities [batch, vocabulary], by one uniform number [batch, 1] a row.

    torch.multinomial draws one for every token of the vocabulary.
    """
    reached = chances.cumsum(-1, dtype=torch.float64)
    # the first token whose sum is above the number; never one of probability 0
    return torch.searchsorted(reached, uniform * reached[:, -1:], right=True)[:, 0].clamp(max=chances.shape[1] - 1)


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

        def batch_select_indices(self, indices: Tensor) -> None:
            end = self.get_seq_length()
            self.room = [room[indices] for room in self.room]
            self.keys, self.values = (room[:, :, :end] for room in self.room)

    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
