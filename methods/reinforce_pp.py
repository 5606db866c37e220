"""REINFORCE++: PPO without a critic, normalized over the round; Hu et al. (2025, arXiv:2501.03262)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..models.policy import Policy, TokenValues
from ..models.sampler import Sample
from ..results.records import LEARNING_RATE, Range
from ..training.task import TrainingTask
from . import losses
from .online import OnlineMethod, OnlineTrainer
from .ppo import PPORollout, Trainer


@dataclass(frozen=True, kw_only=True)
class ReinforcePlusPlus(OnlineMethod):
    """PPO without a critic: a token's advantage is what is yet to come, shifted and scaled over the whole round.

    At each token that is the response's reward less beta times the KL estimates from there on.
    """

    adam_epsilon: Annotated[float, Gt(0)] = 1e-5
    """Added to Adam's denominator; PPO's."""
    samples_per_prompt: Annotated[int, Gt(0)] = 1
    """Responses sampled to each prompt of a round; rollout and minibatch sizes are rounded down to whole prompts."""
    beta: Annotated[float, Ge(0)] = 0.05
    """Weight of the per-token KL penalty, in (normalized) rewards per nat, at least 0."""
    kl_estimator: losses.KLEstimator = "k1"
    """Estimate of the KL a token in the penalty."""
    epochs: Annotated[int, Gt(0)] = 1
    """Passes over each round's responses."""
    clip: Annotated[float, Gt(0), Le(1)] = 0.2
    """Range of the probability ratio, 1 - clip to 1 + clip."""

    # PPO's.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.01, 1.0, "log")}
    needs_reference: ClassVar[bool] = True
    # What PPO's trainer asks of its method: no discount, nothing from a critic, the policy learns from the first round.
    gamma: ClassVar[float] = 1.0
    lam: ClassVar[float] = 1.0
    critic_warmup: ClassVar[int] = 0
    target_kl: ClassVar[None] = None

    def begin(self, task: TrainingTask, policy: Policy) -> OnlineTrainer:
        return ReinforceTrainer(self, task, policy, Policy.open(task.sft, task.tuning, trainable=False), None)


class ReinforceTrainer(Trainer):
    """One training in progress: PPO's with values of 0 that nothing learns."""

    def make_optimizers(self, per_round: int) -> None:
        self.optimizer = self.optimizer_for(self.policy.network, self.method.lr, per_round * self.rounds)

    def estimates(self, samples: list[Sample], old: TokenValues) -> Tensor:
        return torch.zeros_like(old.values)

    def update(self, rollout: PPORollout, prompts: list[int], *, learn_policy: bool = True) -> dict[str, float]:
        return self.step(self.optimizer, rollout, prompts, self.policy_loss)
