"""PPO's rounds against a PPO written out here with plain transformers and PyTorch: rewards, advantages, updates."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment_bench.methods.ppo import PPO, Trainer
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import Sample
from alignment_bench.models.sampling import sample
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Prompt
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, *[11] * (i % 3))) for i in range(8)]
ROUNDS = 4
METHOD = PPO(
    rollout_size=8,
    minibatch_size=8,
    epochs=3,
    lr=0.05,
    critic_lr=0.1,
    warmup=0.0,
    max_grad_norm=0.5,
    adam_epsilon=0.1,  # far above most gradients, so that a step says how large they were
    beta=0.3,
    gamma=0.9,
    lam=0.6,
    temperature=0.7,
    missing_eos_penalty=2.0,
    clip=0.1,
    value_clip=0.05,
    critic_warmup=0,
)


def worth(prompt: str, length: int) -> float:
    """The training reward of a response."""
    return 0.4 * length + 0.3 * int(prompt[1:]) ** 1.5


def reward(generations):
    return [worth(g.prompt_id, g.length) for g in generations]


# --- the doors of the trainer, and the parts that are looked at


def make_task(sft, tuning, out, *, examples=8 * ROUNDS, seed=0, **more) -> TrainingTask:
    out.mkdir(exist_ok=True)
    pairs, prompts = PairDataset([], lambda: None), PromptDataset(PROMPTS, 6)
    return TrainingTask(sft, pairs, prompts, reward, Budget(examples), seed, out, tuning, **more)


def make_trainer(method, task) -> Trainer:
    policy, reference = (Policy.open(task.sft, task.tuning, trainable=trainable) for trainable in (True, False))
    return Trainer(method, task, policy, reference, method.open_critic(task) if method.needs_critic else None)


def draw(trainer, seed: int) -> list[Sample]:
    """A round's responses, as the trainer draws them."""
    how = {"max_new_tokens": 6, "temperature": trainer.method.temperature, "value_head": trainer.value_head}
    return sample(trainer.policy, PROMPTS, seed=seed, **how)


def play(trainer, number: int, samples) -> dict[str, float]:
    """A whole round; what is logged of it."""
    return trainer.round(number, samples)


def score(trainer, samples) -> SimpleNamespace:
    """The first half of a round: lists of returns and whitened advantages, a response each, and what is logged."""
    rollout = trainer.score(samples)
    lengths = rollout.mask.sum(1).tolist()
    assert lengths == [len(s.ids) for s in samples]
    returns, advantages = (
        [row[:n].tolist() for row, n in zip(part, lengths, strict=True)]
        for part in (rollout.returns, rollout.advantages)
    )
    return SimpleNamespace(returns=returns, advantages=advantages, signals=rollout.signals)


def learnt(trainer) -> list[Tensor]:
    """All weights that learn."""
    of_critic = trainer.critic.parameters if trainer.critic else [trainer.value_head.weight]
    return [*trainer.policy.network.parameters, *of_critic]


def weights_of(trainer) -> dict[str, Tensor]:
    """The policy's, by name."""
    return trainer.policy.network.model.state_dict()


# --- PPO, written out


@dataclass
class Row:
    """A response with what it is worth, a tensor [tokens] each."""

    sample: Sample
    old: Tensor
    kl: Tensor
    values: Tensor
    returns: Tensor
    advantages: Tensor


