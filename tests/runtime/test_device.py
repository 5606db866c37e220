"""What a device does at once comes from one table, and a CPU's numbers are those of published results."""

import platform
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from alignment_bench.benchmarks.cost.rough import packed_tokens as packed_of_estimate
from alignment_bench.benchmarks.definition.spec import TuningSpec
from alignment_bench.methods.wpo import expected_logps
from alignment_bench.models.checkpoint import open_network
from alignment_bench.models.micro_batches import start_tokens
from alignment_bench.models.network import packed_tokens
from alignment_bench.models.packed_attention import Row, pack
from alignment_bench.models.tuning import Tuning
from alignment_bench.runtime import device
from alignment_bench.runtime.device import CONSTANTS, KINDS, constants


@pytest.fixture
def change(monkeypatch):
    return lambda **values: monkeypatch.setitem(CONSTANTS, "cpu", replace(CONSTANTS["cpu"], **values))


def test_the_numbers_of_a_cpu_stay():
    """Another one would change published results in their last digits."""
    assert asdict(constants("cpu")) == {
        "pass_start": 3e8,
        "pass_tokens": 1024,
        "pass_starts": 32,
        "block_start": 5000,
        "head_rows": 128,
        "head_numbers": 1_048_576,
        "vocabulary_numbers": 67_108_864,
        "rows": 64,
        "steps": 1,
        "mask_columns": 8,
        "bucket": 26_214_400,
        "training_share": 0.9,
        "sampling_share": 0.8,
        "bf16_width": 576,
    }
    assert Tuning().micro_tokens == TuningSpec().micro_tokens == 8192


def test_every_kind_of_device_has_them():
    assert constants("cuda:1") is CONSTANTS["cuda"] and {*KINDS, "meta"} == {*CONSTANTS}
    assert constants("mps").rows == 64 and constants("mps").pass_start == constants("cuda").pass_start


def test_passes_are_cut_by_them(change):
    """A pass of 1e6 weights takes 2e6 operations a token; blocks of attention are joined where starting one costs more
    than the 2 x 7^2 - 2^2 - 7^2 = 45 pairs of padding."""
    assert packed_of_estimate is packed_tokens
    assert start_tokens(10**6, "cpu") == 150 and packed_tokens(10**6, "cpu") == 32 * 150
    change(pass_start=4e6, pass_tokens=50, pass_starts=10)
    assert start_tokens(10**6, "cpu") == 2 and packed_tokens(10**6, "cpu") == 50
    change(pass_start=4e6, pass_tokens=50, pass_starts=100)
    assert packed_tokens(10**6, "cpu") == 200
    rows = [Row(range(0), range(2)), Row(range(0), range(2, 9))]
    for start, blocks in ((44, 2), (46, 1)):
        change(block_start=start)
        assert len(pack(rows, "cpu", cut=True).blocks) == blocks


def test_the_head_is_asked_in_pieces_of_them(tiny, full, change, monkeypatch):
    network = open_network(tiny.path, "lm", full, trainable=False)
    states, seen, head = torch.randn(5, 32), [], network.head
    whole = expected_logps(network, states)
    monkeypatch.setattr(network, "head", lambda part: seen.append(len(part)) or head(part))
    change(head_rows=2)
    assert torch.allclose(expected_logps(network, states), whole, atol=1e-6) and seen == [2, 2, 1]


def test_layers_are_kept_while_their_share_of_the_memory_holds_them(tiny, full, change, monkeypatch):
    monkeypatch.setattr("alignment_bench.models.network.free_on", lambda device: 1000)
    found = []
    for share, needed in ((0.9, 900), (0.9, 901), (0.5, 501), (0.5, 500)):
        change(training_share=share)
        network = open_network(tiny.path, "lm", full, trainable=True)
        monkeypatch.setattr(network, "memory_needed", lambda needed=needed: needed)
        found.append(network.checkpoints)
    assert found == [False, True, True, False]


def test_a_processor_has_its_name(monkeypatch, tmp_path):
    """Linux says it once a core; elsewhere Python's word has to do."""
    text = "processor\t: 0\nmodel name\t: AMD EPYC: 7\nprocessor\t: 1\nmodel name\t: AMD EPYC: 7\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(device, "Path", lambda name: tmp_path / Path(name).name)
    assert device.processor() == "AMD EPYC: 7"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t:\n")
    assert device.processor() in (platform.processor(), platform.machine())
    (tmp_path / "cpuinfo").unlink()
    assert device.processor() in (platform.processor(), platform.machine())
