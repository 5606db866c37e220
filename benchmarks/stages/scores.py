"""The stages of scores: each evaluator's of a policy's responses, and all of them in one table."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ...evaluators.base import OtherTokens, traits_of
from ...evaluators.judge import member_name
from ...models.checkpoint import Checkpoint
from ...results.integrity import code_digest, digest, write_json
from ...results.records import Generation, Score
from ...results.store import COST, SCORES, Stage
from ..context import SCORING_CODE, Workshop, class_code, function_code, settings_of
from ..definition.intact import put_back
from ..definition.plugins import is_ours
from .open_policy import Limits, opened
from .responses import Responses, read_responses

REWARDS = "rewards.json"
VERSUS = "judge on pairs of rows"  # in the place of an evaluator's name
QUESTIONS = "questions"  # of a judge, in cost.json


def score(
    shop: Workshop,
    name: str,
    evaluator: Any,
    needs: dict[str, str],
    ours: Stage,
    baseline: Stage,
    *,
    sft: Checkpoint,
    policy: Checkpoint | None,
    limits: Limits,
    read: Callable[[Stage], Responses] = read_responses,
    has_gate: bool = True,
) -> Stage:
    """One evaluator's scores of a policy's responses against the baseline's; the stage holds scores.parquet.

    needs: keys of the models that the evaluator uses. ours, baseline: the stages of the responses, which `read` reads.
    policy: None for the SFT checkpoint. has_gate: that was trained here.
    """
    responses, theirs = read(ours), read(baseline)
    traits = traits_of(evaluator)
    if traits.keeps_answers:
        asked = Asked(evaluator, name)
        with asked.counted():
            scores = _scores(evaluator, responses.read(), theirs.read())
        return asked.stage(shop, ours, scores)
    if not traits.needs_policy:
        return score_responses(shop, name, evaluator, needs, responses, theirs)

    def build(out: Path) -> None:
        answers, scores = responses.read(), list[Score]()
        with (
            opened(shop, sft, policy, limits, [r.prompt for r in answers], has_gate) as (model, reference),
            suppress(OtherTokens),
        ):
            scores = _scores(evaluator, answers, theirs.read(), policy=model, reference=reference)
        write_scores(out / SCORES, scores)

    inputs = shop.inputs(
        SCORING_CODE,
        **_identity(name, evaluator, needs),
        responses=responses.key,
        baseline=theirs.key,
        sft=sft.key,
        policy=policy.key if policy else None,
        limits=dataclasses.asdict(limits),
    )
    return shop.store.stage("scores", inputs, build)


def score_versus(
    shop: Workshop,
    judge: Any,
    ours: Stage,
    others: Mapping[str, Stage],
    read: Callable[[Stage], Responses] = read_responses,
) -> Stage:
    """A judge's scores of a row's responses against those of other rows, by label; the stage holds scores.parquet."""
    responses, asked = read(ours), Asked(judge, VERSUS)
    with asked.counted():
        scores = [
            score
            for label, other in others.items()
            for score in judge.score_versus(responses.read(), read(other).read(), label)
        ]
    return asked.stage(shop, ours, scores, versus=sorted(others))


class Asked:
    """The asking of an evaluator that keeps its answers: a stage of its scores, with what it took in cost.json."""

    def __init__(self, evaluator: Any, name: str):
        """name: of the evaluator, or VERSUS."""
        self.evaluator, self.cost = evaluator, dict[str, float]()
        self.inputs = {"evaluator": name, "judge": asks_by(evaluator)}

    @contextmanager
    def counted(self) -> Iterator[None]:
        before, began = self._questions(), time.monotonic()
        yield
        self.cost = {"seconds": round(time.monotonic() - began, 3), QUESTIONS: self._questions() - before}

    def _questions(self) -> int:
        """Those that this process has asked so far; what was answered before is not asked again."""
        if not traits_of(self.evaluator).is_judge:
            return 0
        return sum(usage.asked for usage in self.evaluator.usage().values())

    def stage(self, shop: Workshop, ours: Stage, scores: list[Score], **more: Any) -> Stage:
        def build(out: Path) -> None:
            write_scores(out / SCORES, scores)
            write_json(out / COST, self.cost)

        scored = digest([dataclasses.astuple(s) for s in scores])
        return shop.store.stage("scores", {**self.inputs, **more, "responses": ours.content, "scores": scored}, build)


def asks_by(evaluator: Any) -> dict[str, Any]:
    """The settings of a judge that say how long it takes to ask, and which questions; empty of another evaluator."""
    if not traits_of(evaluator).is_judge:
        return {}
    names = [*map(member_name, evaluator.models)]
    return {"models": names, "prompt": evaluator.prompt, "facets": [*evaluator.facets], "limit": evaluator.limit}


def score_responses(
    shop: Workshop, name: str, evaluator: Any, needs: dict[str, str], responses: Responses, baseline: Responses
) -> Stage:
    """One evaluator's scores of responses alone; the stage holds scores.parquet.

    Where the evaluator has rewards, those of the baseline are computed once, for all methods; and for a response that
    is the baseline's, where the evaluator rewards the text alone.
    """
    inputs = {
        "code": code_digest(*SCORING_CODE),
        "packages": shop.packages,
        **_identity(name, evaluator, needs),
    }

    def rewards(of: Responses, than: Responses | None = None) -> list[float]:
        """Of some responses; a text that others have too has the reward that it has there."""

        def build(out: Path) -> None:
            known = dict(zip(map(_text, than.read()), rewards(than), strict=True)) if than else {}
            texts = [(_text(g), g) for g in of.read()]
            with _apart(evaluator):
                new = iter(list(evaluator.rewards([g for text, g in texts if text not in known])))
            (out / REWARDS).write_text(json.dumps([known[t] if t in known else next(new) for t, _ in texts]))

        stage = shop.store.stage("rewards", {**inputs, "of": of.key, "than": than and than.key}, build)
        return json.loads((stage.path / REWARDS).read_text(encoding="utf-8"))

    def build(out: Path) -> None:
        if (traits := traits_of(evaluator)).has_rewards:
            shares = traits.rewards_text and responses.key != baseline.key
            ours = rewards(responses, than=baseline if shares else None)
            scores = evaluator.compare(responses.read(), ours, rewards(baseline))
        else:
            scores = _scores(evaluator, responses.read(), baseline.read())
        write_scores(out / SCORES, list(scores))

    return shop.store.stage("scores", {**inputs, "responses": responses.key, "baseline": baseline.key}, build)


def _scores(evaluator: Any, *given: Any, **models: Any) -> list[Score]:
    """All of an evaluator's scores."""
    with _apart(evaluator):
        return list(evaluator.score(*given, **models))


def _apart(evaluator: Any) -> AbstractContextManager[object]:
    """What an evaluator of another package changes of torch is put back, for others train and score in this process."""
    return nullcontext() if is_ours(type(evaluator).__module__) else put_back()


def _identity(name: str, evaluator: Any, needs: dict[str, str]) -> dict[str, Any]:
    """The part of a key that an evaluator's scores depend on, beside the code of all evaluators and the responses."""
    return {
        "evaluator": name,
        "source": class_code(type(evaluator)),
        **({"calls": [function_code(name) for name in calls]} if (calls := traits_of(evaluator).calls) else {}),
        "settings": {k: v for k, v in settings_of(evaluator).items() if k not in needs},
        "needs": needs,
    }


def _text(generation: Generation) -> tuple[str, str, bool]:
    """All of a response that a reward of the text depends on: one that was cut is read without an end."""
    return generation.prompt_id, generation.response, generation.finished


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