class PlainPPO:
    """One training; without a critic the head stands on the policy's trunk."""

    def __init__(self, method: PPO, plain, sft, critic=None, *, rounds=ROUNDS):
        self.method, self.plain, self.beta, self.scale = method, plain, method.beta, None
        self.policy, self.reference = (AutoModelForCausalLM.from_pretrained(sft.path).eval() for _ in range(2))
        self.trunk = critic or self.policy
        self.head = critic.score if critic else nn.Linear(32, 1, bias=False)
        if method.critic_start != "reward_model":
            nn.init.zeros_(self.head.weight)
        how = {
            "total": method.epochs * rounds,
            "epsilon": method.adam_epsilon,
            "max_norm": method.max_grad_norm,
        }
        own, of_critic = (
            ([*self.policy.parameters()], method.lr),
            ([*critic.parameters()] if critic else [self.head.weight], method.critic_lr),
        )
        groups = [[own], [of_critic]] if critic else [[own, of_critic]]
        self.learners = [plain.Learner(*group, **how) for group in groups]

    def parameters(self) -> list[Tensor]:
        return [p for learner in self.learners for group in learner.adam.param_groups for p in group["params"]]

    def logps(self, model, s: Sample) -> Tensor:
        return self.plain.logps(model, s.prompt.ids, s.ids, self.method.temperature)

    def values(self, s: Sample) -> Tensor:
        states = self.trunk.model(input_ids=torch.tensor([[*s.prompt.ids, *s.ids]])).last_hidden_state[0]
        found = self.head(states)[len(s.prompt.ids) - 1 : -1, 0]
        return (found - self.scale[0]) / self.scale[1] if self.method.critic_start == "reward_model" else found

    @torch.no_grad()
    def score(self, samples: Sequence[Sample]) -> list[Row]:
        m, rows = self.method, []
        raw = [worth(s.prompt.id, len(s.ids)) for s in samples]
        if self.scale is None:
            mean = sum(raw) / len(raw)
            self.scale = mean, (sum((x - mean) ** 2 for x in raw) / len(raw)) ** 0.5
        for s, x in zip(samples, raw, strict=True):
            old, reference, values = self.logps(self.policy, s), self.logps(self.reference, s), self.values(s)
            d = old - reference
            penalty = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[m.kl_estimator]
            rewards = (-self.beta * penalty).tolist()
            rewards[-1] += (x - self.scale[0]) / self.scale[1] - (0.0 if s.finished else m.missing_eos_penalty)
            ahead = [*values.tolist()[1:], 0.0]
            deltas = [r + m.gamma * v1 - v for r, v1, v in zip(rewards, ahead, values.tolist(), strict=True)]
            n = len(deltas)
            found = [sum((m.gamma * m.lam) ** (j - t) * deltas[j] for j in range(t, n)) for t in range(n)]
            rows.append(Row(s, old, d, values, torch.tensor(found) + values, torch.tensor(found)))
        every = torch.cat([row.advantages for row in rows]).double()
        mean, deviation = every.mean(), ((every - every.mean()) ** 2).mean().sqrt()
        for row in rows:
            row.advantages = ((row.advantages - mean) / deviation).float()
        return rows

    def update(self, rows: list[Row]) -> dict[str, float]:
        """All epochs, each one step on all tokens; the means over them of what is logged."""
        m, seen = self.method, []
        for _ in range(m.epochs):
            ratio = torch.cat([(self.logps(self.policy, row.sample) - row.old).exp() for row in rows])
            worths = torch.cat([row.advantages for row in rows])
            policy_loss = -torch.minimum(ratio * worths, ratio.clamp(1 - m.clip, 1 + m.clip) * worths).mean()
            values, old, returns = (
                torch.cat([self.values(row.sample) for row in rows]),
                torch.cat([row.values for row in rows]),
                torch.cat([row.returns for row in rows]),
            )
            near = torch.minimum(torch.maximum(values, old - m.value_clip), old + m.value_clip)
            value_loss = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
            numbers = {
                "ratio": ratio.mean(),
                "clip_fraction": ((ratio - 1).abs() > m.clip).float().mean(),
                "value_loss": value_loss,
                "value_clipped": ((values - old).abs() > m.value_clip).float().mean(),
            }
            shown = {name: number.item() for name, number in numbers.items()}
            if len(self.learners) == 1:
                shown["loss"] = self.learners[0].step(policy_loss + m.value_weight * value_loss)
            else:
                shown["loss"] = self.learners[0].step(policy_loss)
                self.learners[1].step(value_loss)
            seen.append(shown)
        return {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}


