"""The reward that methods are trained on where a benchmark brings one: a reward model from elsewhere, or a function."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...analysis.overoptimization import GOLD
from ...errors import InputError
from ...evaluators.base import traits_of
from ...evaluators.reward_function import RewardFunction, load_function
from ...evaluators.reward_model import RewardModelWinRate
from ...models.checkpoint import Checkpoint
from ...models.find import find_model
from ...models.reward_model import TextRewardModel, check_classifier
from ...results.integrity import digest
from ...results.records import Generation, LabelledPair, Reward
from ..context import class_code, function_code
from ..definition.spec import BenchmarkSpec
from .along import TRAINING_LABEL

FIELD = "training_reward"


@dataclass(frozen=True)
class TrainingReward:
    """A reward that was not trained here."""

    name: str
    """As the benchmark names it."""
    key: str
    """Hash of what its rewards depend on: the model's files, or the function's code."""
    model: Checkpoint | None
    """None for a function."""
    is_true: bool = False
    """It is the function by which the benchmark knows the true reward."""

    def evaluator(self, device: str) -> RewardModelWinRate | RewardFunction:
        """The reward as an evaluator of responses."""
        if self.model is None:
            return RewardFunction(self.name, TRAINING_LABEL)
        return RewardModelWinRate(str(self.model.path), device=device, label=TRAINING_LABEL)

    def open(self, device: str) -> Reward:
        """The reward as methods ask it, in memory."""
        if self.model is None:
            return RewardFunction(self.name, TRAINING_LABEL).rewards
        return TextRewardModel(str(self.model.path), device)

    def try_on(self, pair: LabelledPair) -> None:
        """InputError where a function does not return rewards for the two replies of a pair."""
        if self.model is None:
            replies = (Generation(pair.prompt_id, pair.prompt, text, 0, True) for text in (pair.chosen, pair.rejected))
            RewardFunction(self.name, TRAINING_LABEL).rewards([*replies])


def find_training_reward(spec: BenchmarkSpec, evaluators: Mapping[str, Any]) -> TrainingReward | None:
    """The reward that a benchmark brings; None where one is trained. InputError for one that cannot be used.

    evaluators: the benchmark's, one of which may know the true reward.
    """
    if (name := spec.training_reward) is None:
        return None
    field = f"{spec.place(FIELD)}, {FIELD}"
    for unused in ("pairs", "contrast_in_training"):
        if getattr(spec.reward_model, unused):
            raise InputError(
                f"{spec.place('reward_model', unused)}: reward_model.{unused} is of the reward model whose place "
                f"training_reward takes; leave out the one or the other"
            )
    if ":" not in name or Path(name).exists():
        model = find_model(name, field)
        check_classifier(str(model.path))
        return TrainingReward(name, model.key, model)
    function = load_function(name, field)
    key = digest([name, function_code(name), class_code(RewardFunction)])
    is_true = any(load_function(call, field) is function for call in true_rewards(evaluators))
    return TrainingReward(name, key, None, is_true)


def true_rewards(evaluators: Mapping[str, Any]) -> list[str]:
    """The functions of the true reward, package.module:function, that evaluators call; most benchmarks know none."""
    know = [traits for made in evaluators.values() if GOLD in (traits := traits_of(made)).scores_along]
    return [call for traits in know for call in traits.calls]
