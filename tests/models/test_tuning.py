"""The settings of training in numbers: what of them results depend on."""

import json
from dataclasses import fields, replace

import pytest

from alignment_bench.errors import InputError
from alignment_bench.models import tuning
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.tuning import Tuning
from alignment_bench.runtime import processes
from alignment_bench.runtime.device import check_device, kind_of

TUNING = Tuning(lora_rank=4, precision="fp32", device="cuda:1", micro_tokens=1000)


@pytest.mark.parametrize(
    "other",
    [
        {"micro_tokens": 7},
        {"gradient_checkpointing": True},
        {"device": "cuda"},
        {"device": "cuda:0"},
        {"vllm_memory": 0.5},
        {"vllm_sequences": 8},
    ],
)
def test_what_changes_results_by_rounding_alone_is_in_no_key(other):
    assert replace(TUNING, **other).identity() == TUNING.identity()


@pytest.mark.parametrize(
    "other",
    [
        {"lora_rank": 8},
        {"lora_alpha": 1.0},
        {"precision": "bf16"},
        {"device": "cpu"},
        {"sampler": "vllm"},
        {"deterministic": True},
        {"base_bits": 4},
    ],
)
def test_all_else_is_in_keys(other):
    assert replace(TUNING, **other).identity() != TUNING.identity()


def test_no_setting_is_forgotten():
    """A field that is added is in keys, unless it is put among those above."""
    assert set(TUNING.identity()) == {f.name for f in fields(Tuning)} - {
        "micro_tokens",
        "gradient_checkpointing",
        "vllm_memory",
        "vllm_sequences",
    }


@pytest.mark.parametrize(("device", "kind"), [("cuda:3", "cuda"), ("cuda", "cuda"), ("cpu", "cpu"), ("mps", "mps")])
def test_the_kind_of_a_device(device, kind):
    assert kind_of(device) == kind


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices_that_there_may_be(device):
    assert check_device(device) == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "auto:1"])
def test_devices_that_no_machine_has(device):
    with pytest.raises(InputError, match=f"^--device {device} is not known; give cpu, cuda, cuda:N, mps or auto$"):
        check_device(device)


@pytest.mark.parametrize(
    ("other", "installed", "divided", "why"),
    [
        ({"lora_rank": 0}, True, False, "every weight is trained .*; set lora_rank"),
        ({}, False, False, r"bitsandbytes is not installed; pip install 'alignment-bench\[qlora\]'"),
        ({"sampler": "vllm"}, True, False, "vLLM would hold all weights whole; use the sampler torch"),
        ({}, True, True, "FSDP divides whole weights alone; launch with --multi_gpu"),
    ],
)
def test_a_base_in_four_bits_is_refused_where_there_can_be_none(other, installed, divided, why, monkeypatch):
    monkeypatch.setattr(tuning, "find_spec", lambda name: name if installed else None)
    monkeypatch.setattr(processes, "is_sharding", lambda: divided)
    asked = replace(TUNING, device="cpu", base_bits=4)
    with pytest.raises(InputError, match=f"^tuning.base_bits 4: {why}, or leave base_bits out$"):
        replace(asked, **other).resolve()
    monkeypatch.setattr(tuning, "find_spec", lambda name: name)
    monkeypatch.setattr(processes, "is_sharding", lambda: False)
    assert asked.resolve() == asked


@pytest.mark.parametrize(
    ("units", "width", "precision"),
    [(True, 575, "fp32"), (True, 576, "bf16"), (True, None, "bf16"), (False, 4096, "fp32")],
)
def test_auto_is_bf16_where_a_cpu_has_units_and_the_model_gains_by_them(units, width, precision, monkeypatch):
    monkeypatch.setattr(tuning, "has_fast_bf16", lambda device: units)
    assert Tuning(device="cpu").resolve(width).precision == precision
    assert Tuning(device="cpu", precision="bf16").resolve(width).precision == "bf16"  # as it was asked for


def test_a_gpu_gains_at_any_width(monkeypatch):
    monkeypatch.setattr(tuning, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "X1000")
    assert Tuning(device="cuda").resolve(96).precision == "bf16"


def test_a_model_s_width_is_that_of_its_files(tiny, tmp_path, monkeypatch):
    assert tiny.width == 32 and Checkpoint(tmp_path, "k").width is None
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 48}')
    assert Checkpoint(tmp_path, "k").width == 48
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    assert Checkpoint(tmp_path / "adapter", "k").width == 48
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "some/where"}')
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *given, **more: 1 / 0)
    assert Checkpoint(tmp_path / "adapter", "k").width is None  # nobody is asked for what lies elsewhere
