"""PPO: reinforcement learning from a reward model, Ouyang et al. (2022, arXiv:2203.02155).

Schulman et al. (2017, arXiv:1707.06347) with the KL penalty in the reward, Ziegler et al. (2019, arXiv:1909.08593),
eq. 2. One round: sample responses; score each at its end; subtract beta (log pi - log pi_SFT) at every token;
estimate advantages with the critic's values; then several epochs of clipped updates of policy and critic.
"""

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from tqdm import tqdm

from ..results.checkpoint import Checkpoint, Network, open_network, pad
from . import losses
from .base import Ledger, TrainingError, TrainingTask, shuffled
from .loop import Optimizer
from .policy import Policy, Sequences, TokenValues, response_states
from .rollout import Sample, sample, to_generations


@dataclass(frozen=True)
class Rollout:
    """A batch of sampled responses with all that an update needs; tensors [batch, time], mask true on real tokens."""

    sequences: list[tuple[tuple[int, ...], tuple[int, ...]]]
    old_logps: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Full RLHF: samples from the policy, the reward model's score at the end, KL to the SFT checkpoint, a critic."""

    lr: Annotated[float, Gt(0)] = 1e-5
    """Peak learning rate of the policy, above 0; falls linearly to 0."""
    critic_lr: Annotated[float, Gt(0)] = 2e-5
    """Peak learning rate of the critic, above 0."""
    beta: Annotated[float, Ge(0)] = 0.05
    """Weight of the per-token KL penalty, in rewards per nat, at least 0; rewards have standard deviation 1."""
    rollout_size: Annotated[int, Gt(0)] = 64
    """Responses sampled per round."""
    minibatch_size: Annotated[int, Gt(0)] = 16
    """Responses per optimizer step."""
    epochs: Annotated[int, Gt(0)] = 4
    """Passes over each round's responses."""
    clip: Annotated[float, Gt(0), Le(1)] = 0.2
    """Range of the probability ratio, 1 - clip to 1 + clip."""
    value_clip: Annotated[float, Gt(0)] = 0.2
    """How far a value may move in one round before its error is clipped, in units of reward."""
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    """Discount a token."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """GAE's lambda: 1 is unbiased and noisy, 0 trusts the critic."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Sampling temperature; divides the logits of policy and reference in training as well."""
    missing_eos_penalty: Annotated[float, Ge(0)] = 1.0
    """Subtracted from the (normalized) reward of a response that did not end by itself."""
    critic_warmup: Annotated[int, Ge(0)] = 1
    """First rounds in which only the critic learns, for its head starts at 0."""
    warmup: Annotated[float, Ge(0), Le(1)] = 0.05
    """Share of the steps over which the learning rates rise."""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """Gradients are scaled down to this norm, policy and critic apart."""

    needs_reward: ClassVar[bool] = True

    def train(self, task: TrainingTask) -> Checkpoint:
        policy = Policy.open(task.sft, task.tuning, trainable=True)
        reference = Policy.open(task.sft, task.tuning, trainable=False)
        critic = open_network(task.sft.path, "score", task.tuning, trainable=True, head_std=0.0)
        try:
            Trainer(self, task, policy, reference, critic).run()
            policy.save(task.out / "policy")
        finally:
            policy.network.close()
            critic.close()
        return Checkpoint(task.out / "policy", key="")


