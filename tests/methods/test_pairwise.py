"""The offline loop: DPO and ORPO learn, see the same order, cut batches without effect, and stop at their budget."""

import dataclasses
import json
import random
from types import SimpleNamespace

import pytest
import torch

from alignment_bench.errors import TrainingError
from alignment_bench.methods.best_of_n import BestOfN
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.kto import KTO, mismatched_log_ratio
from alignment_bench.methods.orpo import ORPO
from alignment_bench.methods.pairwise import PairLogps
from alignment_bench.methods.rloo import RLOO
from alignment_bench.methods.sft_chosen import SFTChosen
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.layout import Batch
from alignment_bench.models.policy import Policy, TokenValues
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Pair, Prompt, RatedReply
from alignment_bench.results.store import folder_digest
from alignment_bench.training.ledger import Ledger
from alignment_bench.training.loop import Optimizer
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask, shuffled

SIDES = ("chosen", "rejected")
ONE = [Batch([], 0, None)]  # of a step whose loss needs no pass


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


def logps_of(method, policy, pairs):
    """The inputs of a method's loss on some pairs, without a reference."""
    objective = method.objective(policy, SimpleNamespace(pairs=PairDataset(pairs, None)), None)
    first = range(len(pairs)) if objective.with_prompt else ()
    sequences = [(p.prompt.ids, getattr(p, side)) for side in SIDES for p in pairs]
    return objective.logps_of([*objective.examples], policy.logps(policy.network.lay_out(sequences, first)))


def rated(task):
    """The task's pairs as replies rated on their own."""
    replies = [
        RatedReply(f"{p.id}{s}", p.prompt, getattr(p, s), s == "chosen") for p in task.pairs.pairs for s in SIDES
    ]
    return dataclasses.replace(task, unpaired=replies)


def read_log(task):
    return [json.loads(line) for line in (task.out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "method",
    [
        DPO(lr=1e-2, batch_size=8),
        ORPO(lr=1e-2, batch_size=8, weight=1.0),
        KTO(lr=1e-2, batch_size=8, beta=0.5),
        KTO(lr=1e-2, batch_size=8, beta=0.5, data="unpaired"),
    ],
    ids=["dpo", "orpo", "kto", "kto-unpaired"],
)
def test_learns_to_prefer_the_chosen_over_three_seeds(tiny, tuning, tmp_path, method):
    before = folder_digest(tiny.path)
    for seed in range(3):
        task = rated(make_task(tiny, tuning, tmp_path / str(seed), examples=96, seed=seed))
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


def test_kto_is_the_same_on_pairs_and_on_the_same_replies_rated_alone(tiny, full, tmp_path):
    """One step on all couples, weights apart: the sum over replies does not ask who stands beside whom.

    The drift estimate takes other prompts, but it is 0 before the first step, for the policy is the reference.
    """
    logs = []
    for name, data in (("pairs", "pairs"), ("alone", "unpaired")):
        task = rated(make_task(tiny, full, tmp_path / name, examples=12))
        method = KTO(lr=1e-3, batch_size=12, desirable_weight=2.0, undesirable_weight=0.5, data=data)
        method.train(task)
        logs.append(read_log(task)[0])
    assert (logs[0]["drift"], logs[1]["drift"]) == pytest.approx((0.0, 0.0), abs=1e-4)  # log-probs of about -30
    assert logs[0]["loss"] == pytest.approx((2.0 + 0.5) / 4, rel=1e-5)  # sigmoid(0) = 1/2 for each kind
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-4)


