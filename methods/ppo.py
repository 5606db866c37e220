"""PPO: reinforcement learning from a reward model, Ouyang et al. (2022, arXiv:2203.02155).

Schulman et al. (2017, arXiv:1707.06347) with the KL penalty in the reward, Ziegler et al. (2019, arXiv:1909.08593),
eq. 2. One round: sample responses; score each at its end; subtract beta (log pi - log pi_SFT) at every token;
estimate advantages with the critic's values; then several epochs of clipped updates of policy and critic.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint, open_network
from ..models.layout import Batch, Layout
from ..models.network import Network
from ..models.policy import Policy, TokenValues
from ..models.sampler import Sample
from ..results.records import LEARNING_RATE, Range
from ..training.loop import Optimizer, Watched, reader, take_step
from ..training.resume import Stateful, Weights
from ..training.task import TrainingTask, trained_policy
from . import losses
from .online import OnlineMethod, OnlineTrainer, Rollout


@dataclass(frozen=True, kw_only=True)
class PPORollout(Rollout):
    """Sampled responses with all that an update needs; tensors [responses, time], mask true on real tokens."""

    old_logps: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor

    def part(self, rows: list[int], width: int) -> "PPORollout":
        """The same with the tensors of some responses alone, cut to a width that holds them."""
        places = torch.tensor(rows, device=self.mask.device)  # moved once
        cut: dict[str, Any] = {
            name: value[places, :width] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **cut)


Numbers = dict[str, Tensor]  # scalars to watch
Loss = Callable[[PPORollout, Layout], tuple[Tensor, Numbers]]


@dataclass(frozen=True, kw_only=True)
class PPO(OnlineMethod):
    """Full RLHF: samples from the policy, the reward model's score at the end, KL to the SFT checkpoint, a critic."""

    adam_epsilon: Annotated[float, Gt(0)] = 1e-5
    """Added to Adam's denominator, of policy and critic; 1e-5 in PPO's original code (Huang et al., 2022, "The 37
    implementation details of PPO", detail 3)."""
    critic_start: Literal["sft", "reward_model", "policy"] = "sft"
    """The critic at the start: the SFT checkpoint with a head of zeros; the training reward model, as in Ouyang et
    al. (2022), appendix C.4; or no network of its own but a head of zeros on the policy's trunk, which learns both, as
    in OpenAI's code of Ziegler et al. (2019): about half the work and memory."""
    critic_lr: Annotated[float, Gt(0)] = 2e-5
    """Peak learning rate of the critic, or of its head on the policy's trunk, above 0."""
    value_weight: Annotated[float, Gt(0)] = 0.1
    """Weight of the value loss beside the policy's where they share a trunk, above 0; 0.1 in OpenAI's code."""
    samples_per_prompt: Annotated[int, Gt(0)] = 1
    """Responses sampled to each prompt of a round; rollout and minibatch sizes are rounded down to whole prompts, at
    least one, for what responses to one prompt share is computed once."""
    beta: Annotated[float, Ge(0)] = 0.05
    """Weight of the per-token KL penalty, in (normalized) rewards per nat, at least 0."""
    kl_estimator: losses.KLEstimator = "k1"
    """Estimate of the KL a token in the penalty; with k1, as in Ziegler et al. (2019), eq. 2, rewards are unbiased."""
    target_kl: Annotated[float, Gt(0)] | None = None
    """Nats a response to hold the KL at, above 0, by moving beta from round to round; null keeps beta. Ziegler et al.
    (2019), section 2.2."""
    kl_gain: Annotated[float, Gt(0)] = 0.1
    """The rate of beta towards target_kl: at most 0.2 times this a round; 0.1 in the paper."""
    epochs: Annotated[int, Gt(0)] = 4
    """Passes over each round's responses."""
    clip: Annotated[float, Gt(0), Le(1)] = 0.2
    """Range of the probability ratio, 1 - clip to 1 + clip."""
    value_clip: Annotated[float, Gt(0)] = 0.2
    """The largest change of a value in one round before its error is clipped, in units of reward."""
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    """Discount a token."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """GAE's lambda: 1 is unbiased and noisy, 0 trusts the critic."""
    importance_cap: Annotated[float, Gt(0)] | None = None
    """Weigh each token's advantage by its probability under the policy over that with which the sampler drew it, at
    most this cap, above 0; null does not. For vLLM and bf16, where the two differ: truncated importance sampling, Yao
    et al. (2025), "Your efficient RL framework secretly brings you off-policy RL training"."""
    critic_warmup: Annotated[int, Ge(0)] = 1
    """First rounds in which only the critic learns, for its head starts at 0."""

    # From below the 0.02 of Ouyang et al. up to a whole unit of (normalized) reward for a nat.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}
    needs_reference: ClassVar[bool] = True
    needs_critic: ClassVar[bool] = True
    goal: ClassVar[str] = "kl_regularized_reward"

    def __post_init__(self) -> None:
        if self.critic_start == "policy":  # no network beside the policy's
            object.__setattr__(self, "needs_critic", False)

    @property
    def needs_reward_model(self) -> bool:
        """The reward must be a network of the policy's family, from which the critic starts."""
        return self.critic_start == "reward_model"

    def train(self, task: TrainingTask) -> Checkpoint:
        with contextlib.ExitStack() as open_meanwhile:
            policy = open_meanwhile.enter_context(trained_policy(task))
            reference = Policy.open(task.sft, task.tuning, trainable=False)
            critic = open_meanwhile.enter_context(closing(self.open_critic(task))) if self.needs_critic else None
            self.trainer(task, policy, reference, critic).run()
        return task.made

    def trainer(self, task: TrainingTask, policy: Policy, reference: Policy, critic: Network | None) -> "Trainer":
        return Trainer(self, task, policy, reference, critic)

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
    """One PPO training in progress; without a critic network the policy's trunk carries the values as well."""

    def __init__(self, method: Any, task: TrainingTask, policy: Policy, reference: Policy, critic: Network | None):
        super().__init__(method, task, policy, method.samples_per_prompt)
        self.reference, self.critic = reference, critic
        self.beta, self.epochs = method.beta, method.epochs
        self.make_optimizers(method.epochs * -(-self.prompts_per_round // self.prompts_per_step))

    def make_optimizers(self, per_round: int) -> None:
        """Those of the policy and of what tells values; per_round: optimizer steps."""
        method, policy = self.method, self.policy
        if self.critic:
            learning = max(1, self.rounds - method.critic_warmup)
            self.optimizer = self.optimizer_for(policy.network, method.lr, per_round * learning)
            self.critic_optimizer = self.optimizer_for(self.critic, method.critic_lr, per_round * self.rounds)
        else:
            width = policy.network.model.config.get_text_config().hidden_size
            self.value_head = nn.Linear(width, 1, bias=False, device=policy.device)
            nn.init.zeros_(self.value_head.weight)
            self.optimizer = self.optimizer_for(
                policy.network, method.lr, per_round * self.rounds, head=self.value_head, head_lr=method.critic_lr
            )

    def parts(self) -> dict[str, Stateful]:
        parts = super().parts()
        if self.critic:
            parts |= {
                "critic": Weights(self.critic.parameters),
                "critic_optimizer": self.critic_optimizer,
            }
        if self.value_head:
            parts["value_head"] = Weights([*self.value_head.parameters()])
        return parts

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.beta = state["beta"]

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        rollout = self.score(samples)
        if self.method.target_kl is not None:
            error = rollout.signals["kl_estimate"] / self.method.target_kl - 1
            self.beta *= 1 + self.method.kl_gain * min(0.2, max(-0.2, error))
        return rollout.signals | self.learn(rollout, learn_policy=number >= self.method.critic_warmup)

    def score(self, samples: list[Sample]) -> PPORollout:
        """Reward, log-probs, values and advantages of a round's responses."""
        method = self.method
        final, signals = self.rewards(samples)
        sequences = [(s.prompt.ids, s.ids) for s in samples]
        old = self.old_logps(samples)
        reference = self.reference_logps(self.reference, samples, old)
        values, mask = self.estimates(samples, old), old.mask
        penalty = losses.kl_estimate(old.values, reference.values, method.kl_estimator)
        rewards = token_rewards(final, penalty, mask, beta=self.beta)
        advantages, returns = losses.gae(rewards, values, mask, gamma=method.gamma, lam=method.lam)
        explained = 1 - (returns - values)[mask].var() / returns[mask].var().clamp(min=1e-8)
        watched = {
            "kl_estimate": (old.values - reference.values).sum(1).mean(),
            "entropy": -losses.masked_mean(old.values, mask),
            "explained_variance": explained,
        }
        signals |= {**reader(watched)(), "beta": self.beta, **self.sampler_gap(samples, old)}
        return PPORollout(
            prompts=[s.prompt.id for s in samples[:: self.samples_per_prompt]],
            sequences=sequences,
            signals=signals,
            old_logps=old.values,
            old_values=values,
            advantages=whiten(advantages, mask) * self.importance(samples, old),
            returns=returns,
            mask=mask,
        )

    def importance(self, samples: list[Sample], old: TokenValues) -> Tensor | float:
        """Weights [batch, time] of a round's tokens, by `importance_cap`; old: their log-probs."""
        cap = self.method.importance_cap
        if cap is None or self.sampler_is_exact or not all(s.logps for s in samples):
            return 1.0
        drawn = self.drawn([s.logps for s in samples]).values
        return losses.truncated_importance(old.values, drawn, cap)

    def estimates(self, samples: list[Sample], old: TokenValues) -> Tensor:
        """The critic's values [batch, time] before the tokens of a round's responses; old: their log-probs."""
        if self.method.critic_start == "sft" and self.ledger.optimizer_steps == 0:  # its head is still 0
            return torch.zeros_like(old.values)
        if self.value_head and self.sampler_is_exact and all(s.values for s in samples):
            return self.drawn([s.values for s in samples]).values
        sequences = [(s.prompt.ids, s.ids) for s in samples]
        return self.collect(sequences, self.critic or self.policy.network, self.values).values

    def update(self, rollout: PPORollout, prompts: list[int], *, learn_policy: bool = True) -> dict[str, float]:
        """A minibatch's step of policy and critic, each with its own weights or both at once."""
        if not self.critic:
            return self.step(self.optimizer, rollout, prompts, self.joint_loss if learn_policy else self.head_loss)
        outcome = self.step(self.optimizer, rollout, prompts, self.policy_loss) if learn_policy else {}
        value_loss = self.step(self.critic_optimizer, rollout, prompts, self.value_loss)["loss"]
        return outcome | {"value_loss": value_loss}

    def policy_loss(self, part: PPORollout, layout: Layout) -> tuple[Tensor, Numbers]:
        """The clipped surrogate; Schulman et al. (2017), eq. 7."""
        return self._surrogate(part, self.policy.logps(layout, self.method.temperature))

    def value_loss(self, part: PPORollout, layout: Layout) -> tuple[Tensor, Numbers]:
        """The critic's clipped error."""
        return self._value_error(part, self.values(layout)), {}

    def joint_loss(self, part: PPORollout, layout: Layout) -> tuple[Tensor, Numbers]:
        """Both from one pass through the trunk they share; Schulman et al. (2017), eq. 9, without an entropy bonus."""
        states = self.policy.network.hidden(layout, layout.before)
        loss, watched = self._surrogate(part, self.policy.logps_of(states, layout, self.method.temperature))
        error = self._value_error(part, self._head_values(states, layout))
        return loss + self.method.value_weight * error, {**watched, "value_loss": error.detach()}

    def head_loss(self, part: PPORollout, layout: Layout) -> tuple[Tensor, Numbers]:
        """The value loss of the head alone, as long as the policy is not to move."""
        with torch.no_grad():
            states = self.policy.network.hidden(layout, layout.before)
        error = self._value_error(part, self._head_values(states, layout))
        return self.method.value_weight * error, {"value_loss": error.detach()}

    def _surrogate(self, part: PPORollout, new: TokenValues) -> tuple[Tensor, Numbers]:
        clip, mask = self.method.clip, part.mask
        with torch.no_grad():
            log_ratios = (new.values - part.old_logps) * mask
            watched = {
                "clip_fraction": losses.masked_mean(losses.outside_clip(log_ratios, clip=clip), mask),
                "ratio": losses.masked_mean(log_ratios.exp(), mask),
            }
        return losses.ppo_policy(new.values, part.old_logps, part.advantages, mask, clip=clip), watched

    def _value_error(self, part: PPORollout, new: TokenValues) -> Tensor:
        return losses.ppo_value(new.values, part.old_values, part.returns, part.mask, clip=self.method.value_clip)

    def values(self, layout: Layout) -> TokenValues:
        """The critic's value before each response token, in normalized rewards."""
        states = (self.critic or self.policy.network).hidden(layout, layout.before)
        if not self.critic:
            return self._head_values(states, layout)
        values = self.critic.head(states.float())[:, 0]  # after the pass, which may bring divided weights together
        if self.method.critic_start == "reward_model":  # its scores are on the reward model's own scale
            assert self.scale is not None  # `score` measures it before it asks for values
            values = (values - self.scale[0]) / self.scale[1]
        return TokenValues.spread(values, layout.mask)

    def _head_values(self, states: Tensor, layout: Layout) -> TokenValues:
        """Values by the head on the policy's trunk, from its states."""
        assert self.value_head is not None  # for there is no critic network
        return TokenValues.spread(self.value_head(states.float())[:, 0], layout.mask)

    def step(self, optimizer: Optimizer, rollout: PPORollout, prompts: list[int], loss: Loss) -> dict[str, float]:
        """One optimizer step on a minibatch, in micro-batches weighted by their share of its real tokens."""
        k = self.samples_per_prompt
        rows = [i * k + j for i in prompts for j in range(k)]
        lengths = [len(response) for _, response in rollout.sequences]
        tokens = sum(lengths[i] for i in rows)

        def weighted(batch: Batch[int]) -> Watched:
            part = rollout.part(batch.rows, batch.layout.mask.shape[1])
            weight = sum(lengths[i] for i in batch.rows) / tokens
            value, watched = loss(part, batch.layout)
            read = reader(watched)
            return value * weight, lambda: {name: number * weight for name, number in read().items()}

        sequences = [[rollout.sequences[i]] for i in rows]
        names = ["prompts", *(rollout.prompts[i] for i in prompts)]
        outcome = take_step(optimizer, rows, sequences, weighted, ledger=self.ledger, names=names, by_prompt=True)
        return outcome.logged


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
