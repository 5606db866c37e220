"""WPO: weighted preference optimization, Zhou et al. (2024, arXiv:2406.11827)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.layout import Batch
from ..models.network import Network
from ..models.policy import Policy, TokenValues
from ..runtime.device import constants
from ..training.ledger import Ledger
from ..training.loop import Objective
from ..training.task import TrainingTask
from .dpo import DPO
from .pairwise import Pairs, PlacedPair


@dataclass(frozen=True, kw_only=True)
class WPO(DPO):
    """DPO in which pairs weigh more the likelier the policy itself would write them.

    A pair's weight is the product of both replies', each the geometric mean over its tokens of p(token) over the
    policy's expected p, the sum of p^2 over the vocabulary: the paper's sampled alignment, so that what the policy
    draws weighs about 1. No gradient flows through weights.
    """

    def objective(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> Objective:
        return WeightedPairs(self, policy, task)


class WeightedPairs(Pairs):
    """Pairs with their losses times the policy's own weights."""

    def losses(self, batch: Batch[PlacedPair]) -> tuple[Tensor, dict[str, Tensor]]:
        layout, network = batch.layout, self.policy.network
        states = network.hidden(layout, layout.before)
        both = self.policy.logps_of(states, layout)
        each, watched = self.losses_of(batch.rows, both)
        weight = weights(both, TokenValues.spread(expected_logps(network, states), layout.mask))
        return weight * each, {**watched, "weight": weight}


@torch.no_grad()
def weights(both: TokenValues, expected: TokenValues) -> Tensor:
    """Weights [pairs] from log-probs of chosen replies, below which stand those of the rejected ones, and `expected`.

    Zhou et al. (2024), eq. 2.
    """
    chosen, rejected = (both.mean() - expected.mean()).exp().chunk(2)
    return chosen * rejected


@torch.no_grad()
def expected_logps(network: Network, states: Tensor) -> Tensor:
    """log of the sum of p^2 over the vocabulary [targets] from the states [targets, width] before them."""
    found = []
    for part in states.split(constants(states.device.type).head_rows):
        with network.autocast():
            logits = network.head(part)
        found.append((2 * logits.float().log_softmax(-1)).logsumexp(-1))
    return torch.cat(found)
