"""PPO against several reward models: Coste et al. (2024, arXiv:2310.02743)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from ..errors import TrainingError
from ..models.network import Network
from ..models.policy import Policy
from ..results.records import Generation
from ..training.task import TrainingTask
from .ppo import PPO, Trainer


@dataclass(frozen=True, kw_only=True)
class PPOEnsemble(PPO):
    """PPO whose reward is the least of several reward models', or their mean less their variance.

    The models learn from the same pairs with other seeds. What one of them likes alone is worth little, so it is less
    worth exploiting.
    """

    reward_models: Annotated[int, Ge(2)] = 3
    """Training reward models, at least 2; the first is everybody's, the others are trained for this row. 5 in the
    paper."""
    combine: Literal["min", "mean_minus_variance"] = "min"
    """The reward of a response from theirs: worst-case optimization, or uncertainty-weighted optimization."""
    variance_weight: Annotated[float, Ge(0)] = 0.1
    """Weight of the variance among them, per unit of reward, at least 0; of no use with min."""

    goal: ClassVar[str] = "ensemble_reward"

    def trainer(self, task: TrainingTask, policy: Policy, reference: Policy, critic: Network | None) -> Trainer:
        return EnsembleTrainer(self, task, policy, reference, critic)


class EnsembleTrainer(Trainer):
    """One training in progress; each model's scores count from their mean on SFT's responses (the first round's)."""

    def __init__(self, method: PPOEnsemble, task: TrainingTask, *parts: Any):
        super().__init__(method, task, *parts)
        assert task.reward is not None  # checked above
        scorers = [task.reward, *task.more_rewards]
        if len(scorers) < method.reward_models:
            raise TrainingError(
                f"ppo_ensemble wants {method.reward_models} training reward models and this task has {len(scorers)}; "
                f"lower reward_models, or leave it out where the reward is not trained by the benchmark"
            )
        self.scorers = scorers[: method.reward_models]
        self.scores_per_response = len(self.scorers)
        self.means: list[float] | None = None
        self.reward = self.all_scores

    def all_scores(self, generations: Sequence[Generation]) -> list[tuple[float, ...]]:
        """Each response's score by each of the models."""
        return list(zip(*(scorer(generations) for scorer in self.scorers), strict=True))

    def combined(self, scores: Tensor) -> Tensor:
        if self.means is None:
            self.means = scores.mean(0).tolist()
        return ensemble_reward(
            scores - torch.tensor(self.means), self.method.combine, variance_weight=self.method.variance_weight
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.means = state["means"]


def ensemble_reward(scores: Tensor, combine: str, *, variance_weight: float) -> Tensor:
    """One reward [batch] of several models' [batch, models]; Coste et al. (2024), eqs. 4 and 5.

    The variance is that among the models themselves: the mean of squares about their mean.
    """
    if combine == "min":
        return scores.amin(1)
    return scores.mean(1) - variance_weight * scores.var(1, correction=0)
