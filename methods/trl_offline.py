"""TRL's DPO, ORPO and KTO trainers behind our interface, to check ours against them in one table."""

import warnings
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from ..errors import TrainingError
from ..models.layout import count_tokens
from ..results.records import Pair, rated_replies
from ..training.ledger import Ledger
from ..training.task import TrainingTask, shuffled, sides_of
from .dpo import DPO
from .kto import KTO
from .orpo import ORPO
from .trl_base import Training, TRLMethod, configure


def sequential(trainer: type) -> type:
    """A trainer class that takes its rows in the order they have."""
    from torch.utils.data import SequentialSampler

    class Sequential(trainer):
        """TRL's trainer."""

        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(self.train_dataset)

    return Sequential


def _plan(method: Any, task: TrainingTask, ledger: Ledger) -> tuple[Training, list[Pair], int]:
    """The training, its pairs in our order, and the pairs a step."""
    if not len(task.pairs):
        raise TrainingError("TRL's offline trainers learn from preference pairs and the benchmark has none")
    batch = min(method.batch_size, task.budget.examples)
    steps = task.budget.examples // batch
    return Training(task, ledger, steps, batch, method.warmup), pairs_in_order(task, steps * batch), batch


def pairs_in_order(task: TrainingTask, count: int) -> list[Pair]:
    """The task's pairs as our own loop draws them."""
    return [task.pairs.pairs[i] for i in islice(shuffled(len(task.pairs), task.seed), count)]


def _optimization(method: Any, batch: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": batch,
        "learning_rate": method.lr,
        "weight_decay": method.weight_decay,
        "max_grad_norm": method.max_grad_norm,
    }


def _pair_tokens(pairs: list[Pair]) -> int:
    return sum(count_tokens(sides_of(pair)) for pair in pairs)


@dataclass(frozen=True, kw_only=True)
class TRLDPO(TRLMethod, DPO):
    """TRL's DPOTrainer (needs `pip install trl`); same settings, loss, optimizer, schedule and order as `dpo`."""

    gradient_checkpointing: bool = False
    """Keep no activations and compute them again in the backward pass, TRL's default: less memory, more time."""
    label_smoothing: Annotated[float, Ge(0), Le(0)] = 0.0
    """TRL's DPO loss ignores it, so it must be 0."""
    precompute_reference: bool = False
    """Compute the reference's log-probs once before training, not at each step; the same numbers in less time."""

    settings_of: ClassVar = "dpo"

    def trainer(self, trl: Any, task: TrainingTask, ledger: Ledger) -> Any:
        from datasets import Dataset

        training, pairs, batch = _plan(self, task, ledger)
        ledger.trained_tokens = ledger.scored_tokens = _pair_tokens(pairs)  # scored: the reference's pass
        rows = [
            {"prompt_ids": list(p.prompt.ids), "chosen_ids": list(p.chosen), "rejected_ids": list(p.rejected)}
            for p in pairs
        ]
        config = trl.DPOConfig(
            **training.options(
                beta=self.beta,
                max_length=None,
                precompute_ref_log_probs=self.precompute_reference,
                gradient_checkpointing=self.gradient_checkpointing,
            ),
            **_optimization(self, batch),
        )
        return sequential(training.adapt(trl.DPOTrainer))(
            **training.models(),
            args=configure(config, task),
            train_dataset=Dataset.from_list(rows),
            processing_class=task.sft.tokenizer(),
        )


@dataclass(frozen=True, kw_only=True)
class TRLORPO(TRLMethod, ORPO):
    """TRL's experimental ORPOTrainer (needs `pip install trl`); settings and order as `orpo`'s, NLL as TRL has it.

    TRL learns the NLL of prompt and chosen response as one mean over all tokens of a batch, `orpo` with the same scope
    as the mean over each row's tokens.
    """

    nll_scope: Literal["prompt+response"] = "prompt+response"
    """TRL has no other."""
    start: Literal["sft"] = "sft"
    """The shared SFT checkpoint."""

    settings_of: ClassVar = "orpo"
    goal: ClassVar[str] = "orpo_by_batch"

    def trainer(self, trl: Any, task: TrainingTask, ledger: Ledger) -> Any:
        from datasets import Dataset

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is experimental
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        training, pairs, batch = _plan(self, task, ledger)
        ledger.trained_tokens = _pair_tokens(pairs)

        base: Any = sequential(training.adapt(ORPOTrainer))

        class GivenIds(base):
            """TRL's trainer with our token ids in place of its own tokenization."""

            def tokenize_row(self, feature, model=None):
                pair, row = pairs[feature["number"]], {}
                for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                    ids = [*pair.prompt.ids, *response]
                    row[f"{side}_input_ids"] = ids
                    row[f"{side}_attention_mask"] = [1] * len(ids)
                    row[f"{side}_labels"] = [-100] * len(pair.prompt.ids) + list(response)
                return {
                    **row,
                    "prompt_input_ids": list(pair.prompt.ids),
                    "prompt_attention_mask": [1] * len(pair.prompt.ids),
                }

        longest = max(len(p.prompt.ids) + max(len(p.chosen), len(p.rejected)) for p in pairs)
        config = ORPOConfig(
            **training.options(beta=self.weight, max_length=longest, remove_unused_columns=False),
            **_optimization(self, batch),
        )
        rows = [{"number": i, "prompt": "p", "chosen": "c", "rejected": "r"} for i in range(len(pairs))]
        return GivenIds(
            **training.models(reference=False),
            args=configure(config, task),
            train_dataset=Dataset.from_list(rows),
            processing_class=task.sft.tokenizer(),
        )


@dataclass(frozen=True, kw_only=True)
class TRLKTO(TRLMethod, KTO):
    """TRL's KTOTrainer (needs `pip install trl`); settings, mismatched replies and order as `kto`'s on pairs."""

    data: Literal["pairs"] = "pairs"
    """The benchmark's pairs, chosen as good and rejected as not."""

    settings_of: ClassVar = "kto"

    def trainer(self, trl: Any, task: TrainingTask, ledger: Ledger) -> Any:
        from datasets import Dataset

        training, pairs, batch = _plan(self, task, ledger)
        ledger.trained_tokens = _pair_tokens(pairs)
        ledger.scored_tokens = 3 * ledger.trained_tokens  # the reference's pass, and both passes of the mismatched
        rows = [row for i in range(0, len(pairs), batch) for row in self._rows(pairs[i : i + batch])]
        config = trl.KTOConfig(
            **training.options(
                beta=self.beta,
                desirable_weight=self.desirable_weight,
                undesirable_weight=self.undesirable_weight,
                max_length=None,
            ),
            **_optimization(self, 2 * batch),
        )
        return sequential(training.adapt(trl.KTOTrainer))(
            **training.models(),
            args=configure(config, task),
            train_dataset=Dataset.from_list(rows),
            processing_class=task.sft.tokenizer(),
        )

    def _rows(self, batch: list[Pair]) -> list[dict[str, Any]]:
        """A batch's replies one by one; the mismatched reply of a prompt is one of the pair before it."""
        replies = [reply for p in batch for reply in rated_replies(p)]
        return [
            {
                "prompt_ids": list(reply.prompt.ids),
                "completion_ids": list(reply.ids),
                "KL_completion_ids": list(replies[i - 2].ids),
                "label": reply.good,
            }
            for i, reply in enumerate(replies)
        ]
