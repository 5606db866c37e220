"""The place of sequences in a pass through a model: packed, without padding, and those with one prompt share it.

A pass is `prompt response response ... prompt response ...`. Each response sees its prompt and itself, never another
response, and its positions go on from the prompt's end, so its states are those of a row of its own
(`packed_attention.py`).

Shapes, here and wherever a layout is read:
    tokens     all tokens of a pass, one after another; a prompt that several sequences share stands there once
    sequences  a prompt with a response, each
    targets    the tokens that are predicted, sequence by sequence: a response's, or its prompt's before them
    longest    as many as the sequence with the most targets has
Per token of the pass [tokens], per predicted token [targets], per sequence [sequences]; [sequences, longest] holds one
value a target, padded at the end, and is what `TokenValues` spreads [targets] to.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..results.records import Ids
from .packed_attention import Packing, Row, moved, pack

Sequences = Sequence[tuple[Ids, Ids]]  # (prompt ids, response ids)
Item = TypeVar("Item")


class Text(NamedTuple):
    """A sequence, its prompt known by a number: two of one prompt are told apart without looking at its ids again."""

    prompt: Ids
    response: Ids
    number: int


def numbered(sequences: Sequences) -> list[Text]:
    """Sequences with the numbers of their prompts, equal where the ids are."""
    numbers: dict[Ids, int] = {}
    return [Text(prompt, response, numbers.setdefault(prompt, len(numbers))) for prompt, response in sequences]


@dataclass(frozen=True)
class Layout:
    """A pass's tokens, one after another, and where each sequence's lie among them."""

    ids: Tensor
    """[tokens]"""
    positions: Tensor
    """[tokens]"""
    packed: bool
    """True where sequences share prompts and lie without padding; else each has a padded row."""
    packing: Packing
    """The attention's blocks; where sequences are not packed, there is one, of the padded rows."""
    targets: Tensor
    """[targets]"""
    before: Tensor
    """[targets] place among the tokens of the one before each of them."""
    last: Tensor
    """[sequences] place of each one's last token."""
    mask: Tensor
    """[sequences, longest], true on the targets."""


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """The rows that go through a network in one pass."""

    rows: list[Item]
    """Those of the given rows that it holds, each with one sequence or several."""
    tokens: int
    """Of prompts and responses, a prompt with each of its responses."""
    layout: Layout


def families(texts: Sequence[Text], *, share_prompts: bool, tokens: float = math.inf) -> list[list[int]]:
    """Indices of the texts with one prompt, which stand together; share_prompts: else each stands alone.

    tokens: a family that would hold more goes on in another one, with the prompt once more.
    """
    if not share_prompts:
        return [[i] for i in range(len(texts))]
    found: list[list[int]] = []
    open_family: dict[int, tuple[list[int], int]] = {}  # by prompt; and its tokens
    for i, (prompt, response, number) in enumerate(texts):
        family, size = open_family.get(number, ([], 0))
        if not family or size + len(response) > tokens:
            family, size = [], len(prompt)
            found.append(family)
        family.append(i)
        open_family[number] = family, size + len(response)
    return found


def lay_out(texts: Sequence[Text], device: str, *, share_prompts: bool, with_prompt: Collection[int] = ()) -> Layout:
    """Put texts one after another; share_prompts: a prompt that several have stands there once.

    Without sharing all lie in one block of padded rows. with_prompt: indices of texts whose prompt's tokens, from the
    second on, are predicted too.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[Row] = []
    before: list[list[int]] = [[] for _ in texts]
    targets: list[list[int]] = [[] for _ in texts]  # their places
    last = [0] * len(texts)
    for family in families(texts, share_prompts=share_prompts):
        prompt = texts[family[0]].prompt
        start, length = len(ids), len(prompt)
        shared = range(start, start + length)
        ids += prompt
        positions += range(length)
        for i in family:
            response, at = texts[i].response, len(ids)
            ids += response
            positions += range(length, length + len(response))
            end = last[i] = len(ids) - 1
            rows.append(Row(shared, range(at, end + 1)) if i != family[0] else Row(range(0), range(start, end + 1)))
            before[i], targets[i] = [shared[-1], *range(at, end)], [*range(at, end + 1)]
            if i in with_prompt:
                before[i], targets[i] = [*shared[:-1], *before[i]], [*shared[1:], *targets[i]]
    lengths = torch.tensor([len(each) for each in targets])
    predicted = [ids[place] for each in targets for place in each]
    numbers = [ids, positions, predicted, [place for each in before for place in each], last]
    tokens, places, followers, ahead, ends = moved([torch.tensor(each) for each in numbers], device)
    return Layout(
        tokens,
        places,
        share_prompts,
        pack(rows, device, cut=share_prompts),
        followers,
        ahead,
        ends,
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


def family_lengths(texts: Sequence[Text], groups: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of each of these `families`."""
    return [len(texts[group[0]].prompt) + sum(len(texts[i].response) for i in group) for group in groups]


def count_tokens(sequences: Iterable[tuple[Ids, Ids]] | Iterable[Text]) -> int:
    """Tokens of prompts and responses, a prompt with each of its responses."""
    return sum(len(prompt) + len(response) for prompt, response, *_ in sequences)
