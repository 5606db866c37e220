"""Differences of contracts, for which rows of several runs do not stand in one table, in words and fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..results.integrity import digest
from .wording import flat

# Part of the contract -> what it means that it differs. `sft` and `reward_model` follow from the parts before them.
MEANING = {
    "benchmark": "they are runs of different benchmarks",
    "model": "they start from different base models",
    "base": "the weights of the base model differ",
    "tokenizer": "the tokenizers differ, so lengths and KL are counted in other tokens",
    "template": "the text is framed by different chat templates",
    "data": "they learn from different data, or keep other prompts for evaluation",
    "demonstrations": "SFT imitates other demonstrations",
    "prompts": "methods sample from other prompts",
    "questions": "policies are judged on other questions",
    "splits": "the data is split differently, so other prompts are held out",
    "order": "the data comes in another order",
    "lengths": "prompts and responses have other limits of length",
    "tuning": "precision, device, sampler, LoRA or the bits of its base differ",
    "sft": "the SFT models differ, so a win rate against SFT is against another opponent",
    "reward_model": "the reward models differ, so rewards are on other scales and win rates have other judges",
    "training_reward": "methods are trained on another reward",
    "evaluated_by": "another reward model evaluates",
    "budget": "the budgets differ",
    "policies": "other policies that were trained elsewhere stand beside the methods",
    "methods": "the benchmark sets its methods differently",
    "method_defaults": "the benchmark sets its methods differently",
    "evaluation": "the evaluation draws other prompts, responses or checkpoints",
    "code": "the code that trains differs",
    "packages": "the versions of the libraries differ",
}
NONE = "–"


@dataclass(frozen=True)
class Differences:
    """`sentences` say what differs; `fields`: (dotted name, the value in each run), those that differ only."""

    contracts: int
    sentences: list[str]
    fields: list[tuple[str, list[str]]]


def differences(records: Sequence[Mapping[str, Any]]) -> Differences:
    """Differences between the contracts of runs, in the order of the contract; empty where they are all the same."""
    contracts = [record.get("contract") or {} for record in records]
    rows = [dict(flat(contract)) for contract in contracts]
    names = dict.fromkeys(name for row in rows for name in row)
    fields = [(name, [row.get(name, NONE) for row in rows]) for name in names]
    fields = [(name, values) for name, values in fields if len(set(values)) > 1]
    parts = {name.partition(".")[0] for name, _ in fields}
    said = [meaning for part, meaning in MEANING.items() if part in parts]
    said += [f"{part} differs" for part in sorted(parts - set(MEANING))]
    return Differences(len({digest(contract) for contract in contracts}), list(dict.fromkeys(said)), fields)
