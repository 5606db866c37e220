"""Rows dealt to the processes of a run by their tokens. What the processes then do: runtime/test_processes.py."""

import random
from types import SimpleNamespace

import pytest

from alignment_bench.models.shared_work import deal, deal_sizes
from alignment_bench.runtime import processes
from alignment_bench.training.loop import Outcome, take_step


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(processes, "_SIZE", 2)


def row(prompt: int, *responses: int, first: int = 0):
    """A row of sequences with one prompt; lengths in tokens."""
    return [((first,) * prompt, (9,) * response) for response in responses]


def test_the_largest_goes_first_to_the_hand_with_least():
    """9 | 7, then 9 | 7 + 6, 9 + 5 | 13, 14 | 13 + 4."""
    assert deal_sizes([4, 9, 6, 5, 7], 2) == [[1, 3], [0, 2, 4]]
    assert deal_sizes([5, 5, 5, 5], 2) == [[0, 2], [1, 3]]
    assert deal_sizes([3], 3) == [[0], [], []]
    assert deal_sizes([], 2) == [[], []]


def test_rows_of_one_prompt_stay_in_one_process(two):
    """Whole, each has 10 + 3 + 3 tokens; in turns each would have both prompts, 26."""
    rows = [row(10, 3), row(10, 3), row(10, 3, first=1), row(10, 3, first=1)]
    assert deal(rows, share_prompts=True) == [[0, 1], [2, 3]]
    assert deal(rows, share_prompts=False) == [[0, 2], [1, 3]]


def test_rows_of_one_prompt_are_parted_where_one_process_would_have_all(two):
    assert deal([row(5, 30) for _ in range(4)], share_prompts=True) == [[0, 2], [1, 3]]


def test_a_pairs_sequences_share_their_prompt(two):
    """10 + 2 + 2, 1 + 8 + 8 and 14 + 1 + 1 tokens; without sharing 24, 18 and 30."""
    rows = [row(10, 2, 2), row(1, 8, 8, first=1), row(14, 1, 1, first=2)]
    assert deal(rows, share_prompts=True) == [[1], [0, 2]]
    assert deal(rows, share_prompts=False) == [[2], [0, 1]]


def test_one_process_has_all_in_their_order():
    assert deal([row(3, 9), row(3, 1), row(9, 5)], share_prompts=True) == [[0, 1, 2]]


def test_the_slowest_has_little_more_than_it_must():
    """Log-normal lengths, as uneven as chats': spread 0.8. It must have the mean, and no less than the longest row."""
    rng = random.Random(0)
    dealt, in_turns = [], []
    for _ in range(50):
        sizes = [round(rng.lognormvariate(6, 0.8)) for _ in range(32)]
        least = max(sum(sizes) / 8, max(sizes))
        dealt.append(max(sum(sizes[i] for i in hand) for hand in deal_sizes(sizes, 8)) / least)
        in_turns.append(max(sum(sizes[rank::8]) for rank in range(8)) / least)
    assert sum(in_turns) / 50 > 1.4
    assert sum(dealt) / 50 < 1.03


@pytest.mark.parametrize(("rank", "own"), [(0, ["b"]), (1, ["a", "c"])])
def test_a_steps_rows_are_dealt_by_their_tokens(two, monkeypatch, rank, own):
    monkeypatch.setattr(processes, "_RANK", rank)
    given = []
    network = SimpleNamespace(packs=True, batches=lambda rows, sequences, **how: given.append((rows, sequences)))

    def step(batches, loss):
        batches()
        return Outcome(0.0, 0.0, 0, {})

    sequences = {"a": row(10, 2, 2), "b": row(1, 9, 9, first=1), "c": row(5, 1, 1, first=2)}
    optimizer, ledger = SimpleNamespace(network=network, step=step), SimpleNamespace(trained_tokens=0)
    take_step(optimizer, [*sequences], [*sequences.values()], lambda batch: None, ledger=ledger, names=["rows"])
    assert given == [(own, [sequences[name] for name in own])]
