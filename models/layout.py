"""How sequences lie in a pass through a model: packed, without padding, and those with one prompt share it.

A pass is `prompt response response ... prompt response ...`. Each response sees its prompt and itself, never another
response, and its positions go on from the prompt's end, so its states are those of a row of its own;
see `packed_attention.py`.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..results.records import Ids
from .packed_attention import Packing, Row, pack

Sequences = Sequence[tuple[Ids, Ids]]  # (prompt ids, response ids)


@dataclass(frozen=True)
class Layout:
    """A pass's tokens, one after another, and where each sequence's lie among them."""

    ids: Tensor
    """[tokens]"""
    positions: Tensor
    """[tokens]"""
    packing: Packing
    """How they attend; for a model that does not pack, its only block holds the padded rows."""
    targets: Tensor
    """The tokens that are predicted, sequence by sequence: a response's, or its prompt's before them."""
    before: Tensor
    """Places of the token before each of them."""
    last: Tensor
    """[sequences] place of each one's last token."""
    mask: Tensor
    """[sequences, longest], true on the predicted tokens."""


def families(sequences: Sequences, *, share: bool, tokens: float = math.inf) -> list[list[int]]:
    """Indices of the sequences with one prompt, which stand together; share: else each stands alone.

    tokens: a family that would hold more goes on in another one, with the prompt once more.
    """
    if not share:
        return [[i] for i in range(len(sequences))]
    found: list[list[int]] = []
    open_family: dict[Ids, tuple[list[int], int]] = {}  # and its tokens
    for i, (prompt, response) in enumerate(sequences):
        family, size = open_family.get(prompt, ([], 0))
        if not family or size + len(response) > tokens:
            family, size = [], len(prompt)
            found.append(family)
        family.append(i)
        open_family[prompt] = family, size + len(response)
    return found


def lay_out(sequences: Sequences, device: str, *, share: bool, with_prompt: Collection[int] = ()) -> Layout:
    """Put sequences one after another; share: a prompt that several have stands there once.

    Without sharing all lie in one block of padded rows. with_prompt: indices of sequences whose prompt's tokens, from
    the second on, are predicted too.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[Row] = []
    before: list[list[int]] = [[] for _ in sequences]
    targets: list[Sequence[int]] = [[] for _ in sequences]
    last = [0] * len(sequences)
    for family in families(sequences, share=share):
        prompt = sequences[family[0]][0]
        start, length = len(ids), len(prompt)
        ids += prompt
        positions += range(length)
        for i in family:
            response, at = sequences[i][1], len(ids)
            ids += response
            positions += range(length, length + len(response))
            end = last[i] = len(ids) - 1
            shared = range(start, start + length)
            rows.append(Row(shared, range(at, end + 1)) if i != family[0] else Row(range(0), range(start, end + 1)))
            before[i], targets[i] = [shared[-1], *range(at, end)], response
            if i in with_prompt:
                before[i], targets[i] = [*shared[:-1], *before[i]], [*prompt[1:], *response]
    lengths = torch.tensor([len(each) for each in targets])
    return Layout(
        torch.tensor(ids, device=device),
        torch.tensor(positions, device=device),
        pack(rows, device, cut=share),
        torch.tensor([token for each in targets for token in each], device=device),
        torch.tensor([place for each in before for place in each], device=device),
        torch.tensor(last, device=device),
        (torch.arange(int(lengths.max()))[None] < lengths[:, None]).to(device),
    )


def pad(rows: Sequence[Sequence[float]], device: str, fill: float = 0) -> tuple[Tensor, Tensor]:
    """Right-pad rows of ids (or other numbers) to [rows, longest]; the mask, true on real ones, comes from lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), fill)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
    return padded.to(device), mask.to(device)


def family_lengths(sequences: Sequences, groups: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of each of these `families`."""
    return [len(sequences[group[0]][0]) + sum(len(sequences[i][1]) for i in group) for group in groups]


def count_tokens(sequences: Sequences) -> int:
    """Tokens of prompts and responses, a prompt with each of its responses."""
    return sum(len(prompt) + len(response) for prompt, response in sequences)
