"""Iterative DPO: rounds of sampling, labelling by the reward and DPO; Xiong et al. (2024, arXiv:2312.11456)."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ..models.policy import Policy
from ..models.sampler import Sample
from ..results.records import Range
from ..training.task import TrainingTask
from .grouped import Group, GroupedRollout, GroupedTrainer
from .online import OnlineTrainer
from .online_dpo import OnlineDPO


@dataclass(frozen=True, kw_only=True)
class IterativeDPO(OnlineDPO):
    """DPO in a few large rounds: the best and the worst of several own responses to a prompt are a pair."""

    rollout_size: ClassVar[None] = None  # type: ignore[misc]  # `rounds` says it
    rounds: Annotated[int, Gt(0)] = 3
    """Rounds into which the budget is divided, each sampled by the policy as the last one left it; more where a round
    would not hold all responses to one prompt."""
    samples_per_prompt: Annotated[int, Ge(2)] = 4
    """Responses to one prompt, of which the best and the worst by the training reward are the pair."""
    minibatch_size: Annotated[int, Gt(0)] = 32
    """Responses per optimizer step, two a pair."""
    reference: Literal["sft", "last_round"] = "sft"
    """The reference of DPO's loss: the SFT checkpoint throughout, or the policy that sampled the round, as in Xu et al.
    (2023, arXiv:2312.16682)."""

    # Online DPO's.
    space: ClassVar[dict[str, Range]] = OnlineDPO.space
    goal: ClassVar[str] = "extremes"

    @property
    def learnt_per_prompt(self) -> int:
        return 2

    def round_size(self, budget: int) -> int:
        return max(self.samples_per_prompt, budget // self.rounds)

    def begin(self, task: TrainingTask, policy: Policy) -> OnlineTrainer:
        return IterativeTrainer(self, task, policy)

    def loss(self, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        if self.reference == "last_round":
            group = dataclasses.replace(group, reference=group.old)
        return super().loss(group)


class IterativeTrainer(GroupedTrainer):
    """One training in progress; what a round learns, and its `kl_estimate` and `entropy`, are those of the pairs."""

    def score(self, samples: list[Sample]) -> GroupedRollout:
        rewards, signals = self.rewards(samples)
        k = self.samples_per_prompt
        groups = rewards.view(-1, k)
        ends = torch.stack([groups.argmax(1), groups.argmin(1)], 1)  # the first of equals: both, where all tie
        kept = (ends + k * torch.arange(len(groups), device=ends.device)[:, None]).flatten()
        return self.rollout([samples[i] for i in kept.tolist()], rewards[kept], signals)