def signals_of(rows: list[Row]) -> dict[str, float]:
    """The signals of a round's log."""
    logps, values, returns = (torch.cat([getattr(r, n) for r in rows]) for n in ("old", "values", "returns"))
    return {
        "reward": sum(worth(r.sample.prompt.id, len(r.sample.ids)) for r in rows) / len(rows),
        "kl_estimate": sum(float(r.kl.sum()) for r in rows) / len(rows),
        "entropy": -float(logps.mean()),
        "explained_variance": 1 - float((returns - values).var() / returns.var()),
        "length": sum(len(r.sample.ids) for r in rows) / len(rows),
        "eos_rate": sum(r.sample.finished for r in rows) / len(rows),
    }


def flat(rows) -> list[float]:
    return [float(x) for row in rows for x in row]


@pytest.fixture
def two(tiny, tmp_path, plain):
    """two(method, micro_tokens=8192): a trainer and the PPO written out here, both at their start."""

    def start(method: PPO, micro_tokens: int = 8192):
        tuning = Tuning(precision="fp32", device="cpu", micro_tokens=micro_tokens)
        critic_from = tiny
        if method.critic_start == "reward_model":
            torch.manual_seed(1)
            made = open_network(tiny.path, "score", tuning, trainable=True, head_std=0.5)
            made.save(tmp_path / "rm", tiny.tokenizer())
            critic_from = Checkpoint(tmp_path / "rm", "rm")
        task = make_task(tiny, tuning, tmp_path / "t", reward_model=critic_from)
        critic = None
        if method.needs_critic:
            critic = AutoModelForSequenceClassification.from_pretrained(critic_from.path, num_labels=1).eval()
        return make_trainer(method, task), PlainPPO(method, plain, tiny, critic)

    return start


