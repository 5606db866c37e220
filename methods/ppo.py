"""PPO: reinforcement learning from a reward model, Ouyang et al. (2022, arXiv:2203.02155).

Schulman et al. (2017, arXiv:1707.06347) with the KL penalty in the reward, Ziegler et al. (2019, arXiv:1909.08593),
eq. 2. One round: sample responses; score each at its end; subtract beta (log pi - log pi_SFT) at every token;
estimate advantages with the critic's values; then several epochs of clipped updates of policy and critic.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..results import processes
from ..results.checkpoint import Checkpoint, Network, open_network
from ..results.layout import Sequences
from . import losses
from .base import TrainingError, TrainingTask
from .loop import Optimizer
from .online import Losses, OnlineMethod, OnlineTrainer
from .policy import Policy, TokenValues
from .resume import Stateful, Weights
from .rollout import Sample


@dataclass(frozen=True)
class Rollout:
    """A batch of sampled responses with all that an update needs; tensors [batch, time], mask true on real tokens."""

    prompts: list[str]
    """Ids, one a response."""
    sequences: list[tuple[tuple[int, ...], tuple[int, ...]]]
    old_logps: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class PPO(OnlineMethod):
    """Full RLHF: samples from the policy, the reward model's score at the end, KL to the SFT checkpoint, a critic."""

    adam_epsilon: Annotated[float, Gt(0)] = 1e-5
    """Added to Adam's denominator, of policy and critic; 1e-5 in PPO's original code (Huang et al., 2022, "The 37
    implementation details of PPO", detail 3)."""
    critic_start: Literal["sft", "reward_model"] = "sft"
    """What the critic begins as: the SFT checkpoint with a head of zeros, or the training reward model, as in Ouyang
    et al. (2022), appendix C.4."""
    critic_lr: Annotated[float, Gt(0)] = 2e-5
    """Peak learning rate of the critic, above 0."""
    beta: Annotated[float, Ge(0)] = 0.05
    """Weight of the per-token KL penalty, in (normalized) rewards per nat, at least 0."""
    kl_estimator: losses.KLEstimator = "k1"
    """Estimate of the KL a token in the penalty; with k1, as in Ziegler et al. (2019), eq. 2, rewards are unbiased."""
    target_kl: Annotated[float, Gt(0)] | None = None
    """Nats a response to hold the KL at, above 0, by moving beta from round to round; None keeps beta. Ziegler et al.
    (2019), section 2.2."""
    kl_gain: Annotated[float, Gt(0)] = 0.1
    """How fast beta moves towards target_kl: at most 0.2 times this a round; 0.1 in the paper."""
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
    critic_warmup: Annotated[int, Ge(0)] = 1
    """First rounds in which only the critic learns, for its head starts at 0."""

    needs_reference: ClassVar[bool] = True
    needs_critic: ClassVar[bool] = True

    def train(self, task: TrainingTask) -> Checkpoint:
        policy = Policy.open(task.sft, task.tuning, trainable=True)
        reference = Policy.open(task.sft, task.tuning, trainable=False)
        critic = self.open_critic(task)
        try:
            Trainer(self, task, policy, reference, critic).run()
            policy.save(task.out / "policy")
        finally:
            policy.network.close()
            critic.close()
        return Checkpoint(task.out / "policy", key="")

    def open_critic(self, task: TrainingTask) -> Network:
        """A network of the critic's own, which may be trained."""
        if self.critic_start == "sft":
            return open_network(task.sft.path, "score", task.tuning, trainable=True, head_std=0.0)
        if task.reward_model is None:
            raise TrainingError(
                "ppo with critic_start: reward_model needs a reward model of the policy's family, and this task has "
                "none; use critic_start: sft"
            )
        return open_network(task.reward_model.path, "score", task.tuning, trainable=True)


