"""What the online methods without a critic share: several responses to a prompt, compared with each other."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ..results.checkpoint import Checkpoint, micro_batches
from . import losses
from .base import TrainingTask
from .loop import Optimizer
from .online import OnlineMethod, OnlineTrainer
from .policy import Policy, TokenValues
from .rollout import Sample


@dataclass(frozen=True)
class Group:
    """Prompts with k responses each, one prompt's side by side; tensors [prompts * k, time] unless said."""

    new: TokenValues
    """Log-probs under the policy as it is; gradients flow."""
    old: Tensor
    """Log-probs when the responses were sampled."""
    reference: Tensor
    """Log-probs under the SFT checkpoint."""
    advantages: Tensor
    """[prompts, k], from `GroupedMethod.advantages`."""


@dataclass(frozen=True, kw_only=True)
class GroupedMethod(OnlineMethod):
    """A subclass is a dataclass with `advantages` and `loss`."""

    samples_per_prompt: Annotated[int, Ge(2)] = 4
    """Responses to one prompt that are compared, at least 2; rollout and minibatch sizes are rounded down to whole
    groups."""
    epochs: Annotated[int, Gt(0)] = 1
    """Passes over each round's responses."""

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        """What each response is worth beside the others, [prompts, k].

        rewards, log_ratios: [prompts, k]; the log-ratio is log pi - log pi_SFT of the whole response when sampled.
        """
        raise TypeError(f"{type(self).__name__} must define advantages(rewards, log_ratios)")

    def loss(self, group: Group) -> Tensor:
        """Losses [prompts]."""
        raise TypeError(f"{type(self).__name__} must define loss(group)")

    def train(self, task: TrainingTask) -> Checkpoint:
        policy = Policy.open(task.sft, task.tuning, trainable=True)
        reference = Policy.open(task.sft, task.tuning, trainable=False)
        try:
            GroupedTrainer(self, task, policy, reference).run()
            policy.save(task.out / "policy")
        finally:
            policy.network.close()
        return Checkpoint(task.out / "policy", key="")


class GroupedTrainer(OnlineTrainer):
    """One training of a grouped method in progress."""

    def __init__(self, method: GroupedMethod, task: TrainingTask, policy: Policy, reference: Policy):
        super().__init__(method, task, policy, reference, method.samples_per_prompt)
        self.prompts_per_step = max(1, method.minibatch_size // method.samples_per_prompt)
        steps = self.rounds * method.epochs * -(-self.prompts_per_round // self.prompts_per_step)
        self.optimizer = Optimizer(
            policy.network.parameters,
            lr=method.lr,
            total_steps=steps,
            warmup=method.warmup,
            max_grad_norm=method.max_grad_norm,
        )

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        k = self.samples_per_prompt
        rewards, signals = self.rewards(samples)
        sequences = [(s.prompt.ids, s.ids) for s in samples]
        old, reference = self.logps(self.policy, sequences), self.logps(self.reference, sequences)
        log_ratios = (old.values - reference.values).sum(1)
        advantages = self.method.advantages(rewards.view(-1, k), log_ratios.view(-1, k))
        signals |= {
            "kl": float(log_ratios.mean()),
            "entropy": float(-losses.masked_mean(old.values, old.mask)),
        }
        totals: dict[str, list[float]] = {}
        for _ in range(self.method.epochs):
            for prompts in self.minibatches(self.prompts_per_round, self.prompts_per_step):
                outcome = self.step(self.optimizer, self._losses(prompts, sequences, old, reference, advantages))
                self.ledger.optimizer_steps += 1
                for name, value in outcome.items():
                    totals.setdefault(name, []).append(value)
        return signals | {name: sum(values) / len(values) for name, values in totals.items()}

    def _losses(self, prompts: list[int], sequences, old: TokenValues, reference: TokenValues, advantages: Tensor):
        """The minibatch's mean loss in micro-batches of whole groups."""
        k = self.samples_per_prompt
        longest = [max(len(p) + len(r) for p, r in sequences[i * k : (i + 1) * k]) * k for i in prompts]
        for part in micro_batches(longest, self.policy.network.tuning.micro_tokens):
            chosen = [prompts[i] for i in part]
            rows = [i * k + j for i in chosen for j in range(k)]
            self.count([sequences[i] for i in rows])
            new = self.policy.logps([sequences[i] for i in rows], self.method.temperature)
            width = new.mask.shape[1]
            group = Group(new, old.values[rows, :width], reference.values[rows, :width], advantages[chosen])
            yield self.method.loss(group).sum() / len(prompts)


def clipped(log_ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's pessimistic clipped surrogate, to be minimized, elementwise. Schulman et al. (2017), eq. 7."""
    ratio = torch.exp(log_ratios)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