@pytest.mark.parametrize(
    ("critic", "kind", "cut", "micro_tokens"),
    [
        ("sft", "k1", True, 8192),
        ("sft", "k2", False, 8192),
        ("sft", "k3", True, 20),
        ("policy", "k1", False, 8192),
        ("policy", "k2", True, 20),
        ("reward_model", "k3", True, 8192),
    ],
)
def test_two_rounds_are_those_of_ppo_written_out(two, plain, critic, kind, cut, micro_tokens):
    """Returns, advantages, signals, the course of the updates and the weights, first at the SFT checkpoint, then away
    from it, with a minibatch in one pass or in several."""
    trainer, brute = two(dataclasses.replace(METHOD, critic_start=critic, kl_estimator=kind), micro_tokens)
    for number in range(2):
        samples = draw(trainer, seed=number)
        samples = plain.ended(samples) if cut else samples
        assert {s.finished for s in samples} == {True, False} or not cut
        rows, found = brute.score(samples), score(trainer, samples)
        assert flat(found.returns) == pytest.approx(flat(r.returns for r in rows), rel=1e-3, abs=2e-4)
        assert flat(found.advantages) == pytest.approx(flat(r.advantages for r in rows), rel=1e-3, abs=1e-3)
        expected = signals_of(rows)
        assert {name: found.signals[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert abs(expected["kl_estimate"]) > 0.05 or number == 0
        start = [p.detach().clone() for p in learnt(trainer)]
        logged, expected = play(trainer, number, samples), brute.update(rows)
        assert expected["clip_fraction"] > 0.1 and expected.pop("value_clipped") > 0.1  # both clips act
        assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=2e-3, abs=2e-3)
        plain.same_moves(start, learnt(trainer), brute.parameters())


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_penalties_a_token_are_beta_times_the_estimate(two, plain, kind):
    """With gamma = lambda = 1 a return is all reward to come: neighbours differ by the penalty of the token between,
    and the last is the score less the EOS's penalty and the token's own."""
    trainer, brute = two(dataclasses.replace(METHOD, kl_estimator=kind, gamma=1.0, lam=1.0))
    first = draw(trainer, seed=0)
    play(trainer, 0, first)
    mean = sum(worth(s.prompt.id, len(s.ids)) for s in first) / 8
    deviation = (sum((worth(s.prompt.id, len(s.ids)) - mean) ** 2 for s in first) / 8) ** 0.5
    brute.policy.load_state_dict(weights_of(trainer))
    samples = plain.ended(draw(trainer, seed=1))
    for s, returns in zip(samples, score(trainer, samples).returns, strict=True):
        with torch.no_grad():
            d = (brute.logps(brute.policy, s) - brute.logps(brute.reference, s)).tolist()
        estimates = [{"k1": x, "k2": x * x / 2, "k3": 2.718281828459045**-x - 1 + x}[kind] for x in d]
        final = (worth(s.prompt.id, len(s.ids)) - mean) / deviation - (0.0 if s.finished else 2.0)
        rewards = [a - b for a, b in zip(returns, [*returns[1:], 0.0], strict=True)]
        expected = [-0.3 * x for x in estimates]
        expected[-1] += final
        assert rewards == pytest.approx(expected, rel=1e-3, abs=5e-4)


def test_the_beta_of_one_round_acts_in_the_next_ones_rewards(two, plain):
    """Gain 2. Round 1 stands at KL 0, 100% below its target, cut at 20%: 0.3 becomes 0.3 * 0.6. Round 2 is far above:
    times 1.4. What a round logs is the beta of its own rewards."""
    method = dataclasses.replace(METHOD, target_kl=1e-3, kl_gain=2.0, gamma=1.0, lam=1.0)
    trainer, brute = two(method)
    logged = []
    for number, beta in enumerate((0.3, 0.3 * 0.6, 0.3 * 0.6 * 1.4)):
        samples = draw(trainer, seed=number)
        brute.beta = beta
        brute.policy.load_state_dict(weights_of(trainer))
        found = score(trainer, samples)
        assert flat(found.returns) == pytest.approx(flat(r.returns for r in brute.score(samples)), rel=1e-3, abs=5e-4)
        logged.append(play(trainer, number, samples))
        assert logged[-1]["beta"] == pytest.approx(beta, rel=1e-6)
    assert logged[0]["kl_estimate"] == pytest.approx(0.0, abs=1e-5) and logged[1]["kl_estimate"] > 1.2e-3


def test_the_reference_stays_the_sft_checkpoint_while_the_policy_leaves_it(tiny, tuning, tmp_path, monkeypatch, plain):
    """Over a whole training: every frozen policy that was opened still says what plain transformers read from the SFT
    checkpoint's folder says, the trained one does not, and the logged KL grows from 0."""
    opened = []
    former = Policy.open.__func__

    def open_and_keep(cls, checkpoint, tuning, *, trainable):
        opened.append((trainable, former(cls, checkpoint, tuning, trainable=trainable)))
        return opened[-1][1]

    monkeypatch.setattr(Policy, "open", classmethod(open_and_keep))
    monkeypatch.setattr(Policy, "save", lambda policy, folder: seen.update(looked(policy)))
    sft = AutoModelForCausalLM.from_pretrained(tiny.path).eval()
    rows, seen = [((0, 10), (20, 21, 1)), ((0, 12, 11), (50, 60))], {}
    with torch.no_grad():
        expected = [float(plain.logps(sft, *row).sum()) for row in rows]

    def looked(policy):
        """At the end of the training, while the policy's adapter is still there."""
        frozen = [p.total_logps(rows).tolist() for trainable, p in opened if not trainable]
        return {"frozen": frozen, "trained": policy.total_logps(rows).tolist()}

    lr = 3e-2 if tuning.lora_rank else 3e-3
    method = PPO(rollout_size=16, minibatch_size=16, lr=lr, beta=0.0, normalize_reward=False)
    task = make_task(tiny, tuning, tmp_path / "t", examples=16 * 6)
    method.train(task)
    assert len(seen["frozen"]) >= 1
    for found in seen["frozen"]:
        assert found == pytest.approx(expected, abs=1e-3)
    assert seen["trained"] != pytest.approx(expected, abs=0.1)
    kls = [json.loads(line)["kl_estimate"] for line in (task.out / "metrics.jsonl").read_text().splitlines()]
    assert kls[:2] == pytest.approx([0.0, 0.0], abs=1e-4)  # in the first round only the critic learns
    assert min(kls[-2:]) > 0.1