def test_kto_counts_the_drift_of_replies_after_other_prompts(tiny, full):
    """Against the definition: each reply after the next couple's prompt, mean log-ratio, never below 0."""
    policy, reference = (Policy.open(tiny, full, trainable=t) for t in (True, False))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.network.parameters:
            weight.add_(0.02 * torch.randn_like(weight))
    pairs = make_pairs(3)
    replies = [RatedReply("", p.prompt, getattr(p, s), True) for p in pairs for s in SIDES]
    mismatched = [(pairs[(i + 1) % 3].prompt.ids, getattr(pairs[i], s)) for i in range(3) for s in SIDES]
    expected = float((policy.total_logps(mismatched) - reference.total_logps(mismatched)).mean())
    ledger = Ledger.of(policy.network, None)
    found = [float(mismatched_log_ratio(a, b, replies, ledger)) for a, b in ((policy, reference), (reference, policy))]
    assert found == pytest.approx([max(0.0, expected), max(0.0, -expected)], rel=1e-4, abs=1e-4)
    assert max(found) > 0.01


def test_orpo_from_the_base_starts_there(tiny, full, tmp_path, make_tiny):
    """A base of other weights: with a learning rate too small to move them, it is what is saved."""
    base = Checkpoint(make_tiny(tmp_path / "base", std=0.3), "base")
    task = make_task(tiny, full, tmp_path / "t")
    sequences = [(p.prompt.ids, p.chosen) for p in task.pairs.pairs]
    totals = [Policy.open(c, full, trainable=True).total_logps(sequences) for c in (base, tiny)]
    found = ORPO(lr=1e-30, start="base").train(dataclasses.replace(task, base=base))
    saved = Policy.open(found, full, trainable=True).total_logps(sequences)
    assert torch.allclose(saved, totals[0], atol=1e-4) and not torch.allclose(saved, totals[1], atol=1.0)
    with pytest.raises(TrainingError, match="orpo with start: base needs the base model"):
        ORPO(start="base").train(task)


def test_orpo_nll_over_the_prompt_as_well(tiny, full):
    """Token by token: log-probs of prompt tokens from the second on and of the response, divided by their number."""
    policy, pair = Policy.open(tiny, full, trainable=True), make_pairs()[3]
    with torch.no_grad():
        with_prompt = ORPO(weight=0.5, nll_scope="prompt+response")
        found = with_prompt.loss(logps_of(with_prompt, policy, [pair, make_pairs()[0]]))[0]
        plain = ORPO(weight=0.5).loss(logps_of(ORPO(), policy, [pair]))[0]
        ids = torch.tensor([[*pair.prompt.ids, *pair.chosen]])
        each = policy.network.model(input_ids=ids).logits[0].log_softmax(-1)[range(ids.shape[1] - 1), ids[0, 1:]]
    response = each[len(pair.prompt.ids) - 1 :]
    assert float(found) == pytest.approx(float(plain + response.mean() - each.mean()), rel=1e-5)
    assert abs(float(found - plain)) > 1e-3


def test_methods_say_what_a_task_lacks(tiny, full, tmp_path):
    task = dataclasses.replace(make_task(tiny, full, tmp_path / "t"), pairs=PairDataset([], lambda: ([], [])))
    for method in (DPO(), KTO(), SFTChosen()):
        with pytest.raises(TrainingError, match="learns from preference pairs and the benchmark has none"):
            method.train(task)
    with pytest.raises(TrainingError, match="kto with data: unpaired needs rated replies"):
        KTO(data="unpaired").train(task)
    with pytest.raises(TrainingError, match="RLOO learns from a reward model, and this task has none"):
        RLOO().train(task)


def test_best_of_n_leaves_the_sft_checkpoint_as_the_policy(tiny, full, tmp_path):
    task = make_task(tiny, full, tmp_path / "t")
    found = BestOfN(n=3).train(task)
    assert folder_digest(found.path) == folder_digest(tiny.path)
    cost = json.loads((task.out / "cost.json").read_text())
    assert cost["examples"] == cost["flops"] == 0 and BestOfN(n=3).responses_per_answer == 3


def test_dpo_starts_at_log_2_with_margin_0(tiny, tuning, tmp_path):
    task = make_task(tiny, tuning, tmp_path / "t")
    DPO(lr=1e-3, batch_size=8).train(task)
    first = read_log(task)[0]
    assert first["loss"] == pytest.approx(0.693147, rel=1e-4)
    assert first["margin"] == pytest.approx(0.0, abs=1e-3)  # of four log-probs of about -30


