"""`bench run --dry-run`: what a run would do, from what is on disk; nothing is trained, asked or written."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..evaluators.base import traits_of
from ..results.checkpoint import Checkpoint
from ..results.store import ALONG, POLICY, Looking, NotMade, Stage
from . import panel
from .estimate import AT_LEAST, Earlier, Estimate, Rough
from .harness import Harness, Request
from .pipeline import ROLES
from .workshop import settings_of

ON_DISK, TO_DO, ASKS = "on disk", "to do", "asks for what is missing"


@dataclass(frozen=True)
class Step:
    """One stage of a run: what it is, whether it is on disk, and what it is going to take."""

    cell: str
    """Method and seed; empty for what all share."""
    what: str
    state: str
    estimate: Estimate = field(default_factory=Estimate)
    is_score: bool = False
    """`what` is an evaluator."""

    @property
    def label(self) -> str:
        return f"{self.cell}, {self.what}" if self.cell else self.what


@dataclass(frozen=True)
class Plan:
    """The stages of a run in their order, and what its judge can cost at most."""

    steps: list[Step]
    judging: str | None
    rate: float | None
    """FLOPs a second of a matrix product on this machine, where an estimate needed it."""

    @property
    def is_bound(self) -> bool:
        """Some of the estimates are lower bounds."""
        return any(step.estimate.basis == AT_LEAST for step in self.to_do)

    @property
    def to_do(self) -> list[Step]:
        return [step for step in self.steps if step.state != ON_DISK]

    @property
    def seconds(self) -> tuple[float, list[str]]:
        """The sum of what is known, and the steps of which nothing is."""
        known = [step.estimate.seconds for step in self.to_do]
        return sum(s for s in known if s is not None), [s.label for s in self.to_do if s.estimate.seconds is None]

    def as_json(self) -> dict[str, Any]:
        seconds, unknown = self.seconds
        return {
            "steps": [{"stage": s.label, "state": s.state, **dataclasses.asdict(s.estimate)} for s in self.steps],
            "seconds": seconds,
            "seconds_unknown": unknown,
            "judging": self.judging,
            "flops_per_second": self.rate,
        }


def plan(request: Request) -> Plan:
    """What `run` would do. InputError for bad input, as there.

    A stage whose key hangs on one that is not made yet counts as to do, though it may turn out to be on disk.
    """
    harness = Harness(dataclasses.replace(request, say=lambda line: None), Looking(request.root))
    judging = panel.cost_of_judging(
        harness.spec, harness.scored_by, harness.tokenizer, len(harness.methods) * request.seeds
    )
    planner = _Planner(harness)
    steps = list(planner.steps())
    return Plan(steps, judging, planner.rough.rate if any(s.estimate.basis == AT_LEAST for s in steps) else None)


class _Planner:
    def __init__(self, harness: Harness):
        self.run, self.pipeline = harness, harness.pipeline.looking()
        spec, tuning = harness.spec, harness.shop.tuning
        self.earlier = Earlier(harness.shop.store, harness.base, tuning)
        self.rough = Rough(harness.base, tuning, harness.corpus.training, tuning.micro_tokens)
        self.prompts = len(self.pipeline.asked)
        self.spec = spec
        self.shared: list[Stage | None] = []

    def steps(self) -> Iterator[Step]:
        pipeline, spec, earlier, rough = self.pipeline, self.spec, self.earlier, self.rough
        sft = self._look(pipeline.train_sft)
        yield _step("", "SFT", sft, lambda: earlier.sft(spec.sft.examples) or rough.sft(spec.sft.examples))
        if sft:
            pipeline.start_from(sft)
        models = {}
        for role in ROLES:
            models[role] = self._look(lambda r=role: pipeline.train_reward_model(r), sft)
            examples = spec.reward_model.examples
            yield _step(
                "",
                f"{role} reward model",
                models[role],
                lambda n=examples: earlier.reward_model(n) or rough.reward_model(n),
            )
        self.shared = [sft, *models.values()]
        if all(self.shared):
            pipeline.share(models)
        methods = self.run.methods.values()
        if any(getattr(m, "needs_reference", False) and getattr(m, "needs_pairs", False) for m in methods):
            reference = self._look(lambda: pipeline.pairs.reference(), *self.shared)
            pairs = len(pipeline.corpus.training)
            yield _step("", "reference log-probs", reference, lambda: earlier.reference() or rough.reference(pairs))
        for seed in range(self.run.request.seeds):
            yield from self._cells(seed)

    def _cells(self, seed: int) -> Iterator[Step]:
        run, pipeline, budget = self.run, self.pipeline, self.spec.budget
        baseline = self._look(lambda: pipeline.generate(None, seed), *self.shared)
        yield self._answers(f"sft seed {seed}", baseline, 1)
        yield from self._scores(f"sft seed {seed}", baseline, baseline, None)
        for label, method in run.methods.items():
            cell = f"{label} seed {seed}"
            name, settings = run.names[label], settings_of(method)
            trained = self._look(lambda n=name, m=method: pipeline.train(n, m, seed), *self.shared)
            yield _step(
                cell,
                "training",
                trained,
                lambda n=name, s=settings, m=method: (
                    self.earlier.training(n, s, budget) or self.rough.training(m, budget)
                ),
            )
            policy = Checkpoint(trained.path / POLICY, trained.content) if trained else None
            answers = self._look(lambda p=policy, m=method: pipeline.generate(p, seed, m), trained)
            yield self._answers(cell, answers, getattr(method, "responses_per_answer", 1))
            yield from self._scores(cell, answers, baseline, policy)
            if self.spec.evaluation.along:
                yield Step(cell, "checkpoints along training", self._along(trained, seed, answers, baseline))

    def _answers(self, cell: str, made: Stage | None, each: int) -> Step:
        def guess() -> Estimate:
            return self.earlier.generations(self.prompts, each) or self.rough.generations(self.prompts, each)

        return _step(cell, "responses", made, guess)

    def _scores(self, cell: str, answers: Stage | None, baseline: Stage | None, policy: Any) -> Iterator[Step]:
        names = self.run.scored_by.names
        asking = {n for n in names if traits_of(self.run.scored_by.evaluators.get(n)).keeps_answers}
        for name in sorted(names, key=lambda n: n in asking):
            if name in asking:
                yield Step(cell, name, ASKS, is_score=True)  # what is missing is known to the evaluator alone
                continue
            made = self._look(lambda n=name: self.pipeline.score(n, answers, baseline, policy), answers, baseline)
            step = _step(cell, name, made, lambda n=name: self.earlier.scores(n, self.prompts))
            yield dataclasses.replace(step, is_score=True)

    def _along(self, trained: Stage | None, seed: int, answers: Stage | None, baseline: Stage | None) -> str:
        def look() -> bool:
            return not (trained.path / ALONG).is_dir() or bool(self.pipeline.along(trained, seed, answers, baseline))

        return ON_DISK if self._look(look, trained, answers, baseline) else TO_DO

    def _look(self, make: Callable[[], Any], *needs: Any) -> Any:
        """What `make` finds on disk; None where it, or something it is made from, is not there."""
        if any(need is None for need in needs):
            return None
        try:
            return make()
        except NotMade:
            return None


def _step(cell: str, what: str, made: Any, guess: Callable[[], Estimate | None]) -> Step:
    return Step(cell, what, ON_DISK) if made is not None else Step(cell, what, TO_DO, guess() or Estimate())
