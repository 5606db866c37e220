"""The contract of a table's rows, and notes that a reader of its numbers needs beside it."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from ..analysis.data_account import account
from ..analysis.elsewhere import TRAINED_HERE
from ..analysis.verdict import listed
from ..models.chat import PLAIN_TEMPLATE, TODAY, writes_date
from ..models.checkpoint import Checkpoint
from ..models.elsewhere import Elsewhere
from ..models.model_files import remote_code_allowed
from ..results.integrity import code_digest, digest
from ..runtime import processes, zero
from .context import LOSSES, TRAINING_CODE, Workshop, settings_of
from .data.brought import DEMONSTRATIONS, PRACTICE, QUESTIONS
from .data.corpus import Corpus
from .definition.rows import Row
from .definition.spec import BenchmarkSpec
from .stages.scorers import ScorerSettings
from .stages.steps import needed
from .stages.training_reward import TrainingReward

BROUGHT = {
    DEMONSTRATIONS: "demonstrations that SFT imitates",
    PRACTICE: "prompts that methods sample from",
    QUESTIONS: "questions that policies are judged on",
}

NOT_TRAINED_HERE = "A policy that was not trained here: it is generated from, scored and compared as it is."


def contract(
    spec: BenchmarkSpec,
    base: Checkpoint,
    tokenizer: Any,
    corpus: Corpus,
    shop: Workshop,
    sft: Checkpoint,
    reward_models: dict[str, Checkpoint],
    scored_by: ScorerSettings,
    **more: Any,
) -> dict[str, Any]:
    """All that rows of one table must share, the benchmark's settings of its methods included.

    Which of them are run, seeds and evaluators come on top of it. more: fields of a tuning, policies that were
    trained elsewhere, the round; left out where they are None.
    """
    return {
        "benchmark": spec.name,
        "model": spec.model,
        "base": base.key,
        "tokenizer": digest(tokenizer.get_vocab()),
        "template": digest(tokenizer.chat_template),
        **({"date": f"{TODAY:%Y-%m-%d}"} if writes_date(tokenizer) else {}),
        "data": corpus.digest,
        **({"labels": done} if (done := corpus.record.get("labels")) else {}),
        **{name: _without_source(found) for name in BROUGHT if (found := corpus.record.get(name))},
        "splits": {**spec.shares, "seed": spec.split_seed},
        "lengths": {"prompt": spec.max_prompt_tokens, "response": spec.max_response_tokens},
        **({"trust_remote_code": True} if remote_code_allowed() else {}),
        "tuning": shop.tuning.identity(),
        # stages have one key however many processes made them, for results differ by rounding alone; this names it
        **({"processes": arrangement()} if processes.size() > 1 else {}),
        "sft": {**sft_settings(spec), "content": sft.key},
        "reward_model": {
            **spec.reward_model.model_dump(),
            **{role: checkpoint.key for role, checkpoint in reward_models.items()},
        },
        **(
            {"training_reward": {"name": brought.name, "content": brought.key}}
            if (brought := scored_by.training)
            else {}
        ),
        **({"evaluated_by": scored_by.evaluated_by} if scored_by.evaluated_by else {}),
        "budget": spec.budget,
        "methods": spec.methods,
        "method_defaults": spec.method_defaults,
        "evaluation": evaluation_settings(spec),
        "margin": spec.margin,
        "order": "a fresh permutation of the training pairs (or prompts) each epoch, from the seed",
        "code": code_digest(*TRAINING_CODE, LOSSES),
        "packages": shop.packages,
        **{name: value for name, value in more.items() if value is not None},
    }


def sft_settings(spec: BenchmarkSpec) -> dict[str, Any]:
    """SFT, as the contract names it."""
    return spec.sft.model_dump() if spec.sft else {"trained": False}


def evaluation_settings(spec: BenchmarkSpec) -> dict[str, Any]:
    """The evaluation, as the contract names it: questions that were brought stand apart there."""
    seen = {"without_thoughts": True} if spec.evaluation.without_thoughts else {}
    return {**spec.evaluation.model_dump(exclude={"questions", "without_thoughts"}), **seen}


def elsewhere(policy: Elsewhere) -> dict[str, Any]:
    """A policy that was trained elsewhere, as the contract names it: by its contents, an adapter's base among them."""
    return {"policy": policy.named, "content": policy.key, TRAINED_HERE: False}


