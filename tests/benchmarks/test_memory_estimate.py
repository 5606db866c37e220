"""The memory that a dry run says: the count of `memory_at_size`, and a word in time where a GPU is too small."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment_bench.benchmarks import estimate, harness
from alignment_bench.benchmarks.cost import rough
from alignment_bench.benchmarks.cost.model_sizes import configuration
from alignment_bench.benchmarks.cost.pace import Pace
from alignment_bench.benchmarks.cost.rough import MIB, Rough
from alignment_bench.benchmarks.cost.step_cost import GIB, StepCost
from alignment_bench.benchmarks.estimate import Estimates
from alignment_bench.benchmarks.selfcheck.memory_at_size import count
from alignment_bench.benchmarks.stages.steps import Step
from alignment_bench.errors import InputError
from alignment_bench.methods.dpo import DPO
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Pair, Prompt
from alignment_bench.results.store import NotMade
from alignment_bench.runtime import processes


@pytest.mark.parametrize(("free", "again"), [(80, False), (24, True)])
def test_a_dry_run_says_what_is_counted(tmp_path, monkeypatch, free, again):
    """`ultrafeedback` as it is shipped, where 80 GiB are free and where 24 are."""
    configuration("0.5B").save_pretrained(tmp_path)
    monkeypatch.setattr(rough, "free_on", lambda device: free * GIB)
    tuning = Tuning(lora_rank=32, lora_alpha=64, precision="bf16", device="cuda", micro_tokens=16384)
    pair = Pair("a", Prompt("p", (), (0,) * 256), (1,) * 256, (2,) * 256)
    found = Rough(Checkpoint(tmp_path, "k"), tuning, [pair], tuning.micro_tokens)
    found.pace = found.pace_of_cells = Pace(trained=1e-3, read=1e-4, sampled=1e-2, opened=2.0)
    found = found.training(DPO(batch_size=32), 8000)
    assert found.memory_mb * MIB == count("0.5B", "LoRA", "DPO", again=again).peak


@pytest.fixture
def told(monkeypatch):
    """told(bytes of the GPU): what is said of a step that holds 100 throughout, 64 of them trained, and 150 at most."""

    def told(total, size=1, there=(), **how):
        monkeypatch.setattr(estimate, "total_on", lambda device: total)
        monkeypatch.setattr(processes, "_SIZE", size)
        for name, value in how.items():
            monkeypatch.setenv(name, value)
        estimates = object.__new__(Estimates)
        estimates.pipeline = SimpleNamespace(shop=SimpleNamespace(tuning=SimpleNamespace(device="cuda:1")))
        cost = StepCost(64 * GIB, 100 * GIB, 150 * GIB, 1, 1, 1, divided=60 * GIB, frozen=20 * GIB, gathered=3 * GIB)
        monkeypatch.setattr(Estimates, "step_cost", lambda self, step: cost if step.trains else None)
        steps = [Step("SFT", "sft", None, trains=True), Step("length", "scores", None)]
        return estimates.memory_warnings(steps, lambda: there)

    return told


def test_a_gpu_that_holds_all_needs_no_word(told):
    assert told(None) == told(150 * GIB) == []


def test_a_gpu_that_is_too_small_for_the_pass_is_told_of(told):
    (said,) = told(149 * GIB)
    assert said.startswith("SFT may take 150.0 GiB at its peak, and cuda:1 has 149.0 GiB: set tuning.gradient_check")


def test_a_gpu_that_is_too_small_for_what_is_held_is_refused(told):
    with pytest.raises(InputError, match=r"SFT holds 100.0 GiB of weights, gradients .* cuda:1 has 99.0 GiB: train"):
        told(99 * GIB)


def test_what_is_on_disk_needs_no_gpu(told):
    """A training that another machine made; looked up only where it would be told of."""
    assert told(149 * GIB, there=[("", None, "SFT")]) == told(99 * GIB, there=[("", None, "SFT")]) == []
    assert told(150 * GIB, there=None) == []  # which cannot be looked into


def test_trainings_are_looked_up_in_their_order(monkeypatch):
    """What needs a stage that is missing cannot be told, and what does not train is not asked for."""
    sft, scorer = ("", None, "SFT"), ("", None, "scorer")

    def missing(made):
        raise NotMade("scorer", Path("x"))

    found = [
        Step("SFT", "sft", lambda made: None, trains=True),
        Step("scorer", "reward_model", missing, (sft,), trains=True),
        Step("dpo", "train", lambda made: made[sft], (sft,), trains=True),
        Step("ppo", "train", pytest.fail, (sft, scorer), trains=True),
        Step("length", "scores", pytest.fail, (sft,)),
    ]
    monkeypatch.setattr(harness, "steps", lambda pipeline, rows, seeds: found)
    asked = object.__new__(harness.Harness)
    asked.pipeline, asked.rows, asked.seeds = SimpleNamespace(looking=lambda: None), [], []
    assert [name for *_, name in asked._trained()] == ["SFT", "dpo"]


@pytest.mark.parametrize(
    ("how", "held"),
    [
        (["ACCELERATE_USE_FSDP"], 20 + 80 // 4),
        (["ACCELERATE_USE_FSDP", "FSDP_RESHARD_AFTER_FORWARD"], 40 + 60 // 4),
        (["ACCELERATE_USE_DEEPSPEED"], 52 + 48 // 4),
    ],
)
def test_what_is_divided_among_four_counts_a_quarter(told, how, held):
    """FSDP divides 60 of what is trained, and 20 of frozen layers, which stay whole where all layers shall stay; ZeRO
    three of four parts of 64, for the weights stay whole."""
    given = {name: "false" if "RESHARD" in name else "true" for name in how}
    peak = held + 50 + (3 if "ACCELERATE_USE_FSDP" in how else 0)
    assert f"SFT may take {peak}.0 GiB at its peak" in told((held + 0.1) * GIB, 4, **given)[0]
    with pytest.raises(InputError, match=f"holds {held}.0 GiB"):
        told((held - 0.1) * GIB, 4, **given)
