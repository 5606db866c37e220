"""The offline methods' first steps against themselves written out with plain transformers and PyTorch."""

import copy
import json
import math
import random

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from alignment_bench.methods.alphapo import AlphaPO
from alignment_bench.methods.apo import APODown
from alignment_bench.methods.cdpo import CDPO
from alignment_bench.methods.cpo import CPO
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.dpo_terms import RPO, DPOPositive, Hinge, LengthNormalizedDPO, LengthRegularizedDPO
from alignment_bench.methods.ipo import IPO
from alignment_bench.methods.kto import KTO
from alignment_bench.methods.orpo import ORPO
from alignment_bench.methods.robust_dpo import RobustDPO
from alignment_bench.methods.sft_chosen import SFTChosen
from alignment_bench.methods.simpo import SimPO
from alignment_bench.methods.wpo import WPO
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Pair, Prompt, RatedReply
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

BATCH, STEPS, RISING, SEED = 4, 5, 2, 3
COMMON = {"lr": 2e-3, "batch_size": BATCH, "warmup": 0.3, "max_grad_norm": 0.7}
PROMPTS = [Prompt(f"p{i}", (), (0, 10 + i, *([11] * (i % 3)))) for i in range(7)]
PAIRS = [
    Pair(f"r{i}", p, (*range(50, 51 + i % 4), 1), (*range(60 + i, 61 + i + i % 3), 1)) for i, p in enumerate(PROMPTS)
]
REPLIES = [  # two good ones for each that is not
    RatedReply(f"r{i}{side}", p.prompt, getattr(p, side), (i + (side == "rejected")) % 3 != 0)
    for i, p in enumerate(PAIRS)
    for side in ("chosen", "rejected")
]


def make_task(sft, tuning, out) -> TrainingTask:
    """A budget that does not divide by the batch: what is left over is not drawn."""
    frozen = Policy.open(sft, tuning, trainable=False)

    def reference():
        return tuple(frozen.total_logps([(p.prompt.ids, getattr(p, s)) for p in PAIRS]) for s in ("chosen", "rejected"))

    budget = Budget(BATCH * STEPS + BATCH - 1)
    return TrainingTask(
        sft, PairDataset(PAIRS, reference), PromptDataset([], 8), None, budget, SEED, out, tuning, unpaired=REPLIES
    )


def order(rows: list) -> list[list]:
    """Batches of the rows in epoch after epoch, each as Python shuffles a list."""
    rng, drawn = random.Random(SEED), []
    while len(drawn) < BATCH * STEPS:
        epoch = list(range(len(rows)))
        rng.shuffle(epoch)
        drawn += [rows[i] for i in epoch]
    return [drawn[i * BATCH : (i + 1) * BATCH] for i in range(STEPS)]


def log_sigmoid(x: Tensor) -> Tensor:
    return -(1 + (-x).exp()).log()


def odds(mean: Tensor) -> Tensor:
    return (mean.exp() / (1 - mean.exp())).log()


# The loss of a pair from log-probs [tokens]: chosen and rejected under the policy, then under SFT.
CASES = {
    "dpo": (
        DPO(beta=0.3, label_smoothing=0.2, **COMMON),
        lambda c, r, fc, fr: (
            -0.8 * log_sigmoid(0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum()))
            - 0.2 * log_sigmoid(-0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum()))
        ),
    ),
    "cdpo": (
        CDPO(beta=0.3, **COMMON),
        lambda c, r, fc, fr: (
            -0.9 * log_sigmoid(0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum()))
            - 0.1 * log_sigmoid(-0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum()))
        ),
    ),
    "robust_dpo": (
        RobustDPO(beta=0.3, flip_rate=0.2, **COMMON),
        lambda c, r, fc, fr: (
            (
                -0.8 * log_sigmoid(0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum()))
                + 0.2 * log_sigmoid(-0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum()))
            )
            / 0.6
        ),
    ),
    "ipo-sum": (
        IPO(beta=0.4, length="sum", **COMMON),
        lambda c, r, fc, fr: (c.sum() - fc.sum() - r.sum() + fr.sum() - 1.25) ** 2,
    ),
    "ipo": (
        IPO(beta=0.4, **COMMON),
        lambda c, r, fc, fr: (c.mean() - fc.mean() - r.mean() + fr.mean() - 1.25) ** 2,
    ),
    "simpo": (
        SimPO(beta=1.5, gamma=0.6, weight_decay=0.5, **COMMON),
        lambda c, r, fc, fr: -log_sigmoid(1.5 * (c.mean() - r.mean()) - 0.6),
    ),
    "cpo": (
        CPO(beta=0.2, nll_weight=0.5, **COMMON),
        lambda c, r, fc, fr: -log_sigmoid(0.2 * (c.sum() - r.sum())) - 0.5 * c.mean(),
    ),
    "orpo": (
        ORPO(weight=0.7, **COMMON),
        lambda c, r, fc, fr: -c.mean() - 0.7 * log_sigmoid(odds(c.mean()) - odds(r.mean())),
    ),
    "sft_chosen": (
        SFTChosen(**COMMON),
        lambda c, r, fc, fr: -c.sum() / (sum(len(p.chosen) for p in PAIRS) / len(PAIRS)),
    ),
}
WITHOUT_REFERENCE = ("simpo", "alphapo", "cpo", "orpo", "sft_chosen")

