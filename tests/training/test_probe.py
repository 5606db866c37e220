"""The signals of a training gone wrong: repetition by hand, and what the probe sees in a policy that moved."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment_bench.benchmarks.selfcheck.passes import counted
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.ppo import PPO
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import Sample
from alignment_bench.models.sampling import sample
from alignment_bench.results.records import Pair, Prompt
from alignment_bench.training.ledger import Ledger
from alignment_bench.training.probe import Probe, _logps_of_sft, repetition, response_signals
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11)) for i in range(8)]
PAIRS = [Pair(f"r{i}", p, chosen=(50, 51, 1), rejected=(60, 1)) for i, p in enumerate(PROMPTS)]
TRIAL = (3 + 3 + 2 + 2 + 1) + (6 + 3 + 5)  # tokens by which a network finds out whether it can pack: packed, padded
EVERYWHERE = {
    "chosen_displacement", "rejected_displacement", "implicit_margin", "implicit_accuracy",
    "kl", "entropy", "length", "eos_rate", "repetition", "grad_norm",
}  # fmt: skip


def make_task(sft, tuning, out, examples=32):
    out.mkdir(exist_ok=True)
    sides = tuple(
        Policy.open(sft, tuning, trainable=False).total_logps([(p.prompt.ids, getattr(p, side)) for p in PAIRS])
        for side in ("chosen", "rejected")
    )
    return TrainingTask(
        sft, PairDataset(PAIRS, lambda: sides), PromptDataset(PROMPTS, 6), lambda rows: [float(g.length) for g in rows],
        Budget(examples), 0, out, tuning,
    )  # fmt: skip


def test_repetition_by_hand():
    """abcabcabc has the 2-grams ab bc ca ab bc ca ab bc: 3 of 8 are new. Nothing repeats in one shorter than n."""
    assert repetition([1, 2, 3] * 3, n=2) == pytest.approx(5 / 8)
    assert repetition([1, 2, 3], n=4) == 0.0
    assert repetition([7] * 8, n=4) == pytest.approx(4 / 5)


def test_response_signals_by_hand():
    samples = [Sample(PROMPTS[0], (5, 5, 5, 5, 5), False), Sample(PROMPTS[0], (5, 6, 1), True)]
    assert response_signals(samples) == {"length": 4.0, "eos_rate": 0.5, "repetition": 0.25}


def test_the_probe_looks_four_times_and_measures_against_sft(tiny, full, tmp_path):
    policy = Policy.open(tiny, full, trainable=True)
    ledger = Ledger.of(policy.network, tmp_path)
    probe = Probe(make_task(tiny, full, tmp_path), policy, ledger, with_samples=True)
    first = probe(0.3)
    assert first["chosen_displacement"] == pytest.approx(0.0, abs=1e-4)  # of log-probs of about -30
    assert first["kl"] == pytest.approx(0.0, abs=1e-4) and first["entropy"] > 1.0
    assert probe(0.4) == {}
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.network.parameters:
            weight.add_(0.05 * torch.randn_like(weight))
    second = probe(1.0)
    before, after = (
        p.total_logps([(x.prompt.ids, x.chosen) for x in PAIRS])
        for p in (Policy.open(tiny, full, trainable=False), policy)
    )
    assert second["chosen_displacement"] == pytest.approx(float((after - before).mean()), rel=1e-4, abs=1e-4)
    difference = second["chosen_displacement"] - second["rejected_displacement"]
    assert second["implicit_margin"] == pytest.approx(difference, rel=1e-4, abs=1e-4)
    assert second["kl"] > 0.01
    assert probe(1.0) == {}
    assert ledger.looking_generated_tokens > 0 and ledger.looking_scored_tokens > 0 and ledger.looking_seconds > 0
    assert ledger.generated_tokens == ledger.scored_tokens == 0  # a user who only trains does not look


def test_the_probe_says_what_plain_transformers_say(tiny, full, tmp_path, plain):
    """All eight pairs and prompts, for there are no more; the samples are those of seed 0, the KL is over the whole
    vocabulary. Half of the pairs are turned round, so that the policy prefers some and not others."""
    pairs = [dataclasses.replace(p, chosen=p.rejected, rejected=p.chosen) if i % 2 else p for i, p in enumerate(PAIRS)]
    task = dataclasses.replace(make_task(tiny, full, tmp_path), pairs=PairDataset(pairs, lambda: None))
    policy = Policy.open(tiny, full, trainable=True)
    probe = Probe(task, policy, Ledger.of(policy.network, tmp_path), with_samples=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.network.parameters:
            weight.add_(0.05 * torch.randn_like(weight))
    sft, moved = (AutoModelForCausalLM.from_pretrained(tiny.path).eval() for _ in range(2))
    moved.load_state_dict(policy.network.model.state_dict())
    found = probe(0.25)
    with torch.no_grad():
        chosen, rejected = (
            [
                float((plain.logps(moved, prompt, ids) - plain.logps(sft, prompt, ids)).sum())
                for prompt, ids in ((p.prompt.ids, getattr(p, side)) for p in pairs)
            ]
            for side in ("chosen", "rejected")
        )
        samples = sample(policy, probe.prompts, max_new_tokens=6, seed=0)
        kls, entropies, lengths = [], [], [len(s.ids) for s in samples]
        for s in samples:
            ids, at = torch.tensor([[*s.prompt.ids, *s.ids]]), len(s.prompt.ids) - 1
            p, q = (model(input_ids=ids).logits[0, at:-1].log_softmax(-1) for model in (moved, sft))
            kls.append(float((p.exp() * (p - q)).sum()))
            entropies.append(-float(plain.logps(moved, s.prompt.ids, s.ids).sum()))
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    expected = {
        "chosen_displacement": sum(chosen) / 8,
        "rejected_displacement": sum(rejected) / 8,
        "implicit_margin": sum(margins) / 8,
        "implicit_accuracy": sum(m > 0 for m in margins) / 8,
        "kl": sum(kls) / 8,
        "entropy": sum(entropies) / sum(lengths),
        "length": sum(lengths) / 8,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert 0 < expected["implicit_accuracy"] < 1 and expected["implicit_accuracy"] != 0.5


def test_the_probe_looks_after_each_quarter(tiny, full, tmp_path):
    """16 steps: after the 4th, the 8th, the 12th and the last; 3 steps: after each; 1 step: once, at its end."""
    policy = Policy.open(tiny, full, trainable=True)
    for steps, expected in ((16, [4, 8, 12, 16]), (3, [1, 2, 3]), (1, [1])):
        probe = Probe(make_task(tiny, full, tmp_path), policy, Ledger.of(policy.network, tmp_path), with_samples=False)
        assert [n for n in range(1, steps + 1) if probe(n / steps)] == expected


def test_probes_of_one_start_share_it_and_go_through_no_text_twice(tiny, full, tmp_path):
    """The first probe sees 8 pairs under SFT, once for all that follow; then each looks at its own policy."""
    policy = Policy.open(tiny, full, trainable=True)
    with torch.no_grad():
        policy.network.parameters[0].mul_(1.1)
    assert policy.network.packs  # found out here, not while passes are counted
    _logps_of_sft.cache_clear()
    tokens = sum(2 * len(p.prompt.ids) + len(p.chosen) + len(p.rejected) for p in PAIRS)
    # in one pass, with each prompt once
    passing = sum(map(len, {p.prompt.ids for p in PAIRS})) + sum(len(p.chosen) + len(p.rejected) for p in PAIRS)
    task = make_task(tiny, full, tmp_path)
    with counted() as passes:
        probes = [Probe(task, policy, Ledger.of(policy.network, tmp_path), with_samples=True) for _ in range(3)]
        assert passes.scored == passing + TRIAL
        assert [probe.ledger.looking_scored_tokens for probe in probes] == [
            tokens
        ] * 3  # what a cell costs depends on no other
        assert probes[0].reference.network.packs
        again = passes.again
        probes[0](1.0)
    assert passes.again == again
    other = dataclasses.replace(task, sft=Checkpoint(tiny.path, "other"))
    with counted() as passes:
        Probe(other, policy, Ledger.of(policy.network, tmp_path), with_samples=True)
    assert passes.scored == passing + TRIAL


@pytest.mark.parametrize("method", [DPO(batch_size=8), PPO(rollout_size=8, minibatch_size=8)], ids=["dpo", "ppo"])
def test_offline_and_online_methods_log_the_same_signals(method, tiny, full, tmp_path):
    task = make_task(tiny, full, tmp_path)
    method.train(task)
    rows = [json.loads(line) for line in (task.out / "metrics.jsonl").read_text().splitlines()]
    # the KL of what was sampled for training is an estimate, and is called so
    assert rows[-1].keys() >= EVERYWHERE - {"kl"}
    assert len(rows[-1].keys() & {"kl", "kl_estimate"}) == 1
    assert sum("chosen_displacement" in row for row in rows) == 4
