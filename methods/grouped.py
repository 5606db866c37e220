"""The base of online methods without a critic: several responses to a prompt, compared with each other."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from ..models.layout import Batch
from ..models.policy import Policy, TokenValues
from ..models.sampler import Sample
from ..training.loop import Watched, reader, take_step
from ..training.task import TrainingTask
from . import losses
from .online import OnlineMethod, OnlineTrainer, Rollout


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
    longest: int
    """The most tokens that a response may have."""
    mean_tokens: float
    """Of the round's responses."""


@dataclass(frozen=True, kw_only=True)
class GroupedRollout(Rollout):
    """A round's groups; log-probs [prompts * k, time]."""

    old: Tensor
    reference: Tensor
    advantages: Tensor
    """[prompts, k]"""
    mean_tokens: float


@dataclass(frozen=True, kw_only=True)
class GroupedMethod(OnlineMethod):
    """A subclass is a dataclass with `advantages` and `loss`."""

    samples_per_prompt: Annotated[int, Ge(2)] = 4
    """Responses to one prompt that are compared, at least 2; rollout and minibatch sizes are rounded down to whole
    groups."""
    epochs: Annotated[int, Gt(0)] = 1
    """Passes over each round's responses."""

    needs_reference: ClassVar[bool] = True

    @property
    def learnt_per_prompt(self) -> int:
        """Responses to a prompt that are learnt: all, unless a trainer keeps some."""
        return self.samples_per_prompt

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        """The worth of each response beside the others, [prompts, k].

        rewards, log_ratios: [prompts, k]; the log-ratio is log pi - log pi_SFT of the whole response when sampled.
        """
        raise TypeError(f"{type(self).__name__} must define advantages(rewards, log_ratios)")

    def loss(self, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [prompts], and numbers to watch [prompts]."""
        raise TypeError(f"{type(self).__name__} must define loss(group)")

    def begin(self, task: TrainingTask, policy: Policy) -> OnlineTrainer:
        return GroupedTrainer(self, task, policy)


class GroupedTrainer(OnlineTrainer):
    """One training of a grouped method in progress."""

    def __init__(self, method: GroupedMethod, task: TrainingTask, policy: Policy):
        super().__init__(method, task, policy, method.samples_per_prompt)
        self.reference = Policy.open(task.sft, task.tuning, trainable=False)
        self.epochs, self.k = method.epochs, method.learnt_per_prompt
        self.prompts_per_step = max(1, method.minibatch_size // self.k)
        steps = self.rounds * method.epochs * -(-self.prompts_per_round // self.prompts_per_step)
        self.optimizer = self.optimizer_for(policy.network, method.lr, steps)

    def score(self, samples: list[Sample]) -> GroupedRollout:
        return self.rollout(samples, *self.rewards(samples))

    def rollout(self, samples: list[Sample], rewards: Tensor, signals: dict[str, float]) -> GroupedRollout:
        """Those of a round's responses that are learnt, with their rewards [responses]."""
        k = self.k
        old = self.old_logps(samples)
        reference = self.reference_logps(self.reference, samples, old)
        log_ratios = (old.values - reference.values).sum(1)
        signals |= {
            "kl_estimate": float(log_ratios.mean()),
            "entropy": float(-losses.masked_mean(old.values, old.mask)),
            **self.sampler_gap(samples, old),
        }
        return GroupedRollout(
            prompts=[s.prompt.id for s in samples[::k]],
            sequences=[(s.prompt.ids, s.ids) for s in samples],
            signals=signals,
            old=old.values,
            reference=reference.values,
            advantages=self.method.advantages(rewards.view(-1, k), log_ratios.view(-1, k)),
            mean_tokens=sum(len(s.ids) for s in samples) / len(samples),
        )

    def update(self, rollout: GroupedRollout, prompts: list[int]) -> dict[str, float]:
        """A step on the mean of the minibatch's losses, in micro-batches of whole groups."""
        k = self.k

        def loss(batch: Batch[int]) -> Watched:
            new = self.policy.logps(batch.layout, self.method.temperature)
            rows, width = [i * k + j for i in batch.rows for j in range(k)], new.mask.shape[1]
            old, reference = rollout.old[rows, :width], rollout.reference[rows, :width]
            worth, longest = rollout.advantages[batch.rows], self.task.prompts.max_new_tokens
            each, watched = self.method.loss(Group(new, old, reference, worth, longest, rollout.mean_tokens))
            read = reader({name: values.sum() for name, values in watched.items()})

            def means() -> dict[str, float]:
                return {name: value / len(prompts) for name, value in read().items()}

            return each.sum() / len(prompts), means

        sequences = [rollout.sequences[i * k : (i + 1) * k] for i in prompts]
        names = ["prompts", *(rollout.prompts[i] for i in prompts)]
        return take_step(self.optimizer, prompts, sequences, loss, ledger=self.ledger, names=names).logged
