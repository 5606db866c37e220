"""Rejection-sampling fine-tuning: best of n, then SFT on it; RAFT, Dong et al. (2023, arXiv:2304.06767)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from ..results.checkpoint import Checkpoint
from .base import TrainingTask
from .loop import Optimizer
from .online import OnlineMethod, OnlineTrainer
from .policy import Policy
from .rollout import Sample


@dataclass(frozen=True, kw_only=True)
class RejectionSampling(OnlineMethod):
    """Imitates the best of several own responses to each prompt, by the training reward model."""

    samples_per_prompt: Annotated[int, Ge(2)] = 4
    """Responses to one prompt of which the best is kept, at least 2."""
    minibatch_size: Annotated[int, Ge(1)] = 4
    """Kept responses per optimizer step."""

    def train(self, task: TrainingTask) -> Checkpoint:
        policy = Policy.open(task.sft, task.tuning, trainable=True)
        reference = Policy.open(task.sft, task.tuning, trainable=False)
        try:
            RejectionTrainer(self, task, policy, reference).run()
            policy.save(task.out / "policy")
        finally:
            policy.network.close()
        return Checkpoint(task.out / "policy", key="")


class RejectionTrainer(OnlineTrainer):
    """One training in progress; a round's kept responses are learnt once."""

    def __init__(self, method: RejectionSampling, task: TrainingTask, policy: Policy, reference: Policy):
        super().__init__(method, task, policy, reference, method.samples_per_prompt)
        self.optimizer = Optimizer(
            policy.network.parameters,
            lr=method.lr,
            total_steps=self.rounds * -(-self.prompts_per_round // method.minibatch_size),
            warmup=method.warmup,
            max_grad_norm=method.max_grad_norm,
        )

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        rewards, signals = self.rewards(samples)
        k = self.samples_per_prompt
        best = [i * k + j for i, j in enumerate(rewards.view(-1, k).argmax(1).tolist())]  # the first of equals
        kept = [(samples[i].prompt.ids, samples[i].ids) for i in best]
        totals: dict[str, list[float]] = {}
        for rows in self.minibatches(len(kept), self.method.minibatch_size):
            outcome = self.step(self.optimizer, self._losses([kept[i] for i in rows]))
            self.ledger.optimizer_steps += 1
            for name, value in outcome.items():
                totals.setdefault(name, []).append(value)
        return signals | {name: sum(values) / len(values) for name, values in totals.items()}

    def _losses(self, sequences):
        """The mean negative log-likelihood a token, averaged over responses, in micro-batches."""
        for group in self.policy.groups(sequences):
            part = [sequences[i] for i in group]
            self.count(part)
            yield -self.policy.logps(part, self.method.temperature).mean().sum() / len(sequences)
