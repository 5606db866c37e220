"""Attention over packed sequences: everything else in a model sees real tokens only, one after another.

A pass is one row of tokens. A family is a prompt and the responses to it: `prompt response response ...`, the prompt
once. Only attention is computed sequence by sequence: queries, keys and values are spread over padded rows, in blocks
of similar length, and what comes out is collected again. The first response of a family attends together with the
prompt, causally; each further one brings its own queries and sees the prompt's keys and its own.

Shapes:
    tokens   all tokens of the pass, in its order
    rows     tokens that attend together, a row each: of one block they are padded to one size
    queries  of a row: its own tokens
    keys     of a row: the prompt's tokens, if it is a further response's, and its own
    places   all blocks' rows one after another, padding included: [rows * queries] or [rows * keys], summed over blocks
A token has one place as a query. As a key it has one in its own row, and a prompt's token one more in the row of each
further response.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..runtime.device import constants
from .micro_batches import cheapest_groups

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "packed"


@dataclass(frozen=True)
class Row:
    """Tokens of a pass that attend together: `own` causally to themselves, and all of them to `prompt`."""

    prompt: range
    own: range


@dataclass(frozen=True)
class Block:
    """Rows of queries, each row with its keys; the rows are padded to one size."""

    rows: int
    queries: int
    keys: int
    mask: Tensor | None
    """[rows, 1, queries, keys], true where a query sees a key; None: as many keys as queries, and causal."""


@dataclass(frozen=True)
class Packing:
    """The place of every token in the blocks, whose rows come one after another."""

    blocks: list[Block]
    queries: Tensor
    """[places] the token of each query; 0 in the padding."""
    query_places: Tensor
    """[tokens] the place of each token's query."""
    keys: Tensor
    """[places] the token of each key and value; 0 in the padding."""
    key_places: list[tuple[Tensor, Tensor]]
    """Tokens and places of their keys, by level: first all tokens in order, then prompts' tokens in the first row of a
    further response to each, in the second one, and so on."""
    layers: set[nn.Module] = field(default_factory=set)
    """Attention layers that went by it."""


def pack(rows: Sequence[Row], device: str, *, cut: bool, start: float | None = None) -> Packing:
    """Place the tokens of a pass: each is `own` in one row. cut: into the blocks that cost least, else into one.

    start: `Constants.block_start`, of the device where it is None.
    """
    start = constants(device).block_start if start is None else start
    # A key's level says which of its token's keys it is, so that no token stands twice in one level: 0 in its own row,
    # n in the n-th row of a further response to its prompt, -1 in the padding.
    blocks, queries, keys, levels = [], [], [], []
    again: Counter[int] = Counter()  # by prompt: in how many rows its keys stand so far
    for kind in ([row for row in rows if not row.prompt], [row for row in rows if row.prompt]):
        lengths = [len(row.prompt) + len(row.own) for row in kind]
        cost = lambda n, longest, total: n * longest**2 + start  # noqa: E731
        for group in cheapest_groups(lengths, cost) if cut else [range(len(kind))] * bool(kind):
            before, width = (max(len(getattr(kind[i], part)) for i in group) for part in ("prompt", "own"))
            query = torch.full((len(group), width), -1)
            key, level = (torch.full((len(group), before + width), -1) for _ in range(2))
            mask = torch.zeros(len(group), 1, width, before + width, dtype=torch.bool)
            mask[..., before:] = torch.ones(width, width, dtype=torch.bool).tril()
            for i, row in enumerate(kind[j] for j in group):
                own, end = torch.arange(row.own.start, row.own.stop), before + len(row.own)
                query[i, : len(row.own)] = own
                key[i, before:end], level[i, before:end] = own, 0
                if row.prompt:
                    again[row.prompt.start] += 1
                    key[i, : len(row.prompt)] = torch.arange(row.prompt.start, row.prompt.stop)
                    level[i, : len(row.prompt)] = again[row.prompt.start]
                    mask[i, ..., : len(row.prompt)] = True
            blocks.append(Block(len(group), width, before + width, mask if before else None))
            queries.append(query.flatten())
            keys.append(key.flatten())
            levels.append(level.flatten())
    query, key, level = torch.cat(queries), torch.cat(keys), torch.cat(levels)
    key_places = []
    for number in range(int(level.max()) + 1):
        places = (level == number).nonzero()[:, 0]
        key_places += [key[places], places]
    tokens, places, *more = key_places
    real = (query >= 0).nonzero()[:, 0]
    found = [query.clamp(min=0), real[query[real].argsort()], key.clamp(min=0)]
    query, query_places, key, *key_places = moved(
        [*found, tokens.sort().values, places[tokens.argsort()], *more], device
    )
    masks = iter(moved([block.mask for block in blocks if block.mask is not None], device))
    blocks = [block if block.mask is None else replace(block, mask=next(masks)) for block in blocks]
    return Packing(blocks, query, query_places, key, list(zip(key_places[::2], key_places[1::2], strict=True)))


def moved(tensors: Sequence[Tensor], device: str) -> list[Tensor]:
    """Tensors of one type on a device; in one copy, for many small ones take as many times as long."""
    if device == "cpu" or not tensors:
        return [*tensors]
    parts = torch.cat([tensor.flatten() for tensor in tensors]).to(device).split([t.numel() for t in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class _Spread(torch.autograd.Function):
    """Token vectors [tokens, width] put into places [places, width]; a token may stand in several."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor, places: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.places = places
        return tokens.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Sums over a token's places; taking rows is many times faster on a CPU than adding to them by index."""
        (_, first), *more = ctx.places
        found = grad.index_select(0, first)
        for tokens, places in more:
            found.index_copy_(0, tokens, found.index_select(0, tokens) + grad.index_select(0, places))
        return found, None, None


class _Collect(torch.autograd.Function):
    """Vectors in places [places, width] taken back to their tokens [tokens, width]."""

    @staticmethod
    def forward(ctx: Any, placed: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.shape = places, placed.shape
        return placed.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.shape).index_copy_(0, ctx.places, grad), None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing,
    **settings: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls in a packed pass: query, key and value [1, heads, tokens, width]."""
    packing.layers.add(module)

    def spread(states: Tensor, index: Tensor, places: list[tuple[Tensor, Tensor]], sizes: list[int]) -> list[Tensor]:
        _, heads, tokens, width = states.shape
        flat = states[0].transpose(0, 1).reshape(tokens, heads * width)
        placed = _Spread.apply(flat, index, places)
        parts = placed.split([block.rows * size for block, size in zip(packing.blocks, sizes, strict=True)])
        return [
            part.view(block.rows, -1, heads, width).transpose(1, 2)
            for block, part in zip(packing.blocks, parts, strict=True)
        ]

    own = [(packing.queries, packing.query_places)]
    queries = spread(query, packing.queries, own, [block.queries for block in packing.blocks])
    keys, values = (
        spread(states, packing.keys, packing.key_places, [block.keys for block in packing.blocks])
        for states in (key, value)
    )
    found = []
    for block, q, k, v in zip(packing.blocks, queries, keys, values, strict=True):
        causal = block.mask is None
        out, _ = sdpa_attention_forward(module, q, k, v, block.mask, is_causal=causal, **settings)
        found.append(out.flatten(0, 1).flatten(1))
    tokens = _Collect.apply(torch.cat(found), packing.query_places)
    return tokens.view(1, len(tokens), query.shape[1], -1), None


AttentionInterface.register(NAME, attend)


@contextlib.contextmanager
def packed_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Meanwhile the model attends by the `packing` that its passes are given."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
