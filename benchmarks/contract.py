"""The contract of a table's rows, what they are made with, and where."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from ..analysis.elsewhere import TRAINED_HERE
from ..models.chat import TODAY, writes_date
from ..models.checkpoint import Checkpoint
from ..models.elsewhere import Elsewhere
from ..models.model_files import remote_code_allowed
from ..results.integrity import code_digest, digest
from ..runtime import processes, sharding, zero
from ..runtime.device import gpu_name, measured_of, processor
from .context import LOSSES, TRAINING_CODE, Workshop, settings_of
from .data.corpus import Corpus
from .definition.rows import Row
from .definition.spec import BenchmarkSpec
from .notes import BROUGHT
from .stages.scorers import ScorerSettings
from .stages.steps import needed

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
        divided = "weights, gradients, moments" + ", frozen models" * sharding.divides_frozen()
    elif processes.is_dividing_moments():
        divided = "gradients, moments" if zero.check().stage == 2 else "moments"
    return {"count": processes.size(), "divided": divided}


def _without_source(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a file that a benchmark brings, but where it lay."""
    return {name: value for name, value in found.items() if name != "source"}


def begun(spec: BenchmarkSpec, agreed: dict[str, Any], shop: Workshop) -> dict[str, Any]:
    """The head of run.json: which run it is, when and by which command it was begun, and where."""
    return {
        "run_id": digest(agreed)[:12],
        "benchmark": spec.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [shlex.join(["bench", *sys.argv[1:]])],
        "contract": agreed,
        "environment": environment(shop),
    }


def environment(shop: Workshop) -> dict[str, Any]:
    """A run's surroundings: packages, machine, device, and of a GPU what was measured on it."""
    measured = measured_of(name) if (name := gpu_name(shop.tuning.device)) else None
    return {
        "packages": {
            **shop.packages,
            "alignment-bench": version("alignment-bench"),
            "python": platform.python_version(),
        },
        "machine": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": shop.tuning.device,
        "processes": processes.size(),
        "precision": shop.tuning.precision,
        **({"constants": measured} if measured else {}),
    }