def test_a_loss_without_the_reference_that_it_uses_is_told_what_to_say():
    """As of a plugin that forgot `needs_reference`."""
    side = TokenValues(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    logps = PairLogps(side, side, None, None, None)
    for use in (lambda: logps.reference_chosen, lambda: logps.reference_rejected):
        with pytest.raises(TypeError, match="must say needs_reference = True"):
            use()


def test_micro_batches_leave_training_alone(tiny, tmp_path):
    logs = []
    for micro in (8192, 24):
        task = make_task(tiny, Tuning(precision="fp32", device="cpu", micro_tokens=micro), tmp_path / str(micro))
        DPO(lr=1e-3, batch_size=8).train(task)
        logs.append([row["loss"] for row in read_log(task)])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


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
    rng = random.Random(3)  # what Python's own shuffle does to a list, epoch after epoch
    for epoch in epochs:
        expected = list(range(5))
        rng.shuffle(expected)
        assert epoch == expected


def test_couples_of_unpaired_replies_are_neighbours_in_shuffled_order(tiny, full, tmp_path, monkeypatch):
    """Seven replies: three couples of the order that Python's shuffle gives, each with its own log-probs under SFT,
    which are computed here in chunks of two."""
    task = make_task(tiny, full, tmp_path / "t")
    replies = [RatedReply(f"r{i}", p.prompt, p.chosen, i % 2 == 0) for i, p in enumerate(task.pairs.pairs[:7])]
    task = dataclasses.replace(task, unpaired=replies, seed=5)
    frozen, ledger = Policy.open(tiny, full, trainable=False), Ledger(tmp_path, 1)
    monkeypatch.setattr("alignment_bench.results.lazy.CHUNK", 2)
    couples = KTO(data="unpaired").objective(frozen, task, ledger).examples
    listed = list(replies)
    random.Random(5).shuffle(listed)
    assert [c.replies for c in couples] == [tuple(listed[i : i + 2]) for i in (0, 2, 4)]
    for couple in couples:
        expected = frozen.total_logps([(r.prompt.ids, r.ids) for r in couple.replies])
        assert torch.allclose(torch.tensor(couple.reference), expected, atol=1e-5)
    assert ledger.scored_tokens == sum(len(r.prompt.ids) + len(r.ids) for r in replies)


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(tiny, full, tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+: loss .*rows r\d+"):
        DPO(lr=1e25, batch_size=4, max_grad_norm=1e9).train(make_task(tiny, full, tmp_path / "t"))


def test_weights_that_are_not_finite_after_the_last_step_fail_it_too(tiny, full, tmp_path):
    """One step of a learning rate beyond what fp32 holds: its loss was fine, and no later one tells."""
    with pytest.raises(TrainingError, match="the weights are not finite after the last step: lower the learning rate"):
        DPO(lr=1e39, batch_size=16).train(make_task(tiny, full, tmp_path / "t", examples=16))


def test_schedule_rises_then_falls_to_zero():
    """10 steps, warm-up 0.2: 1/2, 1, then 8 steps down from 8/8 to 1/8 of the peak."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = Optimizer(SimpleNamespace(is_of_all=False, parameters=[weight]), lr=1.0, total_steps=10, warmup=0.2)
    rates = []
    for _ in range(10):
        rates.append(optimizer.lr)
        optimizer.step(lambda: ONE, lambda batch: ((weight * 0.0).sum(), dict))
    assert rates == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_gradients_are_clipped_to_the_norm():
    """Loss 3a + 4b has gradient norm 5; with limit 1 plain AdamW sees (0.6, 0.8)."""
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = Optimizer(
        SimpleNamespace(is_of_all=False, parameters=[a, b]), lr=1e-3, total_steps=1, max_grad_norm=1.0
    )
    assert optimizer.step(lambda: ONE, lambda batch: ((3 * a + 4 * b).sum(), dict)).grad_norm == pytest.approx(5.0)
    assert (a.grad.item(), b.grad.item()) == pytest.approx((0.6, 0.8), rel=1e-5)
