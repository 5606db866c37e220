"""A GPU's constants: how they follow from what was measured, where they are kept, and what goes by them."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from alignment_bench.benchmarks import contract
from alignment_bench.benchmarks.cli import doctor
from alignment_bench.benchmarks.selfcheck import device_constants
from alignment_bench.errors import InputError
from alignment_bench.models.network import packed_tokens
from alignment_bench.models.packed_attention import Row, pack
from alignment_bench.models.tuning import Tuning
from alignment_bench.runtime import device

FIGURES = {
    "pass_start_seconds": 0.0071,
    "block_start_seconds": 3e-5,
    "pair_seconds": 1e-9,
    "operations_a_second": 4e14,
    "bytes_a_second": 3e12,
}
FIELDS = {"pass_start": 2.8e12, "block_start": 30_000, "rows": 256}


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU called X1000 and a cache of its own; torch says the name, and no more of it is asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "X1000")
    device.measured_of.cache_clear()
    yield tmp_path / "alignment-bench" / "gpus.json"
    device.measured_of.cache_clear()


def test_constants_by_hand():
    """7.1 ms at 4e14 operations are 2.84e12; 30 microseconds are 30,000 pairs; 133 rows, and the next power of two."""
    assert device_constants.fields(FIGURES) == FIELDS
    odd = {**FIGURES, "pair_seconds": 1e-3, "operations_a_second": 1.0}
    assert device_constants.fields(odd) == {"pass_start": 0.0071, "block_start": 1, "rows": 1}
    assert {*FIELDS} == {*device.MEASURED}


def test_what_was_measured_takes_the_tables_place(gpu, monkeypatch):
    assert device.constants("cuda") is device.CONSTANTS["cuda"]
    device.measured_of.cache_clear()
    monkeypatch.setattr(device_constants, "measure", lambda device: FIGURES)
    gpu.parent.mkdir()
    gpu.write_text(json.dumps({"Y2": FIELDS}))
    found = device_constants.keep("cuda:0")
    assert json.loads(gpu.read_text()) == {"Y2": FIELDS, "X1000": found}
    now = device.constants("cuda:1")
    assert (now.pass_start, now.block_start, now.rows) == (2.8e12, 30_000, 256)
    assert now.head_rows == device.CONSTANTS["cuda"].head_rows
    assert packed_tokens(10**9, "cuda") == 32 * 1400 and packed_tokens(10**9, "meta") == 32 * 350
    assert device.constants("cpu") is device.CONSTANTS["cpu"]
    shop = SimpleNamespace(packages={}, tuning=Tuning(precision="fp32", device="cuda"))
    assert contract.environment(shop)["constants"]["figures"] == FIGURES
    shop.tuning = Tuning(precision="fp32", device="cpu")
    assert "constants" not in contract.environment(shop)


def test_there_is_no_name_without_torch(gpu, monkeypatch):
    """What plans a run has not imported it, and goes by the table."""
    monkeypatch.delitem(sys.modules, "torch")
    assert device.gpu_name("cuda") == ""


@pytest.mark.parametrize(
    "damaged", ["{", "[]", '{"X1000": {"pass_start": 1}}', '{"X1000": 3}', json.dumps({"X1000": {**FIELDS, "rows": 0}})]
)
def test_a_damaged_file_is_said_and_can_be_written_anew(gpu, monkeypatch, damaged):
    gpu.parent.mkdir()
    gpu.write_text(damaged)
    with pytest.raises(InputError, match=r"gpus.json: not what bench doctor --measure writes; remove it, and measure"):
        device.constants("cuda")
    monkeypatch.setattr(device_constants, "measure", lambda device: FIGURES)
    device_constants.keep("cuda")
    assert device.constants("cuda").rows == 256


def test_doctor_measures_each_kind_of_gpu_once(gpu, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(device_constants, "measure", lambda device: asked.append(device) or FIGURES)
    doctor._measure()
    assert asked == ["cuda:1"]
    said = " ".join(capsys.readouterr().out.split())
    assert said == (
        "X1000: a pass starts in 7.1 ms, a block of attention in 30 microseconds; 400.0e12 bf16 operations and 3000e9 "
        "copied bytes a second; up to 256 responses at once"
    )


def test_doctor_says_whether_a_gpu_was_measured(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=8 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(device_constants, "measure", lambda device: FIGURES)
    [before] = [found for found in doctor._torch() if found.what == "passes"]
    assert (before.state, before.found) == ("note", "reckoned from a data sheet")
    assert before.advice == "bench doctor --measure measures how large passes are best"
    day = device_constants.keep("cuda")["date"]
    [after] = [found for found in doctor._torch() if found.what == "passes"]
    assert (after.state, after.found, after.advice) == ("ok", f"measured on {day}", "")


def test_without_a_gpu_there_is_nothing_to_measure(bench, tmp_path):
    done = bench("doctor", "--measure", cwd=tmp_path, code=2)
    assert done.stderr == "bench: --measure is for a CUDA GPU, and there is none; a CPU's constants stand in a table\n"


def test_a_cpu_is_measured_as_a_gpu_would_be():
    """Its own table was measured another way, on other machines; one that is busy is slower, not a thousand times."""
    figures = device_constants.measure("cpu")
    found, table = device_constants.fields(figures), device.CONSTANTS["cpu"]
    assert table.pass_start / 1000 < found["pass_start"] < table.pass_start * 1000
    assert 1 <= found["block_start"] < table.block_start * 1000
    assert 1e8 < figures["bytes_a_second"] < 1e12 and 1e9 < figures["operations_a_second"] < 1e14


def test_rows_are_apart_where_a_block_starts_for_nothing():
    rows = [Row(range(0), range(9)), Row(range(0), range(9, 19))]
    assert len(pack(rows, "cpu", cut=True, start=0).blocks) == 2
    assert len(pack(rows, "cpu", cut=True).blocks) == 1
