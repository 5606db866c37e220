"""The contract of a table's rows, and notes that a reader of its numbers needs beside it."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from ..models.chat import PLAIN_TEMPLATE
from ..models.checkpoint import Checkpoint
from ..models.model_files import remote_code_allowed
from ..results.integrity import code_digest, digest
from ..runtime import processes, zero
from .context import LOSSES, TRAINING_CODE, Workshop
from .data.corpus import Corpus
from .definition.spec import BenchmarkSpec


def contract(
    spec: BenchmarkSpec,
    base: Checkpoint,
    tokenizer: Any,
    corpus: Corpus,
    shop: Workshop,
    sft: Checkpoint,
    reward_models: dict[str, Checkpoint],
    evaluated_by: str | None,
    **more: Any,
) -> dict[str, Any]:
    """All that rows of one table must share, the benchmark's settings of its methods included.

    Which of them are run, seeds and evaluators come on top of it. evaluated_by: hash of the user's reward model, which
    evaluates. more: fields of a tuning, left out where they are None.
    """
    return {
        "benchmark": spec.name,
        "model": spec.model,
        "base": base.key,
        "tokenizer": digest(tokenizer.get_vocab()),
        "template": digest(tokenizer.chat_template),
        "data": corpus.digest,
        **({"labels": done} if (done := corpus.record.get("labels")) else {}),
        "splits": {**spec.splits.shares, "seed": spec.split_seed},
        "lengths": {"prompt": spec.max_prompt_tokens, "response": spec.max_response_tokens},
        **({"trust_remote_code": True} if remote_code_allowed() else {}),
        "tuning": shop.tuning.identity(),
        # stages have one key however many processes made them, for results differ by rounding alone; this names it
        **({"processes": arrangement()} if processes.size() > 1 else {}),
        "sft": {**spec.sft.model_dump(), "content": sft.key},
        "reward_model": {
            **spec.reward_model.model_dump(),
            **{role: checkpoint.key for role, checkpoint in reward_models.items()},
        },
        **({"evaluated_by": evaluated_by} if evaluated_by else {}),
        "budget": spec.budget,
        "methods": spec.methods,
        "method_defaults": spec.method_defaults,
        "evaluation": spec.evaluation.model_dump(),
        "margin": spec.margin,
        "order": "a fresh permutation of the training pairs (or prompts) each epoch, from the seed",
        "code": code_digest(*TRAINING_CODE, LOSSES),
        "packages": shop.packages,
        **{name: value for name, value in more.items() if value is not None},
    }


def arrangement() -> dict[str, Any]:
    """The number of processes, and what they divide among them while they train beside the rows of a step."""
    divided = "nothing"
    if processes.is_sharding():
        divided = "weights, gradients, moments"
    elif processes.is_dividing_moments():
        divided = "gradients, moments" if zero.check().stage == 2 else "moments"
    return {"count": processes.size(), "divided": divided}


def notes(spec: BenchmarkSpec, tokenizer: Any, methods: dict[str, Any], corpus: Corpus, round: Any = None) -> list[str]:
    """Notes on the data and the model that a reader of the numbers needs; round: of a run that continues another."""
    said = []
    if tokenizer.chat_template == PLAIN_TEMPLATE:
        said.append(f"{spec.model} has no chat template; the plain template of alignment-bench was used")
    for label, method in methods.items():
        if (count := getattr(method, "responses_per_answer", 1)) > 1:
            said.append(f"{label} costs nothing to train but {count} responses and scores for every response in use")
        if getattr(method, "start", "sft") != "sft":
            said.append(f"{label} is tuned from the {method.start} model, so it saw the preference data only")
        if getattr(method, "data", "pairs") == "unpaired":
            said.append(f"{label} learns from other data than the rest: {spec.unpaired}")
    record = corpus.record
    prompts = record["splits"]["heldout"]["prompts"]
    if prompts < spec.evaluation.prompts:
        said.append(f"only {prompts} held-out prompts are available, {spec.evaluation.prompts} were asked for")
    if done := record.get("labels"):
        said.append(
            f"the labels of {done['changed']} of {record['splits']['training']['pairs']} training pairs were changed "
            f"on purpose (flip {done['flip']:g}, length bias {done['length_bias']:g}); no other pair was"
        )
    if more := record.get("more_pairs"):
        out, sources = sum(more["dropped"].values()), ", ".join(more["sources"])
        said.append(f"{more['used']} of the training pairs are further ones ({sources}); {out} of these were left out")
    if round:
        said.append(
            f"round {round['number']} continues run {round['parent']}: sampling from its policies, and the labels "
            f"({round['labelled_by']}), are not among the costs"
        )
        if round["labelled_by"] == "judge":
            said.append("the judge labelled pairs of this round, so its win rates are what was trained for")
    dropped = sum(record["dropped"].values())
    if 2 * dropped > record["read"]:
        said.append(f"{dropped} of {record['read']} rows were dropped, so the rest may not represent the whole")
    return said


def environment(shop: Workshop) -> dict[str, Any]:
    """A run's surroundings: packages, machine, device."""
    return {
        "packages": {
            **shop.packages,
            "alignment-bench": version("alignment-bench"),
            "python": platform.python_version(),
        },
        "machine": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": shop.tuning.device,
        "processes": processes.size(),
        "precision": shop.tuning.precision,
    }
