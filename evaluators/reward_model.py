"""Reward models: a scalar score for a response, and the win rate that follows from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.chat import load_tokenizer
from ..models.kept_values import filled, read_kept
from ..models.layout import Sequences
from ..models.reward_model import RewardModel, TextRewardModel, encode
from ..models.tuning import Tuning
from ..results.lazy import chunks
from ..results.records import Generation, Score, win


class RewardWinRate:
    """Rewards and the win rate that follows from them; a subclass has `rewards`, and `label` for names of metrics."""

    label: str
    has_rewards = True
    rewards_text = True

    @property
    def scores_along(self) -> tuple[str, ...]:
        return (f"reward.{self.label}",)

    def rewards(self, generations: Sequence[Generation]) -> list[float]:
        """A number a response."""
        raise TypeError(f"{type(self).__name__} must define rewards(generations)")

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterable[Score]:
        both = self.rewards([*baseline, *responses])  # at once: the same response has the same reward to the last digit
        return self.compare(responses, both[len(baseline) :], both[: len(baseline)])

    def compare(
        self, responses: Sequence[Generation], rewards: Sequence[float], baseline: Sequence[float]
    ) -> Iterable[Score]:
        """The scores of responses from the rewards of their own and of the baseline's."""
        for generation, our, their in zip(responses, rewards, baseline, strict=True):
            yield Score(f"reward.{self.label}", generation.prompt_id, our)
            yield Score(f"win_rate.{self.label}", generation.prompt_id, win(our, their))


@dataclass(frozen=True)
class RewardModelWinRate(RewardWinRate):
    """Win rate of the policy's responses against the SFT checkpoint's by the evaluation reward model."""

    model: str
    """Reward model that evaluates: a sequence classifier of your own (hub id or folder); the benchmark fills in the one
    it trained where none is named."""
    tuning: Tuning | None = None
    """Device and precision of the benchmark's own reward model; filled in by the benchmark, none for one of yours."""
    device: str = "auto"
    """The device of a reward model of your own: cpu, cuda, cuda:1, mps or auto."""
    label: str = "reward_model"
    """The label in names of metrics: reward.LABEL and win_rate.LABEL."""
    allow_training_model: bool = False
    """Evaluate even with the model that the methods were trained on; every page then says so."""

    needs_reward_model = True
    compares_with_training = True

    def rewards(self, generations: Sequence[Generation]) -> list[float]:
        """The model's scores; it is in memory only meanwhile, if it did not give all of them in its gate already."""
        if self.tuning is None:
            own = TextRewardModel(self.model, self.device)
            return [score for chunk in chunks(generations) for score in own(chunk)]
        tuning = self.tuning
        known, tokenizer = read_kept(Path(self.model)), load_tokenizer(self.model)
        model: RewardModel | None = None

        def compute(sequences: Sequences) -> list[float]:
            nonlocal model
            model = model or RewardModel.open(self.model, tuning.resolve())
            return model.score_all(sequences)

        try:
            return [
                score
                for chunk in chunks(generations, "reward model")
                for score in filled([encode(tokenizer, g) for g in chunk], known, compute)
            ]
        finally:
            if model:
                model.network.close()