class Trainer:
    """One PPO training in progress."""

    def __init__(self, method: PPO, task: TrainingTask, policy: Policy, reference: Policy, critic: Network):
        self.method, self.task, self.policy, self.reference, self.critic = method, task, policy, reference, critic
        self.size = min(method.rollout_size, task.budget.examples)
        self.rounds = task.budget.examples // self.size
        per_round = method.epochs * -(-self.size // method.minibatch_size)
        shared = {"warmup": method.warmup, "max_grad_norm": method.max_grad_norm}
        learning = max(1, self.rounds - method.critic_warmup)
        self.optimizer = Optimizer(policy.network.parameters, lr=method.lr, total_steps=per_round * learning, **shared)
        self.critic_optimizer = Optimizer(
            critic.parameters, lr=method.critic_lr, total_steps=per_round * self.rounds, **shared
        )
        self.ledger = Ledger.of(policy.network, task.out)
        self.permutations = torch.Generator().manual_seed(task.seed)
        self.scale: tuple[float, float] | None = None

    def run(self) -> None:
        order = shuffled(len(self.task.prompts), self.task.seed)
        for number in tqdm(
            range(self.rounds), desc=f"PPO seed {self.task.seed}", unit="round", leave=False, disable=None
        ):
            prompts = [self.task.prompts.prompts[i] for i in itertools.islice(order, self.size)]
            samples = sample(
                self.policy,
                prompts,
                max_new_tokens=self.task.prompts.max_new_tokens,
                seed=self.task.seed * 1_000_003 + number,
                temperature=self.method.temperature,
            )
            rollout, signals = self.score(samples)
            signals |= self.update(rollout, learn_policy=number >= self.method.critic_warmup)
            self.ledger.log(**signals)
        self.ledger.close()

    @torch.no_grad()
    def score(self, samples: list[Sample]) -> tuple[Rollout, dict[str, float]]:
        """Reward, log-probs, values and advantages of a round's responses, and what to watch."""
        method, ledger = self.method, self.ledger
        raw = torch.tensor(self.task.reward(to_generations(self.policy, samples)), dtype=torch.float32)
        if not torch.isfinite(raw).all():
            worst = samples[int((~torch.isfinite(raw)).nonzero()[0])].prompt.id
            raise TrainingError(f"step {ledger.optimizer_steps}: the reward of a response to {worst} is not finite")
        if self.scale is None:  # the first round's responses are the SFT policy's
            self.scale = (float(raw.mean()), max(float(raw.std(correction=0)), 1e-6))
        finished = torch.tensor([s.finished for s in samples])
        final = (raw - self.scale[0]) / self.scale[1] - method.missing_eos_penalty * (~finished).float()

        sequences = [(s.prompt.ids, s.ids) for s in samples]
        old = self._collect(sequences, lambda rows: self.policy.logps(rows, method.temperature))
        reference = self._collect(sequences, lambda rows: self.reference.logps(rows, method.temperature))
        values = self._collect(sequences, self.values)
        mask = old.mask
        rewards = token_rewards(final.to(mask.device), old.values, reference.values, mask, beta=method.beta)
        advantages, returns = losses.gae(rewards, values.values, mask, gamma=method.gamma, lam=method.lam)

        tokens = sum(len(p) + len(r) for p, r in sequences)
        ledger.examples += len(samples)
        ledger.reward_queries += len(samples)
        ledger.generated_tokens += int(mask.sum())
        ledger.scored_tokens += 3 * tokens
        explained = 1 - (returns - values.values)[mask].var() / returns[mask].var().clamp(min=1e-8)
        signals = {
            "reward": float(raw.mean()),
            "kl": float((old.values - reference.values).sum(1).mean()),
            "entropy": float(-losses.masked_mean(old.values, mask)),
            "length": float(mask.sum(1).float().mean()),
            "eos_rate": float(finished.float().mean()),
            "explained_variance": float(explained),
        }
        whitened = whiten(advantages, mask)
        return Rollout(sequences, old.values, values.values, whitened, returns, mask), signals

    def update(self, rollout: Rollout, *, learn_policy: bool) -> dict[str, float]:
        """Several epochs of minibatches on one round; returns the means of loss, clip fraction and ratio error."""
        method, count = self.method, len(rollout.sequences)
        totals: dict[str, list[float]] = {}
        for _ in range(method.epochs):
            permutation = torch.randperm(count, generator=self.permutations).tolist()
            for start in range(0, count, method.minibatch_size):
                rows = permutation[start : start + method.minibatch_size]
                if learn_policy:
                    outcome = self._step(self.optimizer, rollout, rows, self._policy_loss, totals)
                    totals.setdefault("loss", []).append(outcome["loss"])
                    totals.setdefault("grad_norm", []).append(outcome["grad_norm"])
                outcome = self._step(self.critic_optimizer, rollout, rows, self._value_loss, totals)
                totals.setdefault("value_loss", []).append(outcome["loss"])
                self.ledger.optimizer_steps += 1
        return {name: sum(values) / len(values) for name, values in totals.items()}

    def values(self, sequences: Sequences) -> TokenValues:
        """The critic's value before each response token."""
        ids, real = pad([(*prompt, *response) for prompt, response in sequences], self.policy.device)
        states, mask = response_states(self.critic.hidden(ids, real), sequences)
        values = self.critic.head(states.float())[:, 0]
        return TokenValues(torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values), mask)

    def _policy_loss(self, rollout: Rollout, rows: list[int], totals: dict[str, list[float]]) -> Tensor:
        new = self.policy.logps([rollout.sequences[i] for i in rows], self.method.temperature)
        width = new.mask.shape[1]
        old, advantages = rollout.old_logps[rows, :width], rollout.advantages[rows, :width]
        with torch.no_grad():
            ratio = torch.exp((new.values - old) * new.mask)
            outside = ((ratio - 1).abs() > self.method.clip).float()
            totals.setdefault("clip_fraction", []).append(float(losses.masked_mean(outside, new.mask)))
            totals.setdefault("ratio", []).append(float(losses.masked_mean(ratio, new.mask)))
        return losses.ppo_policy(new.values, old, advantages, new.mask, clip=self.method.clip)

    def _value_loss(self, rollout: Rollout, rows: list[int], totals: dict[str, list[float]]) -> Tensor:
        new = self.values([rollout.sequences[i] for i in rows])
        width = new.mask.shape[1]
        old, returns = rollout.old_values[rows, :width], rollout.returns[rows, :width]
        return losses.ppo_value(new.values, old, returns, new.mask, clip=self.method.value_clip)

    def _step(self, optimizer: Optimizer, rollout: Rollout, rows: list[int], loss, totals) -> dict[str, float]:
        """One optimizer step on a minibatch, in micro-batches weighted by their share of its real tokens."""
        sequences = [rollout.sequences[i] for i in rows]
        groups = [[rows[i] for i in group] for group in self.policy.groups(sequences)]
        tokens = int(rollout.mask[rows].sum())

        def micro_losses():
            for group in groups:
                self.ledger.trained_tokens += sum(len(p) + len(r) for p, r in (rollout.sequences[i] for i in group))
                yield loss(rollout, group, totals) * (int(rollout.mask[group].sum()) / tokens)

        try:
            return optimizer.step(micro_losses())
        except TrainingError as error:
            raise TrainingError(f"step {self.ledger.optimizer_steps + 1}: {error}") from None

    def _collect(self, sequences: Sequences, function) -> TokenValues:
        """Apply a function of sequences in micro-batches and put the rows back in order."""
        longest = max(len(response) for _, response in sequences)
        values = torch.zeros(len(sequences), longest, device=self.policy.device)
        mask = torch.zeros(len(sequences), longest, dtype=torch.bool, device=self.policy.device)
        for group in self.policy.groups(sequences):
            part = function([sequences[i] for i in group])
            values[group, : part.values.shape[1]], mask[group, : part.mask.shape[1]] = part.values, part.mask
        return TokenValues(values, mask)


def token_rewards(final: Tensor, logps: Tensor, reference_logps: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """Reward of each token [batch, time]: -beta (log pi - log pi_ref), plus the response's score at its last token.

    final: [batch]; the others [batch, time], mask true on a prefix of each row. Ziegler et al. (2019), eq. 2.
    """
    rewards = -beta * (logps - reference_logps) * mask
    last = mask.sum(1) - 1
    rewards[torch.arange(len(rewards), device=rewards.device), last] += final
    return rewards


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over real tokens; 0 on padding. All [batch, time]."""
    mean = losses.masked_mean(values, mask)
    deviation = losses.masked_mean((values - mean) ** 2, mask).sqrt()
    return (values - mean) / (deviation + 1e-8) * mask
