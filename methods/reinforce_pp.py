"""REINFORCE++: PPO without a critic, normalized over the round; Hu et al. (2025, arXiv:2501.03262)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from ..models.network import Network
from ..models.policy import Policy, TokenValues
from ..models.sampler import Sample
from ..training.task import TrainingTask
from .ppo import PPO, PPORollout, Trainer


@dataclass(frozen=True, kw_only=True)
class ReinforcePlusPlus(PPO):
    """PPO without a critic: a token's advantage is what is yet to come, shifted and scaled over the whole round.

    At each token that is the response's reward less beta times the KL estimates from there on.
    """

    epochs: Annotated[int, Gt(0)] = 1
    """Passes over each round's responses."""

    needs_critic: ClassVar[bool] = False
    # What PPO has for its critic is no setting here: no discount, values of 0, the policy learns from the first round.
    critic_start: ClassVar[None] = None  # type: ignore[misc]
    critic_lr: ClassVar[None] = None  # type: ignore[misc]
    critic_warmup: ClassVar[int] = 0  # type: ignore[misc]
    value_weight: ClassVar[None] = None  # type: ignore[misc]
    value_clip: ClassVar[None] = None  # type: ignore[misc]
    gamma: ClassVar[float] = 1.0  # type: ignore[misc]
    lam: ClassVar[float] = 1.0  # type: ignore[misc]

    def trainer(self, task: TrainingTask, policy: Policy, reference: Policy, critic: Network | None) -> Trainer:
        return ReinforceTrainer(self, task, policy, reference, critic)


class ReinforceTrainer(Trainer):
    """One training in progress: PPO's with values of 0 that nothing learns."""

    def make_optimizers(self, per_round: int) -> None:
        self.optimizer = self.optimizer_for(self.policy.network, self.method.lr, per_round * self.rounds)

    def estimates(self, samples: list[Sample], old: TokenValues) -> Tensor:
        return torch.zeros_like(old.values)

    def update(self, rollout: PPORollout, prompts: list[int], *, learn_policy: bool = True) -> dict[str, float]:
        return self.step(self.optimizer, rollout, prompts, self.policy_loss)