# Those whose losses stand beside TRL's elsewhere, or are one term away from one here: cut into micro-batches alone.
RELATIVES = {
    "dpo_norm": (
        LengthNormalizedDPO(beta=3.0, **COMMON),
        lambda c, r, fc, fr: -log_sigmoid(3.0 * (c.mean() - fc.mean() - r.mean() + fr.mean())),
    ),
    "r_dpo": (
        LengthRegularizedDPO(beta=0.3, length_weight=0.2, **COMMON),
        lambda c, r, fc, fr: -log_sigmoid(0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum()) + 0.2 * (len(c) - len(r))),
    ),
    "dpop": (
        DPOPositive(beta=0.3, penalty=2.0, **COMMON),
        lambda c, r, fc, fr: (
            -log_sigmoid(0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum() - 2.0 * (fc.sum() - c.sum()).clamp(min=0)))
        ),
    ),
    "rpo": (
        RPO(beta=0.3, nll_weight=0.4, **COMMON),
        lambda c, r, fc, fr: -log_sigmoid(0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum())) - 0.4 * c.mean(),
    ),
    "alphapo": (
        AlphaPO(beta=1.5, gamma=0.6, alpha=0.2, **COMMON),
        lambda c, r, fc, fr: -log_sigmoid(1.5 * ((-0.2 * r.mean()).exp() - (-0.2 * c.mean()).exp()) / 0.2 - 0.6),
    ),
    "hinge": (
        Hinge(beta=0.3, **COMMON),
        lambda c, r, fc, fr: (1 - 0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum())).relu(),
    ),
    "apo_down": (
        APODown(beta=0.3, **COMMON),
        lambda c, r, fc, fr: (
            torch.sigmoid(0.3 * (c - fc).sum()) + torch.sigmoid(0.3 * ((r - fr).sum() - (c - fc).sum()))
        ),
    ),
}


class Both:
    """A training of the package's, read from disk when it is over, and the one written out beside it."""

    def __init__(self, method, sft, out, plain, micro_tokens):
        tuning = Tuning(precision="fp32", device="cpu", micro_tokens=micro_tokens)
        found = method.train(make_task(sft, tuning, out))
        self.log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        self.found = AutoModelForCausalLM.from_pretrained(found.path).eval()
        self.policy, self.sft = (AutoModelForCausalLM.from_pretrained(sft.path).eval() for _ in range(2))
        self.start, self.plain = copy.deepcopy([*self.sft.parameters()]), plain
        peak = ([*self.policy.parameters()], method.lr)
        how = {"max_norm": method.max_grad_norm, "decay": method.weight_decay}
        self.learner = plain.Learner(peak, total=STEPS, rising=RISING, **how)

    def logps(self, prompt, ids) -> tuple[Tensor, Tensor]:
        """Under the policy as it is, and under SFT."""
        with torch.no_grad():
            reference = self.plain.logps(self.sft, prompt, ids)
        return self.plain.logps(self.policy, prompt, ids), reference

    def end(self) -> None:
        assert len(self.log) == STEPS and self.log[-1]["examples"] == BATCH * STEPS
        peaks = [row["lr"] for row in self.log]
        assert peaks == pytest.approx([2e-3 * share for share in (1 / 2, 1, 1, 2 / 3, 1 / 3)])
        # Adam divides by the gradient's size, so a weight whose gradient is near 0 goes where rounding says
        with torch.no_grad():
            found, expected, start = (
                torch.cat([p.flatten() for p in parameters])
                for parameters in (self.found.parameters(), self.policy.parameters(), self.start)
            )
        assert float((found - expected).abs().mean()) < 1e-4 * float((expected - start).abs().max())


