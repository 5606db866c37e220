"""Rejection-sampling fine-tuning: best of n, then SFT on it; RAFT, Dong et al. (2023, arXiv:2304.06767)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from ..models.layout import Batch
from ..models.policy import Policy
from ..models.sampler import Sample
from ..results.records import LEARNING_RATE, Range
from ..training.loop import Watched, take_step
from ..training.task import TrainingTask
from .online import OnlineMethod, OnlineTrainer, Rollout


@dataclass(frozen=True, kw_only=True)
class RejectionSampling(OnlineMethod):
    """Imitates the best of several own responses to each prompt, by the training reward model."""

    samples_per_prompt: Annotated[int, Ge(2)] = 4
    """Responses to one prompt of which the best is kept, at least 2."""
    minibatch_size: Annotated[int, Ge(1)] = 4
    """Kept responses per optimizer step."""

    # Up to 8: with the same budget of responses, as many prompts fewer.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "samples_per_prompt": Range(2, 8, "log")}
    goal: ClassVar[str] = "no_kl"

    def begin(self, task: TrainingTask, policy: Policy) -> OnlineTrainer:
        return RejectionTrainer(self, task, policy)


class RejectionTrainer(OnlineTrainer):
    """One training in progress; a round's kept responses, one to each prompt, are learnt once."""

    def __init__(self, method: RejectionSampling, task: TrainingTask, policy: Policy):
        super().__init__(method, task, policy, method.samples_per_prompt)
        self.prompts_per_step = method.minibatch_size
        steps = self.rounds * -(-self.prompts_per_round // self.prompts_per_step)
        self.optimizer = self.optimizer_for(policy.network, method.lr, steps)

    def score(self, samples: list[Sample]) -> Rollout:
        rewards, signals = self.rewards(samples)
        k = self.samples_per_prompt
        best = [i * k + j for i, j in enumerate(rewards.view(-1, k).argmax(1).tolist())]  # the first of equals
        kept = [samples[i] for i in best]
        return Rollout(
            prompts=[s.prompt.id for s in kept], sequences=[(s.prompt.ids, s.ids) for s in kept], signals=signals
        )

    def update(self, rollout: Rollout, prompts: list[int]) -> dict[str, float]:
        """A step on the minibatch's mean negative log-likelihood a token, as in SFT."""
        tokens = sum(len(rollout.sequences[i][1]) for i in prompts)

        def loss(batch: Batch[int]) -> Watched:
            return -self.policy.logps(batch.layout, self.method.temperature).sum().sum() / tokens, dict

        sequences = [[rollout.sequences[i]] for i in prompts]
        names = ["prompts", *(rollout.prompts[i] for i in prompts)]
        outcome = take_step(self.optimizer, prompts, sequences, loss, ledger=self.ledger, names=names, by_prompt=True)
        return outcome.logged
