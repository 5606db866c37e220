"""What a ledger keeps apart: a method's own spending, and what is spent on looking at it."""

import json

import pytest
import torch

from alignment_bench.runtime import memory
from alignment_bench.training import ledger as ledgers
from alignment_bench.training.ledger import Ledger


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    now = [100.0]
    monkeypatch.setattr(ledgers.time, "monotonic", lambda: now[0])
    return now


def close(ledger):
    ledger.close()
    return json.loads((ledger.out / "cost.json").read_text())


def test_time_spent_on_looking_is_none_of_the_methods(tmp_path, clock):
    """5 s of training, 2 of looking, 3 of training; and the tokens of each, with 10 weights: 2 FLOPs each forward."""
    ledger = Ledger(tmp_path, network_size=10, scored_tokens=7, started=clock[0])
    clock[0] += 5
    with ledger.looking():
        clock[0] += 2
        ledger.looking_scored_tokens += 3
        ledger.looking_generated_tokens += 4
    clock[0] += 3
    cost = close(ledger)
    assert (cost["seconds"], cost["looking_seconds"]) == (8.0, 2.0)
    assert (cost["flops"], cost["looking_flops"]) == (140.0, 140.0)


def test_a_training_that_goes_on_counts_the_stretch_before(tmp_path, clock):
    """80 s of training and 1 of looking until the checkpoint; an hour later 9 s of training and 1 of looking."""
    first = Ledger(tmp_path, network_size=1, started=clock[0])
    clock[0] += 80
    with first.looking():
        clock[0] += 1
    state = json.loads(json.dumps(first.state_dict()))
    clock[0] += 3600
    second = Ledger(tmp_path, network_size=1)
    second.load_state_dict(state)
    clock[0] += 9
    with second.looking():
        clock[0] += 1
    cost = close(second)
    assert (cost["seconds"], cost["looking_seconds"]) == (89.0, 2.0)


def test_memory_is_that_of_the_device_that_trains(tmp_path, monkeypatch):
    """Beside a GPU a training on the CPU is the process's, and one on the second GPU that GPU's."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: asked.append(device) or 3 * 2**20)
    monkeypatch.setattr(memory, "peak", lambda: 5 * 2**20)
    assert close(Ledger(tmp_path, network_size=1))["peak_memory_mb"] == 5.0
    assert close(Ledger(tmp_path, network_size=1, device="cuda:1"))["peak_memory_mb"] == 3.0
    assert asked == ["cuda:1"]
