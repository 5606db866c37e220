"""Memory, time and dollars on GPUs that are not at hand, by hand from counts that are given."""

import json
from dataclasses import replace

import pytest

from alignment_bench.benchmarks.cost import reckoning
from alignment_bench.benchmarks.cost.model_sizes import configuration_of
from alignment_bench.benchmarks.cost.reckoning import Amounts, gpu_of, reckon
from alignment_bench.benchmarks.cost.step_cost import GIB, StepCost
from alignment_bench.errors import InputError
from alignment_bench.models.tuning import Tuning

TUNING, AMOUNTS = Tuning(micro_tokens=600), Amounts(100, 100, 100)
COST = StepCost(64 * GIB, 100 * GIB, 130 * GIB, 768, 10**15, 1000, 64 * GIB, 16 * GIB, 3 * GIB, 32 * GIB)


@pytest.mark.parametrize(
    ("devices", "kind", "whole", "expected"),
    [
        (1, "pairs", 32, 130),
        (4, "pairs", 32, 133 - 60),
        (8, "online", 32, 133 - 70),
        (8, "online", 34, 134 - 70),
        (4, "reward_model", 99, 133 - 60),
    ],
)
def test_bytes_on_each_device(devices, kind, whole, expected):
    """Of 64 GiB that belong to trained weights and 16 of frozen layers each holds a part. A pass takes 30, and 3 that
    it brings together; whole weights count where they take more, of what draws or scores."""
    assert replace(COST, whole=whole * GIB).on_each(devices, kind) == expected * GIB


@pytest.fixture
def counted(monkeypatch):
    """Every step costs `COST`, with checkpointing 20 GiB less and 1.5 times the work."""

    def cost(config, tuning, step):
        again = tuning.gradient_checkpointing
        work, peak = 10**15 * (3 if again else 2) // 2, (110 if again else 130) * GIB
        return replace(COST, peak=peak, flop=work, divided=0 if tuning.lora_rank else COST.divided)

    monkeypatch.setattr(reckoning, "step_cost", cost)
    monkeypatch.setattr(reckoning, "weights_of", lambda config: 10**9)


def test_passes_are_as_large_as_a_network_makes_them(counted, monkeypatch):
    """32 times the 7e11 operations of a start, at 2 a weight: 1,600 tokens of 7e9 weights, and 600 where one asks."""
    seen = []
    monkeypatch.setattr(reckoning, "weights_of", lambda config: 7 * 10**9)
    monkeypatch.setattr(reckoning, "step_cost", lambda config, tuning, step: seen.append(step.tokens) or COST)
    for micro_tokens in (8192, 600):
        reckon(None, replace(TUNING, micro_tokens=micro_tokens), AMOUNTS, gpu_of("h200"), 1)
    assert list(dict.fromkeys(seen)) == [1600, 600]


def test_time_and_dollars_by_hand(counted):
    """100 examples; a pass of 600 tokens has 2 pairs of 300 tokens, or 3 rows of 200. 126.9 of 141 GiB may be used, so
    110 GiB fit and 130 do not, and a pass is of 1.5e15 FLOP, at 0.4 x 989e12 a second."""
    found = {row.method: row for row in reckon(None, TUNING, AMOUNTS, gpu_of("h200"), 1, 3.0)}
    pass_of = 1.5e15 / (0.4 * 989e12)
    for row in found.values():
        assert row.fits and row.checkpointing and row.memory == 110 * GIB
    assert found["DPO"].hours * 3600 == pytest.approx(100 / 2 * pass_of)
    assert found["SFT"].hours * 3600 == pytest.approx(100 / 3 * pass_of)
    # 4 epochs; 100 responses of 100 tokens, 64 at once, read 1e9 weights of 2 bytes a token; each is read 3 times
    drawn = 100 * 100 / 64 * 2e9 / 4.8e12 + 3 * 2 * 1e9 * 100 * 200 / (0.4 * 989e12)
    assert found["PPO"].hours * 3600 == pytest.approx(4 * 100 / 3 * pass_of + drawn)
    assert found["DPO"].dollars == pytest.approx(3 * found["DPO"].hours)


def test_several_devices_share_weights_time_and_the_bill(counted):
    (alone, *_), (shared, *_) = (reckon(None, TUNING, AMOUNTS, gpu_of("h200"), n, 3.0) for n in (1, 4))
    assert shared.memory == (133 - 60) * GIB and not shared.checkpointing
    assert shared.hours == pytest.approx(alone.hours / 1.5 / 4) and shared.dollars == pytest.approx(alone.dollars / 1.5)
    adapters = reckon(None, replace(TUNING, lora_rank=8), AMOUNTS, gpu_of("h200"), 4)[0]
    assert adapters.memory == (133 - 12) * GIB and adapters.dollars is None


def test_a_step_of_little_work_takes_its_launches(counted, monkeypatch):
    small = StepCost(trained=1, resident=1, peak=1, tokens=1, flop=10, launches=1000)
    monkeypatch.setattr(reckoning, "step_cost", lambda *_: small)
    found = reckon(None, TUNING, AMOUNTS, gpu_of("a100"), 1)
    assert found[0].hours * 3600 == pytest.approx(100 / 3 * 1000 * 5e-6)


def test_a_gpu_that_is_too_small_is_told(counted):
    found = reckon(None, TUNING, AMOUNTS, gpu_of("h100"), 1)
    assert not any(row.fits for row in found)
    with pytest.raises(InputError, match="the GPU 'h1000' is not known; did you mean 'h100'"):
        gpu_of("h1000")
    with pytest.raises(InputError, match="--model 8B: .* the size is not known; known: 0.5B, 1.5B, 70B, 7B"):
        configuration_of("8B")


def test_the_command(bench, tmp_path, tiny, counted):
    command = ["plan", "--model", str(tiny.path), "--gpu", "h200", "--price", "3"]
    shown = bench(*command, cwd=tmp_path).stdout
    assert "on 1 x h200 (141 GiB)" in shown and "Reckoned, nothing was measured" in shown
    assert "LoRA, on 1 x h200" in shown and "QLoRA, on 1" in bench(*command, "--base-bits", "4", cwd=tmp_path).stdout
    refused = bench(*command, "--base-bits", "4", "--lora-rank", "0", cwd=tmp_path, code=2).stderr
    assert "--base-bits 4 is for a frozen base; give --lora-rank, or leave it out" in refused
    rows = json.loads(bench(*command, "--json", cwd=tmp_path).stdout)
    assert [row["method"] for row in rows] == ["SFT", "reward model", "DPO", "ORPO", "PPO"]
    assert configuration_of(str(tiny.path)).hidden_size == 32 and configuration_of("70b").hidden_size == 8192
