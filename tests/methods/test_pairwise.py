"""The offline loop: DPO and ORPO learn, see the same order, cut batches without effect, and stop at their budget."""

import json

import pytest
import torch

from alignment_bench.methods.base import (
    Budget,
    Pair,
    PairDataset,
    Prompt,
    PromptDataset,
    TrainingError,
    TrainingTask,
    shuffled,
)
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.loop import Optimizer
from alignment_bench.methods.orpo import ORPO
from alignment_bench.methods.policy import Policy
from alignment_bench.results.checkpoint import Checkpoint, Tuning
from alignment_bench.results.store import folder_digest


def make_pairs(count=12):
    """Chosen replies are of one byte, rejected ones of another; prompts and lengths differ."""
    prompts = [Prompt(f"p{i}", (), (0, 10 + i, *([11] * (i % 4)))) for i in range(count)]
    return [Pair(f"r{i}", p, (*[50] * (1 + i % 5), 1), (*[60] * (1 + i % 3), 1)) for i, p in enumerate(prompts)]


def make_task(sft, tuning, out, *, examples=48, seed=0):
    out.mkdir()
    pairs = make_pairs()
    frozen = Policy.open(sft, tuning, trainable=False)

    def reference():
        return tuple(frozen.total_logps([(p.prompt.ids, getattr(p, s)) for p in pairs]) for s in ("chosen", "rejected"))

    return TrainingTask(
        sft, PairDataset(pairs, reference), PromptDataset([], 8), None, Budget(examples), seed, out, tuning
    )


def read_log(task):
    return [json.loads(line) for line in (task.out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", [DPO(lr=1e-2, batch_size=8), ORPO(lr=1e-2, batch_size=8, weight=1.0)])
def test_learns_to_prefer_the_chosen_over_three_seeds(tiny, tuning, tmp_path, method):
    before = folder_digest(tiny.path)
    for seed in range(3):
        task = make_task(tiny, tuning, tmp_path / str(seed), examples=96, seed=seed)
        found = method.train(task)
        log = read_log(task)
        assert len(log) == 12 and log[-1]["examples"] == 96
        policy = Policy.open(Checkpoint(found.path, ""), tuning, trainable=True)
        chosen, rejected = (
            policy.total_logps([(p.prompt.ids, getattr(p, s)) for p in task.pairs.pairs])
            for s in ("chosen", "rejected")
        )
        reference = task.pairs.reference()
        gained = (chosen - reference[0]) - (rejected - reference[1])
        assert (gained > 1.0).all()  # every pair's margin grew by more than a nat
        policy.network.close()
    assert folder_digest(tiny.path) == before


def test_dpo_starts_at_log_2_with_margin_0(tiny, tuning, tmp_path):
    task = make_task(tiny, tuning, tmp_path / "t")
    DPO(lr=1e-3, batch_size=8).train(task)
    first = read_log(task)[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["margin"] == pytest.approx(0.0, abs=1e-4)


def test_micro_batches_leave_training_alone(tiny, tmp_path):
    logs = []
    for micro in (8192, 24):
        task = make_task(tiny, Tuning(precision="fp32", device="cpu", micro_tokens=micro), tmp_path / str(micro))
        DPO(lr=1e-3, batch_size=8).train(task)
        logs.append([row["loss"] for row in read_log(task)])
    assert logs[0] == pytest.approx(logs[1], abs=1e-4)


def test_same_seed_same_weights_and_the_same_order_for_all(tiny, full, tmp_path):
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        task = make_task(tiny, full, tmp_path / name, seed=seed)
        DPO(lr=1e-3, batch_size=8).train(task)
        digests.append(folder_digest(task.out / "policy"))
    assert digests[0] == digests[1] != digests[2]


def test_shuffled_is_a_fresh_permutation_each_epoch():
    order = shuffled(5, seed=3)
    epochs = [[next(order) for _ in range(5)] for _ in range(3)]
    assert all(sorted(e) == [0, 1, 2, 3, 4] for e in epochs) and epochs[0] != epochs[1]


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(tiny, full, tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+: loss .*rows r\d+"):
        DPO(lr=1e25, batch_size=4, max_grad_norm=1e9).train(make_task(tiny, full, tmp_path / "t"))


def test_schedule_rises_then_falls_to_zero():
    """10 steps, warm-up 0.2: 1/2, 1, then 8 steps down from 8/8 to 1/8 of the peak."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = Optimizer([weight], lr=1.0, total_steps=10, warmup=0.2)
    rates = []
    for _ in range(10):
        rates.append(optimizer.lr)
        optimizer.step([(weight * 0.0).sum()])
    assert rates == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_gradients_are_clipped_to_the_norm():
    """Loss 3a + 4b has gradient norm 5; with limit 1 plain AdamW sees (0.6, 0.8)."""
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([a, b], lr=1e-3, total_steps=1, max_grad_norm=1.0)
    assert optimizer.step([(3 * a + 4 * b).sum()])["grad_norm"] == pytest.approx(5.0)
    assert (a.grad.item(), b.grad.item()) == pytest.approx((0.6, 0.8), abs=1e-5)
