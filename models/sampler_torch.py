"""Our own sampler: rows left-padded, one uniform number a token."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..results.records import Prompt
from ..runtime.device import constants, kind_of
from .lora import backbone_of
from .micro_batches import halved
from .policy import Policy
from .sampler import Sample
from .sampler_cache import can_join, join, reserved_cache, rows_at_once
from .sampler_weights import sampling_weights

LEFT = (
    0.75  # of the rows that are still drawn: below, the others leave; moving the cache costs, so they leave in groups
)


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
    batch_size: int | None = None,
) -> list[Sample]:
    """Our own `Sampler`. Prompts of similar length go together, batch_size rows or as many as the memory holds.

    A prompt that stands among those that begin together more than once is computed once; rows that are finished leave,
    and others take their places. What was unfinished when the memory ran out is sampled again with half as many rows;
    OutOfMemory if it does not hold one row.
    """
    order = sorted(rows, key=lambda i: len(prompts[i].ids))
    found: dict[int, Sample] = {}
    bar = tqdm(total=len(order), desc=progress, unit="response", leave=False, disable=None if progress else True)
    with bar, sampling_weights(policy.network), policy.network.autocast():  # weights are cast once, not for each token
        most = batch_size or rows_at_once(policy.network, [len(prompts[i].ids) for i in order], max_new_tokens)
        while left := [i for i in order if i not in found]:
            size = min(policy.most_rows or most, most, len(left))
            batch = _Batch(policy, prompts, streams, max_new_tokens, seed, temperature, top_p, value_head)
            try:
                while left or batch.rows:
                    if left and len(batch.rows) <= LEFT * size and batch.takes_more:
                        new = left[: size - len(batch.rows)]
                        batch.begin(new)
                        del left[: len(new)]
                    else:
                        batch.draw()
                    ended = batch.finished()
                    found |= ended
                    bar.update(len(ended))
            except (RuntimeError, MemoryError) as error:
                policy.most_rows = halved(size, error, policy.device)
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


class _Batch:
    """Rows that are sampled together, each a response, and all that their next tokens hang on.

    A column is a place in the cache, the same one for all rows' next tokens. A row has padding, its prompt, and its
    response, which starts in a column of its own.
    """

    real: Tensor
    """[rows, columns], false in the padding, true also in columns to come."""
    bias: Tensor
    """[rows, 1, 1, columns], what attention adds to its scores: 0, in the padding -inf."""
    numbers: Tensor
    """[rows, columns], the uniform number by which the token of a column is drawn."""
    positions: Tensor
    """[rows, 1], of the next token."""
    tokens: Tensor
    """[rows, 1], the next token: drawn, and in no cache yet."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        streams: Sequence[int],
        most: int,
        seed: int,
        temperature: float,
        top_p: float,
        value_head: nn.Module | None,
    ):
        """most: tokens of a response."""
        self.policy, self.prompts, self.streams, self.most, self.seed = policy, prompts, streams, most, seed
        self.temperature, self.top_p, self.value_head = temperature, top_p, value_head
        network = policy.network
        self.stops, self.config, self.packs = policy.stops, network.model.config, network.packs
        self.bf16 = network.tuning.precision == "bf16"
        takes = inspect.signature(backbone_of(network.model).forward).parameters
        self.state = "cache_params" in takes  # Mamba ignores a cache under the common name
        self.rows: list[int] = []  # index of each row's prompt
        self.starts: list[int] = []  # column of each row's first token
        self.responses: dict[int, list[list[float]]] = {}  # by prompt: of each token itself, its log-prob, and value
        self.cache: Any = None
        self.width = 0  # columns that are in the cache

    @property
    def takes_more(self) -> bool:
        """True if rows may begin: where each layer keeps keys and values of all tokens beside others, else alone."""
        return not self.rows or self.packs and can_join(self.cache)

    def begin(self, new: list[int]) -> None:
        """Draw the first token to some prompts, beside rows that are drawn."""
        device = self.policy.device
        asked = [self.prompts[i].ids for i in new]
        different = list(dict.fromkeys(asked))
        width = max(map(len, different))
        room = width if self.rows else width + self.most  # beside others they get room when they join them
        cache = reserved_cache(self.config, room, torch.bfloat16 if self.bf16 and self.packs else None)
        ids = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in different], device=device)
        real = self._real(map(len, different), width, width)
        positions = (real.long().cumsum(1) - 1).clamp(min=0)
        states, logits = self._pass(ids, real, positions, cache)
        positions = positions[:, -1:] + 1
        if len(different) < len(new):  # from here on a row a response
            row_of = {ids: row for row, ids in enumerate(different)}
            each = torch.tensor([row_of[ids] for ids in asked], device=device)
            cache.reorder_cache(each)
            positions, states, logits = positions[each], states[each], logits[each]
        numbers = torch.stack([uniforms(self.seed, self.streams[i], self.most) for i in new])
        numbers = numbers.to(device, torch.float32 if device == "mps" else torch.float64)
        tokens, drawn = self._choose(states, logits, numbers[:, 0])
        self._join(new, cache, width, numbers, positions, tokens)
        self._read(new, [drawn])

    def draw(self) -> None:
        """Draw tokens to all rows, then look at them."""
        drawn: list[Tensor] = []
        left = self.most - 1 - (self.width - min(self.starts))
        for _ in range(min(left, constants(self.policy.device).steps)):
            self.width += 1
            mask: Tensor | None = self.real[:, : self.width]
            if self.packs:  # its attention is one that takes a mask made already
                mask = self.bias[..., : self.width]
            elif self.state:  # it is without padding; it would take the mask for the token's
                mask = None
            states, logits = self._pass(self.tokens, mask, self.positions, self.cache)
            self.tokens, one = self._choose(states, logits, self.numbers[:, self.width])
            self.positions = self.positions + 1
            drawn.append(one)
        self._read(self.rows, drawn)

    def finished(self) -> dict[int, Sample]:
        """Responses that are finished since it was asked, by prompt; their rows leave, but for a few that may wait."""
        found = {}
        for i in [i for i, tokens in self.responses.items() if self._ended(tokens)]:
            ids, logps, *values = zip(*self.responses.pop(i), strict=True)
            ids = tuple(map(int, ids))
            found[i] = Sample(self.prompts[i], ids, ids[-1] in self.stops, logps, *values)
        going = [row for row, i in enumerate(self.rows) if i in self.responses]
        full = self.width - min(self.starts) + 1 >= self.most  # such rows have no columns left
        if not going:
            self.rows, self.starts, self.cache = [], [], None
        elif len(going) < len(self.rows) and (full or len(going) <= LEFT * len(self.rows)):
            keep = torch.tensor(going, device=self.policy.device)
            self.cache.reorder_cache(keep)
            self.tokens, self.positions, self.numbers = self.tokens[keep], self.positions[keep], self.numbers[keep]
            self.real, self.bias = self.real[keep], self.bias[keep]
            self.rows, self.starts = [self.rows[row] for row in going], [self.starts[row] for row in going]
        return found

    def _ended(self, tokens: list[list[float]]) -> bool:
        return tokens[-1][0] in self.stops or len(tokens) == self.most

    def _pass(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        """Last hidden states and logits of the last token of each row."""
        given = {"cache_params" if self.state else "past_key_values": cache}
        states = self.policy.network.backbone(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **given
        ).last_hidden_state[:, -1]
        return states, self.policy.network.head(states)

    def _choose(self, states: Tensor, logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens [rows, 1]; and [rows, 2 or 3], in the uniform numbers' precision: with log-probs and values."""
        with torch.autocast(kind_of(self.policy.device), enabled=False):
            chances = torch.softmax(logits.float() / self.temperature, dim=-1)
            if self.top_p < 1:
                chances = nucleus(chances, self.top_p)
            tokens = draw(chances, numbers)[:, None]
            found = [tokens, chances.gather(1, tokens).log()]
            if self.value_head:
                found.append(self.value_head(states.float()))
            return tokens, torch.cat([each.to(numbers.dtype) for each in found], dim=1)

    def _read(self, rows: list[int], drawn: list[Tensor]) -> None:
        """Look at what was drawn to some prompts, which waits for the device; what follows an end is nothing."""
        for step in torch.stack(drawn).tolist():
            for i, token in zip(rows, step, strict=True):
                if i in self.responses and not (self.responses[i] and self._ended(self.responses[i])):
                    self.responses[i].append(token)

    def _join(self, new: list[int], cache: Any, width: int, numbers: Tensor, positions: Tensor, tokens: Tensor) -> None:
        """Take in rows with their prompts in a cache of so many columns; numbers [new, most], the rest as here."""
        self.responses |= {i: [] for i in new}
        before = self.width
        lengths = [len(self.prompts[i].ids) + before - start for i, start in zip(self.rows, self.starts, strict=True)]
        lengths += [len(self.prompts[i].ids) for i in new]
        self.width = max(lengths)
        multiple = constants(self.policy.device).mask_columns
        columns = -(-(self.width + self.most) // multiple) * multiple
        numbers = nn.functional.pad(numbers, (self.width, columns - self.width - self.most))
        if self.rows:
            join(self.cache, cache, self.width, self.width + self.most)
            shift = self.width - before
            old = nn.functional.pad(self.numbers, (shift, columns - self.numbers.shape[1] - shift))
            numbers, positions = torch.cat([old, numbers]), torch.cat([self.positions, positions])
            tokens = torch.cat([self.tokens, tokens])
        else:
            self.cache = cache
        self.numbers, self.positions, self.tokens = numbers, positions, tokens
        self.starts = [start + self.width - before for start in self.starts] + [self.width] * len(new)
        self.rows = self.rows + new
        self.real = self._real(lengths, self.width, columns)
        zeros = torch.zeros(
            self.real.shape, dtype=torch.bfloat16 if self.bf16 else torch.float32, device=self.real.device
        )
        self.bias = zeros.masked_fill(~self.real, -torch.inf)[:, None, None]

    def _real(self, lengths: Iterable[int], width: int, columns: int) -> Tensor:
        """[rows, columns], false before the last so many of the first `width` columns."""
        device = self.policy.device
        gaps = torch.tensor([width - length for length in lengths], device=device)
        return torch.arange(columns, device=device)[None] >= gaps[:, None]


def draw(chances: Tensor, uniform: Tensor) -> Tensor:
    """A token [batch] from probabilities [batch, vocabulary], by one uniform number [batch] a row.

    Sums are taken in the numbers' precision. torch.multinomial draws one for every token of the vocabulary.
    """
    uniform = uniform.clamp(max=1 - torch.finfo(uniform.dtype).eps)  # float32 may have rounded it up to 1
    reached = chances.cumsum(-1, dtype=uniform.dtype)
    # the first token whose sum is above the number; never one of probability 0
    tokens = torch.searchsorted(reached, uniform[:, None] * reached[:, -1:], right=True)[:, 0]
    return tokens.clamp(max=chances.shape[1] - 1)
