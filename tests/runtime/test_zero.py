"""DeepSpeed's configuration, taken and refused; its work: runtime/test_processes.py."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from alignment_bench.errors import InputError
from alignment_bench.runtime import launch, processes, zero


@pytest.fixture
def launched(monkeypatch):
    """launched(**variables): as accelerate launches one of two processes for DeepSpeed, which counts as installed."""

    def launch(**variables: str) -> None:
        launcher = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_MIXED_PRECISION": "no"}
        for name, value in {"WORLD_SIZE": "2", "RANK": "0", **launcher, **variables}.items():
            monkeypatch.setenv(name, value)

    monkeypatch.setattr(zero, "find_spec", lambda name: True)
    return launch


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "stage 3 is not supported.*fsdp_version: 2"),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "stage 0 is not supported.*--multi_gpu"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer_device cpu is not supported"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}, "offload_param_device nvme is not supported"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision bf16.*set no"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "gradient_clipping 1.0.*max_grad_norm"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "gradient_accumulation_steps 4.*set 1"),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "nowhere.json"}, "nowhere.json.*FileNotFoundError"),
    ],
)
def test_settings_that_are_not_supported_are_refused(launched, variables, said):
    launched(**variables)
    with pytest.raises(InputError, match=said):
        launch.start("auto")
    assert processes.size() == 1


@pytest.mark.parametrize(
    ("changes", "of_zero", "said"),
    [
        ({}, {"stage": 3}, "stage 3 is not supported.*fsdp_version: 2"),
        ({}, {"offload_optimizer": {"device": "cpu", "pin_memory": True}}, "zero_optimization.offload_optimizer.*cpu"),
        ({}, {"overlap_comm": True}, "zero_optimization.overlap_comm True is not supported"),
        ({}, {"reduce_scatter": False}, "zero_optimization.reduce_scatter is always on"),
        ({"bf16": {"enabled": True}}, {}, "DeepSpeed's bf16.*precision"),
        ({"fp16": {"enabled": True}}, {}, "DeepSpeed's fp16.*precision"),
        ({"optimizer": {"type": "AdamW"}}, {}, "DeepSpeed's optimizer"),
        ({"train_batch_size": 32}, {}, "train_batch_size 32.*auto"),
        ({"zero_optimization": None}, {}, "not JSON with a zero_optimization and its stage"),
    ],
)
def test_a_file_that_asks_for_more_is_refused(launched, tmp_path, changes, of_zero, said):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2, **of_zero}, **changes}))
    launched(ACCELERATE_DEEPSPEED_CONFIG_FILE=str(file))
    with pytest.raises(InputError, match=said):
        launch.start("auto")


def test_what_accelerate_and_its_manual_write_is_taken(launched, tmp_path):
    launched(
        ACCELERATE_DEEPSPEED_ZERO_STAGE="1",
        ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE="none",
        ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE="none",
        ACCELERATE_DEEPSPEED_ZERO3_INIT="false",
        ACCELERATE_GRADIENT_ACCUMULATION_STEPS="1",
    )
    assert zero.check() == zero.Settings(1)
    written = {
        "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "none"},
            "allgather_partitions": True,
            "allgather_bucket_size": 2e8,
            "overlap_comm": False,
            "reduce_scatter": True,
            "reduce_bucket_size": "auto",
            "contiguous_gradients": True,
        },
        "gradient_accumulation_steps": 1,
        "gradient_clipping": "auto",
        "steps_per_print": 2000,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "wall_clock_breakdown": False,
    }
    (tmp_path / "zero.json").write_text(json.dumps(written))
    launched(ACCELERATE_DEEPSPEED_CONFIG_FILE=str(tmp_path / "zero.json"))
    assert zero.check() == zero.Settings(2, allgather_bucket_size=200_000_000)


def test_where_deepspeed_is_missing_the_run_says_how_to_install_it(launched, monkeypatch):
    monkeypatch.setattr(zero, "find_spec", lambda name: None)
    launched()
    with pytest.raises(InputError, match=r"not installed; pip install 'alignment-bench\[deepspeed\]'"):
        launch.start("auto")


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_an_import_of_deepspeed_leaves_stdout_alone():
    """accelerate imports it as soon as a model is saved, and what it logs would stand before the output of --json."""
    script = "from alignment_bench.runtime.quiet import quiet; quiet(); import deepspeed; print('{}')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "{}\n"
