"""The stages after a method: answers to the evaluation's prompts, and evaluators' scores of them."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..evaluators.base import traits_of
from ..methods.base import PromptDataset
from ..methods.policy import Policy
from ..methods.rollout import sample, to_generations
from ..results.checkpoint import Checkpoint
from ..results.integrity import digest_each
from ..results.records import Generation, Reward, Score
from ..results.store import GENERATIONS, SCORES, Stage, write_jsonl
from .workshop import MODEL_CODE, SCORER, TRAINING_CODE, Workshop, code_digest, settings_of, source_digest

CODE = (*TRAINING_CODE, "benchmarks/answers.py")
SCORING_CODE = ("evaluators", "benchmarks/answers.py", *MODEL_CODE)
REWARDS = "rewards.json"
Answers = tuple[str, Callable[[], list[Generation]]]  # content key, and how to read them


@dataclass(frozen=True)
class Choice:
    """How best-of-n answers: the best of several responses by a reward."""

    responses: int
    reward: Callable[[], Reward]
    key: str
    """Of the reward model."""


def generate(
    shop: Workshop,
    sft: Checkpoint,
    policy: Checkpoint | None,
    prompts: PromptDataset,
    *,
    temperature: float,
    seed: int,
    choice: Choice | None = None,
) -> Stage:
    """Answer the evaluation prompts with a policy (None: the SFT checkpoint itself), with entropy and KL to SFT.

    With a choice the policy's chosen response is the answer; its KL to SFT is then the bound log n - (n - 1) / n
    (Beirami et al. 2024, arXiv:2401.01879), for the policy itself must be SFT.
    """

    n = choice.responses if choice else 1

    def build(out: Path) -> None:
        reference = Policy.open(sft, shop.tuning, trainable=False)
        # a policy that is a whole model is opened as a copy of its own, so that the shared SFT model stays in memory
        model = Policy.open(policy, shop.tuning, trainable=True) if policy else reference
        try:
            samples = sample(
                model,
                [p for p in prompts.prompts for _ in range(n)],
                max_new_tokens=prompts.max_new_tokens,
                temperature=temperature,
                seed=seed,
                progress="responses",
            )
            if choice:
                rewards = torch.tensor(choice.reward()(to_generations(model, samples))).view(-1, n)
                samples = [samples[i * n + j] for i, j in enumerate(rewards.argmax(1).tolist())]
            sequences = [(s.prompt.ids, s.ids) for s in samples]
            entropies, kls, _ = model.entropy_kl_logps(sequences, reference if policy else None)
            if choice:
                kls = [math.log(n) - (n - 1) / n] * len(samples)
        finally:
            model.network.close()
        generations = zip(to_generations(model, samples, kls), entropies, strict=True)
        write_jsonl(out / GENERATIONS, [dataclasses.replace(g, entropy=entropy) for g, entropy in generations])

    inputs = shop.inputs(
        CODE,
        sft=sft.key,
        policy=policy.key if policy else None,
        prompts=digest_each([p.id, p.ids] for p in prompts.prompts),
        max_new_tokens=prompts.max_new_tokens,
        temperature=temperature,
        seed=seed,
        choice=[n, choice.key, code_digest(SCORER)] if choice else None,
    )
    return shop.store.stage("generations", inputs, build)


def score(
    shop: Workshop,
    name: str,
    evaluator: Any,
    needs: dict[str, str],
    responses: Answers,
    baseline: Answers,
) -> Stage:
    """Let one evaluator score responses against a baseline; the stage holds scores.parquet.

    needs: keys of the models that the evaluator uses. Responses and baseline: content key, and how to read them. Where
    the evaluator has rewards, those of the baseline are computed once, for all methods; and for a response that is the
    baseline's, where the evaluator rewards the text alone.
    """
    inputs = {
        "code": code_digest(*SCORING_CODE),
        "packages": shop.packages,
        "evaluator": name,
        "source": source_digest(type(evaluator)),
        "settings": {k: v for k, v in settings_of(evaluator).items() if k not in needs},
        "needs": needs,
    }

    def rewards(of: Answers, than: Answers | None = None) -> list[float]:
        """Of some responses; a text that others have too has the reward that it has there."""

        def build(out: Path) -> None:
            known = dict(zip(map(_text, than[1]()), rewards(than), strict=True)) if than else {}
            texts = [(_text(g), g) for g in of[1]()]
            new = iter(evaluator.rewards([g for text, g in texts if text not in known]))
            (out / REWARDS).write_text(json.dumps([known[t] if t in known else next(new) for t, _ in texts]))

        stage = shop.store.stage("rewards", {**inputs, "of": of[0], "than": than and than[0]}, build)
        return json.loads((stage.path / REWARDS).read_text())

    def build(out: Path) -> None:
        if (traits := traits_of(evaluator)).has_rewards:
            shares = traits.rewards_text and responses[0] != baseline[0]
            ours = rewards(responses, than=baseline if shares else None)
            scores = evaluator.compare(responses[1](), ours, rewards(baseline))
        else:
            scores = evaluator.score(responses[1](), baseline[1]())
        write_scores(out / SCORES, list(scores))

    return shop.store.stage("scores", {**inputs, "responses": responses[0], "baseline": baseline[0]}, build)


def _text(generation: Generation) -> tuple[str, str]:
    return generation.prompt_id, generation.response


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    import pandas

    frame = pandas.DataFrame([dataclasses.astuple(s) for s in scores], columns=["metric", "prompt_id", "value"])
    frame.astype({"value": "float64"}).to_parquet(path, index=False)


def join_scores(shop: Workshop, stages: Sequence[Stage]) -> Stage:
    """The scores of several evaluators in one table."""

    def build(out: Path) -> None:
        import pandas

        pandas.concat([pandas.read_parquet(s.path / SCORES) for s in stages]).to_parquet(out / SCORES, index=False)

    return shop.store.stage("all_scores", {"parts": [s.content for s in stages]}, build)
