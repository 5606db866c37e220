"""Sampling responses from a policy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..results.chat import decode_response
from ..results.checkpoint import halved
from ..results.records import Generation
from .base import Ids, Prompt
from .policy import Policy


@dataclass(frozen=True)
class Sample:
    """A sampled response: token ids up to and with the first EOS, and whether there is one."""

    prompt: Prompt
    ids: Ids
    finished: bool
    logps: tuple[float, ...] = field(default=(), compare=False)  # its last digits depend on the batch
    """Log-probability of each token as it was drawn, at the temperature of the sampling; empty where not known."""


class Sampler(Protocol):
    """What `tuning.sampler` names: it draws a response to each asked prompt from the policy as it is now.

    The responses come in the order of rows, which are indices of prompts; they end with the first EOS or after
    max_new_tokens. A row's response depends on the policy, its prompt, the seed and its index alone (but for the
    rounding of sums).
    """

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        rows: Sequence[int],
        *,
        max_new_tokens: int,
        seed: int,
        temperature: float,
        top_p: float,
        progress: str | None,
    ) -> list[Sample]: ...


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
    rows: Sequence[int] | None = None,
    progress: str | None = None,
) -> list[Sample]:
    """One response a prompt, in the order of the prompts; top_p 1 samples purely, below 1 from the `nucleus`.

    rows: indices of the prompts to answer, all if None. progress: the label of a progress bar, none if None. A prompt's
    random numbers are those of the seed and its index, so that neither its batch nor the other rows change its response
    (but for the rounding of sums). vLLM draws where `tuning.sampler` says so, else this: prompts of similar length
    share a batch of batch_size, left-padded; rows that are finished leave it. A batch that the memory does not hold is
    sampled again in halves; OutOfMemory if it does not hold one row.
    """
    rows = range(len(prompts)) if rows is None else rows
    if policy.network.tuning.sampler == "vllm":
        from . import sampler_vllm

        sampler: Sampler = sampler_vllm.sample
        how = {"temperature": temperature, "top_p": top_p, "progress": progress}
        return sampler(policy, prompts, rows, max_new_tokens=max_new_tokens, seed=seed, **how)
    order = sorted(rows, key=lambda i: len(prompts[i].ids))
    found: dict[int, Sample] = {}
    with tqdm(total=len(order), desc=progress, unit="response", leave=False, disable=None if progress else True) as bar:
        while order:
            group = order[: min(batch_size, policy.most_rows or batch_size)]
            ids = [prompts[i].ids for i in group]
            numbers = torch.stack([uniforms(seed, i, max_new_tokens) for i in group]).to(policy.device)
            try:
                responses = _sample_batch(policy, ids, max_new_tokens, temperature, top_p, numbers)
            except (RuntimeError, MemoryError) as error:
                policy.most_rows = halved(len(group), error, policy.device)
                continue
            del order[: len(group)]
            eos = policy.tokenizer.eos_token_id
            for i, ids in zip(group, responses, strict=True):
                found[i] = Sample(prompts[i], tuple(ids), ids[-1] == eos)
            bar.update(len(group))
    return [found[i] for i in rows]


def uniforms(seed: int, index: int, count: int) -> Tensor:
    """Uniform numbers [count] of a seed and an index, in [0, 1).

    Philox, whose streams are told apart by a key: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    key = np.array([seed, index], dtype=np.uint64)
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=key)).random(count))


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
    numbers: Tensor,
) -> list[list[int]]:
    """Token ids up to and with the first EOS; numbers [prompts, max_new_tokens] are uniform, one a drawn token."""
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
        tokens = draw(chances, numbers[:, step])
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
            ids, positions, real, numbers = ids[keep], positions[keep], real[keep], numbers[keep]
            alive = [alive[row] for row in going]
    return responses


def draw(chances: Tensor, uniform: Tensor) -> Tensor:
    """A token [batch] from probabilities [batch, vocabulary], by one uniform number [batch] a row.

    torch.multinomial draws one for every token of the vocabulary.
    """
    reached = chances.cumsum(-1, dtype=torch.float64)
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

        def batch_select_indices(self, indices: Tensor) -> None:
            end = self.get_seq_length()
            self.room = [room[indices] for room in self.room]
            self.keys, self.values = (room[:, :, :end] for room in self.room)

    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
