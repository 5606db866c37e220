"""Rounds of the methods without a critic against themselves written out with plain transformers and PyTorch."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from alignment_bench.methods.grouped import GroupedTrainer
from alignment_bench.methods.grpo import GRPO
from alignment_bench.methods.grpo_terms import DAPO, DrGRPO
from alignment_bench.methods.online_dpo import OnlineDPO
from alignment_bench.methods.rejection import RejectionSampling, RejectionTrainer
from alignment_bench.methods.rloo import RLOO
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import Sample
from alignment_bench.models.sampling import sample
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Prompt
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, *[11] * (i % 3))) for i in range(3)]
ROUNDS, PENALTY, TEMPERATURE = 3, 2.0, 0.7
COMMON = {
    "lr": 0.05,
    "warmup": 0.0,
    "max_grad_norm": 0.5,
    "adam_epsilon": 0.1,  # far above most gradients, so that a step says how large they were
    "temperature": TEMPERATURE,
    "missing_eos_penalty": PENALTY,
    "rollout_size": 12,
    "minibatch_size": 12,
}


def worth(place: int, length: int) -> float:
    """The training reward of a response of a round; those at places 2 and 3 are alike, the best to a prompt."""
    return 0.4 * (length % 4) + 7 * (place - (place == 3)) % 5 / 2


def reward(generations):
    return [worth(i, g.length) for i, g in enumerate(generations)]


# --- the doors of the trainers


def make_trainer(method, sft, tuning, out):
    out.mkdir()
    size = len(PROMPTS) * method.samples_per_prompt
    prompts = PromptDataset(PROMPTS, 6)
    task = TrainingTask(sft, PairDataset([], lambda: None), prompts, reward, Budget(size * ROUNDS), 0, out, tuning)
    kind = RejectionTrainer if isinstance(method, RejectionSampling) else GroupedTrainer
    return kind(dataclasses.replace(method, rollout_size=size), task, Policy.open(sft, tuning, trainable=True))


def draw(trainer, seed: int) -> list[Sample]:
    """A round's responses, as the trainer draws them."""
    prompts = [prompt for prompt in PROMPTS for _ in range(trainer.samples_per_prompt)]
    return sample(trainer.policy, prompts, max_new_tokens=6, seed=seed, temperature=TEMPERATURE)


def play(trainer, number: int, samples) -> dict[str, float]:
    """A whole round; what is logged of it."""
    return trainer.round(number, samples)


# --- the methods, written out: the loss of a round from log-probs of each response's tokens