class Trainer(OnlineTrainer):
    """One PPO training in progress."""

    def __init__(self, method: PPO, task: TrainingTask, policy: Policy, reference: Policy, critic: Network):
        super().__init__(method, task, policy)
        self.reference, self.critic = reference, critic
        self.beta = method.beta
        per_round = method.epochs * -(-self.size // method.minibatch_size)
        learning = max(1, self.rounds - method.critic_warmup)
        self.optimizer = self.optimizer_for(policy.network, method.lr, per_round * learning)
        self.critic_optimizer = self.optimizer_for(critic, method.critic_lr, per_round * self.rounds)

    def parts(self) -> dict[str, Stateful]:
        return {
            **super().parts(),
            "critic": Weights(self.critic.parameters),
            "critic_optimizer": self.critic_optimizer,
        }

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.beta = state["beta"]

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        rollout, signals = self.score(samples)
        if self.method.target_kl is not None:
            error = signals["kl"] / self.method.target_kl - 1
            self.beta *= 1 + self.method.kl_gain * min(0.2, max(-0.2, error))
        return signals | self.update(rollout, learn_policy=number >= self.method.critic_warmup)

    def score(self, samples: list[Sample]) -> tuple[Rollout, dict[str, float]]:
        """Reward, log-probs, values and advantages of a round's responses, and what to watch."""
        method = self.method
        final, signals = self.rewards(samples)
        sequences = [(s.prompt.ids, s.ids) for s in samples]
        old, reference = self.logps(self.policy, sequences), self.logps(self.reference, sequences)
        values, mask = self.collect(sequences, self.values), old.mask
        penalty = losses.kl_estimate(old.values, reference.values, method.kl_estimator)
        rewards = token_rewards(final, penalty, mask, beta=self.beta)
        advantages, returns = losses.gae(rewards, values.values, mask, gamma=method.gamma, lam=method.lam)
        explained = 1 - (returns - values.values)[mask].var() / returns[mask].var().clamp(min=1e-8)
        signals |= {
            "kl": float((old.values - reference.values).sum(1).mean()),
            "entropy": float(-losses.masked_mean(old.values, mask)),
            "explained_variance": float(explained),
            "beta": self.beta,
        }
        whitened = whiten(advantages, mask)
        return Rollout(
            [s.prompt.id for s in samples], sequences, old.values, values.values, whitened, returns, mask
        ), signals

    def update(self, rollout: Rollout, *, learn_policy: bool) -> dict[str, float]:
        """Several epochs of minibatches on one round; returns the means of loss, clip fraction and ratio error."""
        method, count = self.method, len(rollout.sequences)
        totals: dict[str, list[float]] = {}
        for _ in range(method.epochs):
            for rows in self.minibatches(count, method.minibatch_size):
                if learn_policy:
                    outcome = self._step(self.optimizer, rollout, rows, self._policy_loss)
                    for name, value in outcome.items():
                        totals.setdefault(name, []).append(value)
                outcome = self._step(self.critic_optimizer, rollout, rows, self._value_loss)
                totals.setdefault("value_loss", []).append(outcome["loss"])
                self.ledger.optimizer_steps += 1
        return {name: sum(values) / len(values) for name, values in totals.items()}

    def values(self, sequences: Sequences) -> TokenValues:
        """The critic's value before each response token, in normalized rewards."""
        layout = self.critic.lay_out(sequences)
        states, mask = self.critic.hidden(layout)[layout.before], layout.mask
        values = self.critic.head(states.float())[:, 0]
        if self.method.critic_start == "reward_model":  # its scores are on the reward model's own scale
            values = (values - self.scale[0]) / self.scale[1]
        return TokenValues(torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values), mask)

    def _policy_loss(self, rollout: Rollout, rows: list[int]) -> tuple[Tensor, dict[str, float]]:
        new = self.policy.logps([rollout.sequences[i] for i in rows], self.method.temperature)
        width = new.mask.shape[1]
        old, advantages = rollout.old_logps[rows, :width], rollout.advantages[rows, :width]
        with torch.no_grad():
            log_ratios = (new.values - old) * new.mask
            outside = losses.outside_clip(log_ratios, clip=self.method.clip)
            watched = {
                "clip_fraction": float(losses.masked_mean(outside, new.mask)),
                "ratio": float(losses.masked_mean(log_ratios.exp(), new.mask)),
            }
        return losses.ppo_policy(new.values, old, advantages, new.mask, clip=self.method.clip), watched

    def _value_loss(self, rollout: Rollout, rows: list[int]) -> tuple[Tensor, dict[str, float]]:
        new = self.values([rollout.sequences[i] for i in rows])
        width = new.mask.shape[1]
        old, returns = rollout.old_values[rows, :width], rollout.returns[rows, :width]
        return losses.ppo_value(new.values, old, returns, new.mask, clip=self.method.value_clip), {}

    def _step(self, optimizer: Optimizer, rollout: Rollout, rows: list[int], loss) -> dict[str, float]:
        """One optimizer step on a minibatch, in micro-batches weighted by their share of its real tokens."""
        share = processes.mine(rows)
        sequences = [rollout.sequences[i] for i in share]
        tokens = int(rollout.mask[rows].sum())

        def micro_losses() -> Losses:
            for group in optimizer.network.groups(sequences):
                part = [share[i] for i in group]
                self.count([rollout.sequences[i] for i in part])
                weight = int(rollout.mask[part].sum()) / tokens
                value, watched = loss(rollout, part)
                yield value * weight, {name: number * weight for name, number in watched.items()}

        return self.step(optimizer, micro_losses, [rollout.prompts[i] for i in rows])


def token_rewards(final: Tensor, kl: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """Reward of each token [batch, time]: -beta times its KL estimate, plus the response's score at its last token.

    final: [batch]; the others [batch, time], mask true on a prefix of each row. Ziegler et al. (2019), eq. 2.
    """
    rewards = -beta * kl * mask
    last = mask.sum(1) - 1
    rewards[torch.arange(len(rewards), device=rewards.device), last] += final
    return rewards


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over real tokens; 0 on padding. All [batch, time]."""
    mean = losses.masked_mean(values, mask)
    deviation = losses.masked_mean((values - mean) ** 2, mask).sqrt()
    return (values - mean) / (deviation + 1e-8) * mask