@pytest.mark.parametrize(
    ("name", "micro_tokens"), [*((name, m) for name in CASES for m in (8192, 20)), *((name, 20) for name in RELATIVES)]
)
def test_pairs_are_learnt_as_the_method_written_out_learns_them(tiny, tmp_path, plain, name, micro_tokens):
    """Loss, margin and its sign at each step, the rate, and the weights at the end."""
    method, loss = (CASES | RELATIVES)[name]
    both = Both(method, tiny, tmp_path, plain, micro_tokens)
    for batch, logged in zip(order(PAIRS), both.log, strict=True):
        sides = [[both.logps(p.prompt.ids, ids) for ids in (p.chosen, p.rejected)] for p in batch]
        each = [loss(c, r, fc, fr) for (c, fc), (r, fr) in sides]
        margins = [
            float((c.sum() - r.sum() - (0 if name in WITHOUT_REFERENCE else fc.sum() - fr.sum())).detach())
            for (c, fc), (r, fr) in sides
        ]
        chosen = sum(float(c.detach().sum()) for (c, _), _ in sides) / BATCH
        assert logged["chosen_logps"] == pytest.approx(chosen, rel=1e-3)
        if name != "sft_chosen":
            kind = "logp_" if name in WITHOUT_REFERENCE else ""
            assert logged[f"{kind}margin"] == pytest.approx(sum(margins) / BATCH, rel=1e-3, abs=1e-3)
            assert logged[f"{kind}accuracy"] == sum(m > 0 for m in margins) / BATCH or min(map(abs, margins)) < 1e-4
        found = both.learner.step(torch.stack(each).mean())
        assert logged["loss"] == pytest.approx(found, rel=1e-3, abs=1e-5)
    both.end()


@pytest.mark.parametrize("data", ["pairs", "unpaired"])
def test_kto_is_learnt_as_written_out(tiny, tmp_path, plain, data):
    """Weights that differ, more good replies than others, and a drift above 0 from the second step on: the mean
    log-ratio, over a batch, of each reply after the prompt at the same place of the next couple."""
    method = KTO(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, data=data, **COMMON)
    both = Both(method, tiny, tmp_path, plain, 8192)
    couples = [
        (RatedReply(p.id, p.prompt, p.chosen, True), RatedReply(p.id, p.prompt, p.rejected, False)) for p in PAIRS
    ]
    if data == "unpaired":
        listed = list(REPLIES)
        random.Random(SEED).shuffle(listed)
        couples = [(listed[i], listed[i + 1]) for i in range(0, len(listed), 2)]
    drifts = []
    for batch, logged in zip(order(couples), both.log, strict=True):
        with torch.no_grad():
            ratios = [
                float((x - y).sum())
                for couple, after in zip(batch, [*batch[1:], batch[0]], strict=True)
                for reply, other in zip(couple, after, strict=True)
                for x, y in (both.logps(other.prompt.ids, reply.ids),)
            ]
        drifts.append(max(0.0, sum(ratios) / len(ratios)))
        assert logged["drift"] == pytest.approx(drifts[-1], rel=1e-3, abs=1e-4)
        each = []
        for reply in (r for couple in batch for r in couple):
            ours, theirs = both.logps(reply.prompt.ids, reply.ids)
            gain = 0.3 * ((ours - theirs).sum() - drifts[-1])
            each.append(1.5 * (1 - torch.sigmoid(gain)) if reply.good else 0.5 * (1 - torch.sigmoid(-gain)))
        assert logged["loss"] == pytest.approx(both.learner.step(torch.stack(each).mean()), rel=1e-3)
    assert max(drifts) > 0.01 and not math.isclose(sum(r.good for r in REPLIES), len(REPLIES) / 2)
    both.end()


def test_wpo_weighs_pairs_as_written_out(tiny, tmp_path, plain):
    """Each side's weight is the geometric mean of p(token) / sum of p^2 over the vocabulary, without gradient."""
    both = Both(WPO(beta=0.3, **COMMON), tiny, tmp_path, plain, 20)

    def weight(prompt, ids):
        with torch.no_grad():
            table = both.policy(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].softmax(-1)
        ratios = [table[len(prompt) - 1 + i, id] / (table[len(prompt) - 1 + i] ** 2).sum() for i, id in enumerate(ids)]
        return math.prod(map(float, ratios)) ** (1 / len(ids))

    seen = []
    for batch, logged in zip(order(PAIRS), both.log, strict=True):
        each = []
        for p in batch:
            (c, fc), (r, fr) = (both.logps(p.prompt.ids, ids) for ids in (p.chosen, p.rejected))
            seen.append(weight(p.prompt.ids, p.chosen) * weight(p.prompt.ids, p.rejected))
            each.append(-seen[-1] * log_sigmoid(0.3 * (c.sum() - fc.sum() - r.sum() + fr.sum())))
        assert logged["weight"] == pytest.approx(sum(seen[-BATCH:]) / BATCH, rel=1e-3)
        assert logged["loss"] == pytest.approx(both.learner.step(torch.stack(each).mean()), rel=1e-3, abs=1e-5)
    assert max(seen) > 2 * min(seen)
    both.end()
