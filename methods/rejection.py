"""Rejection-sampling fine-tuning: best of n, then SFT on it; RAFT, Dong et al. (2023, arXiv:2304.06767)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from ..models.checkpoint import Checkpoint
from ..models.layout import Sequences
from ..models.policy import Policy
from ..models.sampler import Sample
from ..runtime import processes
from ..training.task import TrainingTask
from .online import Losses, OnlineMethod, OnlineTrainer, train_online


@dataclass(frozen=True, kw_only=True)
class RejectionSampling(OnlineMethod):
    """Imitates the best of several own responses to each prompt, by the training reward model."""

    samples_per_prompt: Annotated[int, Ge(2)] = 4
    """Responses to one prompt of which the best is kept, at least 2."""
    minibatch_size: Annotated[int, Ge(1)] = 4
    """Kept responses per optimizer step."""

    def train(self, task: TrainingTask) -> Checkpoint:
        return train_online(task, lambda policy: RejectionTrainer(self, task, policy))


class RejectionTrainer(OnlineTrainer):
    """One training in progress; a round's kept responses are learnt once."""

    def __init__(self, method: RejectionSampling, task: TrainingTask, policy: Policy):
        super().__init__(method, task, policy, method.samples_per_prompt)
        steps = self.rounds * -(-self.prompts_per_round // method.minibatch_size)
        self.optimizer = self.optimizer_for(policy.network, method.lr, steps)

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        rewards, signals = self.rewards(samples)
        k = self.samples_per_prompt
        best = [i * k + j for i, j in enumerate(rewards.view(-1, k).argmax(1).tolist())]  # the first of equals
        kept = [(samples[i].prompt.ids, samples[i].ids) for i in best]
        return signals | self.learn(
            [samples[i].prompt.id for i in best],
            self.method.minibatch_size,
            1,
            lambda rows: self._losses([kept[i] for i in rows]),
        )

    def _losses(self, sequences: Sequences) -> Losses:
        """The minibatch's mean negative log-likelihood a token, as in SFT, in micro-batches."""
        tokens = sum(len(response) for _, response in sequences)
        share = processes.mine(sequences)
        for group in self.policy.network.groups(share):
            part = [share[i] for i in group]
            self.count(part)
            yield -self.policy.logps(part, self.method.temperature).sum().sum() / tokens, {}
