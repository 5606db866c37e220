"""The peers of `bench speed`: TRL's supervised and reward trainers and transformers' `generate`.

They get our token ids. The other peers are the `trl-*` methods.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ...methods.trl_base import Training, configure
from ...methods.trl_offline import pairs_in_order, sequential
from ...models.policy import Policy
from ...results.records import Prompt
from ...training.ledger import Ledger
from ...training.task import TrainingTask


def train_sft(task: TrainingTask, lr: float, batch: int) -> None:
    """TRL's SFTTrainer on the chosen responses; the log goes to task.out."""
    rows = [
        {"input_ids": [*p.prompt.ids, *p.chosen], "labels": [-100] * len(p.prompt.ids) + list(p.chosen)}
        for p in pairs_in_order(task, task.budget.examples)
    ]
    model = AutoModelForCausalLM.from_pretrained(task.sft.path, dtype="float32")

    def options(training: Training) -> Any:
        kept = training.options(dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
        del kept["disable_dropout"]  # SFTConfig has no such setting; the model has no dropout
        return trl.SFTConfig(**kept, per_device_train_batch_size=batch, learning_rate=lr)

    _train(task, batch, trl.SFTTrainer, options, model, rows)


def train_reward_model(task: TrainingTask, lr: float, batch: int) -> None:
    """TRL's RewardTrainer; the log goes to task.out."""
    rows = [
        {"chosen_ids": [*p.prompt.ids, *p.chosen], "rejected_ids": [*p.prompt.ids, *p.rejected]}
        for p in pairs_in_order(task, task.budget.examples)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(task.sft.path, dtype="float32", num_labels=1)

    def options(training: Training) -> Any:
        kept = training.options(max_length=None, center_rewards_coefficient=None)
        return trl.RewardConfig(**kept, per_device_train_batch_size=batch, learning_rate=lr)

    _train(task, batch, trl.RewardTrainer, options, model, rows)


def generate(policy: Policy, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
    """transformers' `generate`: pure sampling from left-padded prompts in one batch."""
    longest = max(len(p.ids) for p in prompts)
    ids = torch.tensor([[0] * (longest - len(p.ids)) + list(p.ids) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts])
    model: Any = policy.network.activate()
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            pad_token_id=policy.tokenizer.pad_token_id,
        )
    return out[:, longest:].tolist()


def _train(
    task: TrainingTask,
    batch: int,
    trainer: type,
    options: Callable[[Training], Any],
    model: Any,
    rows: list[dict[str, Any]],
) -> None:
    ledger = Ledger(task.out, network_size=sum(p.numel() for p in model.parameters()))
    training = Training(task, ledger, len(rows) // batch, batch, warmup=0.05)
    sequential(training.adapt(trainer))(
        model=model,
        args=configure(options(training), task),
        train_dataset=Dataset.from_list(rows),
        processing_class=task.sft.tokenizer(),
    ).train()
    ledger.close()
