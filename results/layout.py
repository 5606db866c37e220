"""How sequences lie in rows on their way through a model: those with one prompt share a row, and it is computed once.

A row is `prompt response response ...`. Each response sees the prompt and itself, never another response, and its
positions go on from the prompt's end, so its states are those of a row of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = tuple[int, ...]
Sequences = Sequence[tuple[Ids, Ids]]  # (prompt ids, response ids)

SHORTEST_PROMPT = 8  # tokens that are worth the mask which sharing needs
LARGEST_FAMILY = 4  # responses in one row: attention pays for its whole length
# Starting a pass takes as long as this many operations: measured 3 ms forward at 1e11 a second on two CPU cores; on a
# GPU an estimate, 7 ms at 1e14 a second.
CPU_START, GPU_START = 3e8, 7e11


@dataclass(frozen=True)
class Layout:
    """Rows of token ids, right-padded, and where each sequence's tokens lie in them."""

    ids: Tensor
    """[rows, time]"""
    real: Tensor
    """[rows, time], true on real tokens; from lengths, never from ids."""
    positions: Tensor
    """[rows, time]"""
    segments: Tensor | None
    """[rows, time]: 0 for the prompt, 1, 2, ... for the responses, -1 for padding; None where no row is shared."""
    targets: Tensor
    """The tokens that are predicted, sequence by sequence: a response's, or its prompt's before them."""
    before: tuple[list[int], list[int]]
    """Row and column of the token before each of them."""
    last: tuple[list[int], list[int]]
    """Row and column of each sequence's last token."""
    mask: Tensor
    """[sequences, longest], true on the predicted tokens."""

    def attention(self) -> Tensor:
        """[rows, 1, time, time], true where the token of the third index may look at that of the fourth."""
        time = self.ids.shape[1]
        assert self.segments is not None
        own, other = self.segments[:, :, None], self.segments[:, None, :]
        seen = ((other == 0) | (other == own)) & (other >= 0)
        causal = torch.ones(time, time, dtype=torch.bool, device=self.ids.device).tril()
        itself = torch.eye(time, dtype=torch.bool, device=self.ids.device)  # padding too, for a softmax over nothing
        return ((seen & causal) | itself)[:, None]


def families(sequences: Sequences, *, share: bool) -> list[list[int]]:
    """Indices of the sequences in each row; share: those with the same prompt, up to `LARGEST_FAMILY`, are in one."""
    if not share:
        return [[i] for i in range(len(sequences))]
    found: list[list[int]] = []
    open_family: dict[Ids, list[int]] = {}
    for i, (prompt, _) in enumerate(sequences):
        family = open_family.get(prompt) if len(prompt) >= SHORTEST_PROMPT else None
        if family is None or len(family) == LARGEST_FAMILY:
            family = open_family[prompt] = []
            found.append(family)
        family.append(i)
    return found


def lay_out(sequences: Sequences, device: str, *, share: bool, with_prompt: Collection[int] = ()) -> Layout:
    """Put sequences into rows; share: those with one prompt into one row.

    with_prompt: indices of sequences whose prompt's tokens, from the second on, are predicted too.
    """
    rows = families(sequences, share=share)
    tokens: list[list[int]] = []
    positions: list[list[int]] = []
    segments: list[list[int]] = []
    before: list[list[int]] = [[] for _ in sequences]  # columns
    targets: list[list[int]] = [[] for _ in sequences]
    row_of = [0] * len(sequences)
    for number, family in enumerate(rows):
        prompt = sequences[family[0]][0]
        row, place, segment = list(prompt), list(range(len(prompt))), [0] * len(prompt)
        for j, i in enumerate(family, start=1):
            response = sequences[i][1]
            row_of[i] = number
            before[i] = [len(prompt) - 1, *range(len(row), len(row) + len(response))]  # and the last token itself
            targets[i] = list(response)
            if i in with_prompt:
                before[i], targets[i] = [*range(len(prompt) - 1), *before[i]], [*prompt[1:], *response]
            row += response
            place += range(len(prompt), len(prompt) + len(response))
            segment += [j] * len(response)
        tokens.append(row)
        positions.append(place)
        segments.append(segment)
    ids, real = pad(tokens, device)
    shared = len(rows) < len(sequences)
    lengths = torch.tensor([len(each) for each in targets])
    return Layout(
        ids,
        real,
        pad(positions, device)[0],
        pad(segments, device, fill=-1)[0] if shared else None,
        torch.tensor([token for each in targets for token in each], device=device),
        (
            [row for row, each in zip(row_of, targets, strict=True) for _ in each],
            [column for columns in before for column in columns[:-1]],
        ),
        (row_of, [columns[-1] for columns in before]),
        (torch.arange(int(lengths.max()))[None] < lengths[:, None]).to(device),
    )


def pad(rows: Sequence[Sequence[int]], device: str, fill: int = 0) -> tuple[Tensor, Tensor]:
    """Right-pad id lists to [batch, time]; the mask (true on real tokens) comes from lengths, never from ids."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), fill)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    return ids.to(device), mask.to(device)


def row_lengths(sequences: Sequences, rows: Sequence[Sequence[int]]) -> list[int]:
    """Tokens in each of these `families`' rows."""
    return [len(sequences[row[0]][0]) + sum(len(sequences[i][1]) for i in row) for row in rows]


def count_tokens(sequences: Sequences) -> int:
    """Tokens of prompts and responses, a prompt with each of its responses."""
    return sum(len(prompt) + len(response) for prompt, response in sequences)


def start_tokens(weights: int, device: str) -> float:
    """Tokens (2 operations a weight each) that a model could have gone through while a pass is started."""
    return (CPU_START if device == "cpu" else GPU_START) / (2 * weights)


def micro_batches(lengths: Sequence[int], tokens: int, overhead: float) -> list[list[int]]:
    """Indices of rows that go through the model together, so that all passes cost least.

    A group costs its padded size and the overhead of a pass, in tokens; its padded size stays within `tokens` unless it
    is a single row. Rows are sorted by length and cut at the best places (dynamic programming).
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best: list[tuple[float, int]] = [(0.0, 0)]  # by how many rows are placed: the least cost, and where the last begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        options = []
        for start in range(end - 1, -1, -1):
            size = (end - start) * longest
            if size > tokens and start < end - 1:
                break
            options.append((best[start][0] + size + overhead, start))
        best.append(min(options))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]
