"""SFT on the chosen responses, continued: the control for "more training on the same pairs"."""

from dataclasses import dataclass

from torch import Tensor

from ..models.layout import count_tokens
from ..models.policy import Policy
from ..results.records import Pair
from ..training.ledger import Ledger
from ..training.task import TrainingTask
from .pairwise import OfflineMethod


@dataclass(frozen=True, kw_only=True)
class SFTChosen(OfflineMethod):
    """Imitates the chosen response and ignores the rejected one: what a method must beat to claim the preference."""

    def fit(self, policy: Policy, task: TrainingTask, ledger: Ledger) -> None:
        pairs = task.pairs.pairs
        # every token weighs the same, as in SFT: a mean over each reply's own tokens would favour brief ones
        tokens = sum(len(p.chosen) for p in pairs) / max(1, len(pairs))

        def loss(batch: list[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
            sequences = [(p.prompt.ids, p.chosen) for p in batch]
            ledger.trained_tokens += count_tokens(sequences)
            chosen = policy.logps(sequences).sum()
            return -chosen / tokens, {"chosen_logps": chosen}

        self.run(policy, task, ledger, pairs, loss, lambda p: [(p.prompt.ids, p.chosen)])
