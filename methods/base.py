"""The interface of a method, and the names that a method of one's own imports."""

from typing import Protocol

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint
from ..results.records import LEARNING_RATE, Pair, Prompt, Range, RatedReply, rated_replies
from ..training.ledger import Ledger, Snapshots
from ..training.task import Budget, PairDataset, PromptDataset, TrainingTask, shuffled

__all__ = [  # the first is defined here; the others have rooms of their own, and plugins know them by this one
    "LEARNING_RATE",
    "Method",
    "Budget",
    "Checkpoint",
    "Ledger",
    "Pair",
    "PairDataset",
    "Prompt",
    "PromptDataset",
    "Range",
    "RatedReply",
    "Snapshots",
    "TrainingError",
    "TrainingTask",
    "rated_replies",
    "shuffled",
]


class Method(Protocol):
    """A frozen dataclass of hyperparameters IS the method.

    `train` writes the policy to `task.out / "policy"` (Hugging Face layout), a log to `task.out / "metrics.jsonl"`
    (one object with `step` a line) and what it cost to `task.out / "cost.json"`; `Ledger` does the last two.
    An attribute `responses_per_answer` of n says that each response is the best of n samples by the training reward; a
    `space`, `ClassVar[dict[str, Range]]` by field, among which values `bench tune` looks for the method's best;
    `reward_models` of n that it wants n training reward models, all but the first in `task.more_rewards`; `functions`
    which ones its settings name as package.module:function, for their code determines results; a `goal` of a name in
    `GOALS` (benchmarks/selfcheck/goals.py) whose optimum `bench check` then requires it to reach, and `goal_fields`
    under which names of its own it has what the goal hangs on, as {"beta": "tau"}.
    """

    def train(self, task: TrainingTask) -> Checkpoint: ...
