"""`bench export`: the responses of a run's policies as files that AlpacaEval and Arena-Hard-Auto read."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.chat import encode_prompt
from ..models.checkpoint import Checkpoint
from ..models.limits import context_window
from ..models.policy import Policy
from ..models.sampler import to_generations
from ..models.sampling import sample
from ..models.tuning import Tuning
from ..results.outputs import Format, Response, read_outputs, write_outputs
from ..results.records import Generation, Prompt
from ..results.run_folder import Cell, Run, check_names
from ..results.store import POLICY


def export(
    run: Run,
    format: Format,
    out: Path,
    *,
    questions: Path | None = None,
    max_new_tokens: int | None = None,
    device: str = "auto",
) -> list[Path]:
    """Write a file for each method and seed, named BENCHMARK-METHOD-seedN; returns the files.

    Without questions, the responses to the run's own held-out prompts, SFT's included. With a file of the tool (its
    evaluation set, or any model's outputs), every trained policy answers those questions, sampled as in the evaluation;
    max_new_tokens: the longest response, by default the benchmark's.
    """
    record, written = run.record, []
    contract = record["contract"]
    asked = read_outputs(questions, format) if questions else []
    for cell in run.cells():
        name = f"{record['benchmark']}-{cell.method}-seed{cell.seed}"
        check_names([name])
        if questions:
            if not (cell.path / POLICY).is_dir():
                continue  # SFT's weights lie in the cache, not in the run
            tuning = Tuning(**{**contract["tuning"], "device": device}).resolve()
            limit = max_new_tokens or contract["lengths"]["response"]
            found = _respond(cell, asked, tuning, limit, contract["evaluation"]["temperature"])
            dataset = [a.dataset for a in asked]
        else:
            found = cell.generations()
            dataset = [record["benchmark"]] * len(found)
        responses = [
            Response(g.prompt_id, g.prompt, g.response, name, d, g.length) for g, d in zip(found, dataset, strict=True)
        ]
        written.append(write_outputs(responses, format, out, datetime.fromisoformat(record["created"]).timestamp()))
    if not written:
        raise InputError(f"{run.path} holds no trained policy; run a method first")
    return written


def _respond(cell: Cell, asked: list[Response], tuning: Tuning, limit: int, temperature: float) -> list[Generation]:
    cell.check()
    policy = Policy.open(Checkpoint(cell.path / POLICY, ""), tuning, trainable=False)
    try:
        prompts = list(_prompts(policy, asked, limit))
        samples = sample(
            policy,
            prompts,
            max_new_tokens=limit,
            seed=cell.seed,
            temperature=temperature,
            progress=f"{cell.method} seed {cell.seed}",
        )
        return to_generations(policy, samples)
    finally:
        policy.network.close()


def _prompts(policy: Policy, asked: list[Response], limit: int) -> Iterator[Prompt]:
    """The questions in the policy's template; InputError for one that leaves no room for a response."""
    model: Any = policy.network.model
    window = context_window(model.config)
    for question in asked:
        ids = tuple(encode_prompt(policy.tokenizer, question.messages))
        if window and len(ids) + limit > window:
            raise InputError(
                f"question {question.id} has {len(ids)} tokens, and with responses of {limit} the model reads only "
                f"{window}; lower --max-new-tokens or leave that question out"
            )
        yield Prompt(question.id, question.messages, ids)
