"""What the online methods without a critic share: several responses to a prompt, compared with each other."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from ..models.checkpoint import Checkpoint
from ..models.layout import Sequences
from ..models.policy import Policy, TokenValues
from ..models.sampler import Sample
from ..runtime import processes
from ..training.task import TrainingTask
from . import losses
from .online import Losses, OnlineMethod, OnlineTrainer, train_online


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

    needs_reference: ClassVar[bool] = True

    def advantages(self, rewards: Tensor, log_ratios: Tensor) -> Tensor:
        """What each response is worth beside the others, [prompts, k].

        rewards, log_ratios: [prompts, k]; the log-ratio is log pi - log pi_SFT of the whole response when sampled.
        """
        raise TypeError(f"{type(self).__name__} must define advantages(rewards, log_ratios)")

    def loss(self, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [prompts], and numbers to watch [prompts]."""
        raise TypeError(f"{type(self).__name__} must define loss(group)")

    def train(self, task: TrainingTask) -> Checkpoint:
        return train_online(task, lambda policy: GroupedTrainer(self, task, policy))


class GroupedTrainer(OnlineTrainer):
    """One training of a grouped method in progress."""

    def __init__(self, method: GroupedMethod, task: TrainingTask, policy: Policy):
        super().__init__(method, task, policy, method.samples_per_prompt)
        self.reference = Policy.open(task.sft, task.tuning, trainable=False)
        self.prompts_per_step = max(1, method.minibatch_size // method.samples_per_prompt)
        steps = self.rounds * method.epochs * -(-self.prompts_per_round // self.prompts_per_step)
        self.optimizer = self.optimizer_for(policy.network, method.lr, steps)

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        k = self.samples_per_prompt
        rewards, signals = self.rewards(samples)
        sequences = [(s.prompt.ids, s.ids) for s in samples]
        old = self.old_logps(samples)
        reference = self.reference_logps(self.reference, samples, old)
        log_ratios = (old.values - reference.values).sum(1)
        advantages = self.method.advantages(rewards.view(-1, k), log_ratios.view(-1, k))
        signals |= {
            "kl": float(log_ratios.mean()),
            "entropy": float(-losses.masked_mean(old.values, old.mask)),
        }
        return signals | self.learn(
            [s.prompt.id for s in samples[::k]],
            self.prompts_per_step,
            self.method.epochs,
            lambda prompts: self._losses(prompts, sequences, old, reference, advantages),
        )

    def _losses(
        self, prompts: list[int], sequences: Sequences, old: TokenValues, reference: TokenValues, advantages: Tensor
    ) -> Losses:
        """The minibatch's mean loss in micro-batches of whole groups."""
        k = self.samples_per_prompt
        network, share = self.policy.network, processes.mine(prompts)
        for part in network.cut([network.size_of(sequences[i * k : (i + 1) * k]) for i in share]):
            chosen = [share[i] for i in part]
            rows = [i * k + j for i in chosen for j in range(k)]
            self.count([sequences[i] for i in rows])
            new = self.policy.logps([sequences[i] for i in rows], self.method.temperature)
            width = new.mask.shape[1]
            group = Group(new, old.values[rows, :width], reference.values[rows, :width], advantages[chosen])
            each, watched = self.method.loss(group)
            yield (
                each.sum() / len(prompts),
                {name: float(values.sum()) / len(prompts) for name, values in watched.items()},
            )