def rloo(method, new, old, reference, rewards) -> Tensor:
    """Sums over a response; its reward less the KL penalty, less the mean of the others' to the same prompt."""
    returns = [r - method.beta * float((o - f).sum()) for r, o, f in zip(rewards, old, reference, strict=True)]
    k, losses = method.samples_per_prompt, []
    for i in range(len(new)):
        others = [returns[j] for j in range(i // k * k, i // k * k + k) if j != i]
        worths, ratio = returns[i] - sum(others) / len(others), (new[i] - old[i]).sum().exp()
        losses.append(-torch.minimum(ratio * worths, ratio.clamp(1 - method.clip, 1 + method.clip) * worths))
    return torch.stack(losses).mean()


def grpo(method, new, old, reference, rewards) -> Tensor:
    """Mean over a response's tokens of the surrogate and beta times k3 of the policy as it is, then over responses."""
    k, losses = method.samples_per_prompt, []
    for i in range(len(new)):
        group = torch.tensor(rewards[i // k * k : i // k * k + k])
        worths = (rewards[i] - group.mean()) / (group.std() + 1e-4)
        ratio = (new[i] - old[i]).exp()
        surrogate = torch.minimum(ratio * worths, ratio.clamp(1 - method.clip, 1 + method.clip) * worths)
        d = reference[i] - new[i]
        losses.append((method.beta * (d.exp() - d - 1) - surrogate).mean())
    return torch.stack(losses).mean()


def dapo(method, new, old, reference, rewards) -> Tensor:
    """GRPO's worths; of all tokens of the round alike, clipped at 0.95 and 1.3."""
    k, tokens = method.samples_per_prompt, []
    for i in range(len(new)):
        group = torch.tensor(rewards[i // k * k : i // k * k + k])
        worths = (rewards[i] - group.mean()) / (group.std() + 1e-4)
        ratio, d = (new[i] - old[i]).exp(), reference[i] - new[i]
        surrogate = torch.minimum(ratio * worths, ratio.clamp(0.95, 1.3) * worths)
        tokens.append(method.beta * (d.exp() - d - 1) - surrogate)
    return torch.cat(tokens).mean()


def dr_grpo(method, new, old, reference, rewards) -> Tensor:
    """Rewards less their group's mean; sums divided by the longest response that there can be, 6 tokens."""
    k, losses = method.samples_per_prompt, []
    for i in range(len(new)):
        worths = rewards[i] - sum(rewards[i // k * k : i // k * k + k]) / k
        ratio, d = (new[i] - old[i]).exp(), reference[i] - new[i]
        surrogate = torch.minimum(ratio * worths, ratio.clamp(1 - method.clip, 1 + method.clip) * worths)
        losses.append((method.beta * (d.exp() - d - 1) - surrogate).sum() / 6)
    return torch.stack(losses).mean()


def online_dpo(method, new, old, reference, rewards) -> Tensor:
    """DPO's loss of the better of two; a tie is worth 0, and counts in the mean."""
    gains = [(n - f).sum() for n, f in zip(new, reference, strict=True)]
    total = torch.zeros(())
    for i in range(0, len(new), 2):
        if rewards[i] != rewards[i + 1]:
            sign = 1 if rewards[i] > rewards[i + 1] else -1
            total = total - torch.sigmoid(method.beta * sign * (gains[i] - gains[i + 1])).log()
    return total / (len(new) // 2)


def rejection(method, new, old, reference, rewards) -> Tensor:
    """NLL a token of the first of the best responses to each prompt."""
    k = method.samples_per_prompt
    best = [max(range(i, i + k), key=lambda j: (rewards[j], -j)) for i in range(0, len(new), k)]
    return -torch.cat([new[i] for i in best]).mean()


RELATIVES = {
    "dr_grpo": (DrGRPO(epochs=3, beta=0.3, clip=0.1, **COMMON), dr_grpo),
    "dapo": (DAPO(epochs=3, beta=0.3, clip=0.05, clip_high=0.3, **COMMON), dapo),
}
CASES = {
    "rloo": (RLOO(epochs=3, beta=0.3, clip=0.1, **COMMON), rloo),
    "grpo": (GRPO(epochs=3, beta=0.3, clip=0.1, **COMMON), grpo),
    "online_dpo": (OnlineDPO(epochs=3, beta=0.4, **COMMON), online_dpo),
    "rejection": (RejectionSampling(**COMMON), rejection),
}


@pytest.mark.parametrize(
    ("name", "cut", "micro_tokens"),
    [*((n, c, m) for n in CASES for c, m in ((0, 8192), (1, 20))), *((n, 1, 20) for n in RELATIVES)],
)
def test_two_rounds_are_those_of_the_method_written_out(tiny, tmp_path, plain, name, cut, micro_tokens):
    """At temperature 0.7: what is logged, and the weights after each round; first at the SFT checkpoint, then away."""
    method, loss = (CASES | RELATIVES)[name]
    tuning = Tuning(precision="fp32", device="cpu", micro_tokens=micro_tokens)
    trainer = make_trainer(method, tiny, tuning, tmp_path / "t")
    policy, sft = (AutoModelForCausalLM.from_pretrained(tiny.path).eval() for _ in range(2))
    epochs = getattr(method, "epochs", 1)
    learner = plain.Learner(
        ([*policy.parameters()], method.lr), total=epochs * ROUNDS, epsilon=0.1, max_norm=method.max_grad_norm
    )
    scale = None
    for number in range(2):
        samples = draw(trainer, seed=number)
        samples = plain.ended(samples) if cut else samples

        def logps(model, samples=samples):
            return [plain.logps(model, s.prompt.ids, s.ids, TEMPERATURE) for s in samples]

        with torch.no_grad():
            old, reference = logps(policy), logps(sft)
        raw = [worth(i, len(s.ids)) for i, s in enumerate(samples)]
        mean = sum(raw) / len(raw)
        scale = scale or (mean, math.sqrt(sum((x - mean) ** 2 for x in raw) / len(raw)))
        rewards = [
            (x - scale[0]) / scale[1] - (0 if s.finished else PENALTY) for x, s in zip(raw, samples, strict=True)
        ]
        before = copy.deepcopy([*policy.parameters()])
        logged = play(trainer, number, samples)
        seen = [learner.step(loss(method, logps(policy), old, reference, rewards)) for _ in range(epochs)]
        assert logged["loss"] == pytest.approx(sum(seen) / epochs, rel=2e-3, abs=1e-4)
        assert logged["reward"] == pytest.approx(mean)
        if name != "rejection":
            kl = sum(float((o - f).sum()) for o, f in zip(old, reference, strict=True)) / len(samples)
            assert logged["kl_estimate"] == pytest.approx(kl, rel=1e-3, abs=1e-3)
            assert logged["entropy"] == pytest.approx(-float(torch.cat(old).mean()), rel=1e-3)
            assert abs(kl) > 0.05 or number == 0
        if name in ("rloo", "grpo", *RELATIVES):
            assert 0.1 < logged["clip_fraction"] < 1
        plain.same_moves(before, trainer.policy.network.parameters, [*policy.parameters()])


@pytest.mark.parametrize("name", CASES)
def test_trainings_draw_with_the_temperature_that_they_learn_with(tiny, full, tmp_path, name):
    """At a temperature near 0 the likeliest token is drawn: all responses to a prompt are the same and what is logged
    as entropy is near 0."""
    method = dataclasses.replace(CASES[name][0], temperature=1e-3, lr=1e-30)
    texts = {}

    def keep(generations):
        for g in generations:
            texts.setdefault(g.prompt_id, set()).add(g.response)
        return reward(generations)

    task = TrainingTask(
        tiny, PairDataset([], lambda: None), PromptDataset(PROMPTS, 6), keep, Budget(12), 0, tmp_path, full
    )
    method.train(task)
    assert [len(found) for found in texts.values()] == [1, 1, 1]
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert log[0].get("entropy", 0.0) == pytest.approx(0.0, abs=1e-2)