def described(row: Row, spec: BenchmarkSpec) -> dict[str, Any]:
    """A row for run.json: its method with settings and what that needs, or where its policy came from."""
    if row.policy:
        came = {"policy": row.policy.named, "content": row.policy.key}
        about = {"description": NOT_TRAINED_HERE, "needs": [], "optimizes_reward": False, TRAINED_HERE: False}
        return {"name": row.name, "params": came, **about}
    return {
        "name": row.name,
        "params": settings_of(row.method),
        "description": (type(row.method).__doc__ or "").partition("\n")[0],
        "needs": needed(row.method, spec),
        "optimizes_reward": bool(getattr(row.method, "needs_reward", False)),
    }


def arrangement() -> dict[str, Any]:
    """The number of processes, and what they divide among them while they train beside the rows of a step."""
    divided = "nothing"
    if processes.is_sharding():
        divided = "weights, gradients, moments"
    elif processes.is_dividing_moments():
        divided = "gradients, moments" if zero.check().stage == 2 else "moments"
    return {"count": processes.size(), "divided": divided}


def _without_source(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a file that a benchmark brings, but where it lay."""
    return {name: value for name, value in found.items() if name != "source"}


def told_of_data(spec: BenchmarkSpec, corpus: Corpus) -> list[str]:
    """What the data are, said before anything is trained on them."""
    first, *rest = account(corpus.record)
    splits = ", ".join(f"{name} {s['pairs']} pairs" for name, s in corpus.record["splits"].items())
    return [f"{spec.name}: {first}", *(f"  {line}" for line in rest), f"splits: {splits}", *told_of_brought(corpus)]


def told_of_brought(corpus: Corpus) -> list[str]:
    """What the benchmark brings beside its pairs, how much of it is used, and what was left out of it."""
    said = []
    for name, words in BROUGHT.items():
        if found := corpus.record.get(name):
            reasons = ", ".join(f"{count} {reason}" for reason, count in found["dropped"].items())
            left = f"; left out: {reasons}" if reasons else ""
            said.append(f"{words}: {found['used']} of {found['read']} rows of {found['source']}{left}")
    return said


def notes(
    spec: BenchmarkSpec,
    tokenizer: Any,
    methods: dict[str, Any],
    elsewhere: Mapping[str, Elsewhere],
    corpus: Corpus,
    training: TrainingReward | None = None,
    round: Mapping[str, Any] | None = None,
) -> list[str]:
    """Notes on the data and the model that a reader of the numbers needs; round: of a run that continues another."""
    said = told_of_brought(corpus)
    if spec.sft is None:
        said.append(
            f"no SFT was trained: sft stands for {spec.model} as it is, from which every method starts, and its gate "
            f"compares nothing"
        )
    if training and (asking := [label for label, method in methods.items() if getattr(method, "needs_reward", False)]):
        kind = "a function" if training.model is None else "a reward model from elsewhere"
        said.append(
            f"{listed(asking)} optimized {training.name}, {kind}; no training reward model was trained, and what the "
            f"reward itself computes is in no cost"
        )
        if training.is_true:
            said.append(
                f"{listed(asking)} optimized the true reward itself, which no team has: what a perfect reward model "
                f"would give, beside which learnt rewards are read"
            )
    if tokenizer.chat_template == PLAIN_TEMPLATE:
        said.append(f"{spec.model} has no chat template; the plain template of alignment-bench was used")
    if writes_date(tokenizer):
        said.append(
            f"the chat template writes the date; {TODAY:%d %B %Y} stands in every prompt, lest another day give other "
            f"numbers"
        )
    for name, policy in elsewhere.items():
        if policy.tokenizer().chat_template == PLAIN_TEMPLATE:
            said.append(f"{name} has no chat template; the plain template of alignment-bench was used for it")
    for label, method in methods.items():
        if (count := getattr(method, "responses_per_answer", 1)) > 1:
            said.append(f"{label} costs nothing to train but {count} responses and scores for every response in use")
        if spec.sft and getattr(method, "start", "sft") != "sft":
            said.append(f"{label} is tuned from the {method.start} model, so it saw the preference data only")
        if getattr(method, "data", "pairs") == "unpaired":
            said.append(f"{label} learns from other data than the rest: {spec.unpaired}")
    record = corpus.record
    if same := record["same_prompts"]:
        said.append(
            f"the chat template leaves something out: {same} prompts differ from another in their text and not in what "
            f"the model sees, and count as the same prompt"
        )
    asked, kind = len(corpus.prompts(corpus.questions, 0)), "questions" if QUESTIONS in record else "held-out prompts"
    if asked < spec.evaluation.prompts:
        said.append(f"only {asked} {kind} are available, {spec.evaluation.prompts} were asked for")
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
