"""How an evaluator gets what it needs: responses from disk, and a policy in memory where it asks for one."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..evaluators.base import Conversation
from ..methods.base import Prompt
from ..methods.policy import Policy
from ..methods.rollout import sample, to_generations
from ..results.chat import encode_prompt, encode_response
from ..results.checkpoint import Checkpoint
from ..results.lazy import blocks
from ..results.records import Generation, Message
from ..results.store import GENERATIONS, SCORES, Stage, digest, read_generations
from . import answers as answering
from .workshop import Workshop, settings_of, source_digest


@dataclass(frozen=True)
class Limits:
    """How a policy is sampled for scoring."""

    max_prompt_tokens: int
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True)
class PolicyInMemory:
    """An `OpenPolicy` over one of ours; see evaluators/base.py."""

    policy: Policy
    limits: Limits

    def sample(self, prompts: Sequence[Sequence[Message]], seed: int) -> list[Generation]:
        asked = [
            Prompt(digest(list(m))[:16], tuple(m), tuple(encode_prompt(self.policy.tokenizer, m))) for m in prompts
        ]
        found = sample(
            self.policy,
            asked,
            max_new_tokens=self.limits.max_new_tokens,
            temperature=self.limits.temperature,
            seed=seed,
            progress="responses",
        )
        return to_generations(self.policy, found)

    def logps(self, conversations: Sequence[Conversation]) -> list[float]:
        found = (self.policy.total_logps(self._encode(block)).tolist() for block in blocks(conversations))
        return [value for values in found for value in values]

    @torch.no_grad()
    def entropies(self, conversations: Sequence[Conversation]) -> list[float]:
        rows = self._encode(conversations)
        found = [0.0] * len(rows)

        def measure(group: list[int]) -> None:
            part = [rows[i] for i in group]
            logits, _, mask = self.policy.response_logits(part)
            logps = torch.log_softmax(logits.float(), dim=-1)
            each = torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, -(logps.exp() * logps).sum(-1))
            for i, value in zip(group, (each.sum(1) / mask.sum(1)).tolist(), strict=True):
                found[i] = value

        self.policy.network.in_groups(rows, measure)
        return found

    def network(self) -> tuple[Any, Any]:
        return self.policy.network.activate(), self.policy.tokenizer

    def _encode(self, conversations: Sequence[Conversation]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        tokenizer = self.policy.tokenizer
        return [
            (tuple(encode_prompt(tokenizer, prompt)), tuple(encode_response(tokenizer, response)))
            for prompt, response in conversations
        ]


@contextmanager
def opened(
    shop: Workshop, sft: Checkpoint, policy: Checkpoint | None, limits: Limits
) -> Iterator[tuple[PolicyInMemory, PolicyInMemory]]:
    """A policy (None: the SFT checkpoint itself) and the SFT checkpoint in memory."""
    reference = Policy.open(sft, shop.tuning, trainable=False)
    # a policy that is a whole model is opened as a copy of its own, so that the shared SFT model stays in memory
    model = Policy.open(policy, shop.tuning, trainable=True) if policy else reference
    try:
        yield PolicyInMemory(model, limits), PolicyInMemory(reference, limits)
    finally:
        model.network.close()


def score(
    shop: Workshop,
    name: str,
    evaluator: Any,
    needs: dict[str, str],
    answers: Stage,
    baseline: Stage,
    *,
    sft: Checkpoint,
    policy: Checkpoint | None,
    limits: Limits,
) -> Stage:
    """Let one evaluator score a policy's responses against the baseline's; the stage holds scores.parquet."""
    if getattr(evaluator, "keeps_answers", False):
        scores = list(evaluator.score(_read(answers), _read(baseline)))
        inputs = {"evaluator": name, "scores": digest([dataclasses.astuple(s) for s in scores])}
        return shop.store.stage("scores", inputs, lambda out: answering.write_scores(out / SCORES, scores))
    if not getattr(evaluator, "needs_policy", False):
        return answering.score(shop, name, evaluator, needs, responses(answers), responses(baseline))

    def build(out: Path) -> None:
        with opened(shop, sft, policy, limits) as (ours, reference):
            found = evaluator.score(_read(answers), _read(baseline), policy=ours, reference=reference)
            answering.write_scores(out / SCORES, list(found))

    inputs = shop.inputs(
        code=(*answering.CODE, "evaluators", "benchmarks/scoring.py"),
        evaluator=name,
        source=source_digest(type(evaluator)),
        settings={k: v for k, v in settings_of(evaluator).items() if k not in needs},
        needs=needs,
        responses=answers.content,
        baseline=baseline.content,
        sft=sft.key,
        policy=policy.key if policy else None,
        limits=dataclasses.asdict(limits),
    )
    return shop.store.stage("scores", inputs, build)


def _read(stage: Stage) -> list[Generation]:
    return read_generations(stage.path / GENERATIONS)


def responses(stage: Stage) -> tuple[str, Callable[[], list[Generation]]]:
    """The content key of a stage's responses, and how to read them."""
    return stage.content, lambda: _read(stage)
