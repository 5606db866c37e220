"""`bench run --dry-run`: what a run would do, from what is on disk; nothing is trained, asked or written."""

import contextlib
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..analysis.power import plan_sentences
from ..results.store import Looking, NotMade, Stage
from .context import settings_of
from .definition.rows import Row
from .estimate import AT_LEAST, Earlier, Estimate, Rough
from .harness import Harness
from .request import Request
from .stages.scorers import cost_of_judging
from .stages.steps import Key, Step, steps

ON_DISK, TO_DO, ASKS = "on disk", "to do", "asks for what is missing"


@dataclass(frozen=True)
class Planned:
    """A step of the run: whether its stage is on disk, and what it is going to take."""

    step: Step
    state: str
    estimate: Estimate = field(default_factory=Estimate)


@dataclass(frozen=True)
class Plan:
    """The stages of a run in their order, and what its judge can cost at most."""

    data: dict[str, Any]
    """The record of the pairs: rows read, used, dropped by reason, left over, splits."""
    steps: list[Planned]
    judging: str | None
    can_show: list[str]
    """The differences that a run of this size can show, and what the margin would need."""
    notes: list[str]
    """What was brought and left out, and what else a reader of the run's numbers will need."""
    rate: float | None
    """FLOPs a second of a matrix product on this machine, where an estimate needed it."""

    @property
    def is_bound(self) -> bool:
        """Some of the estimates are lower bounds."""
        return any(step.estimate.basis == AT_LEAST for step in self.to_do)

    @property
    def to_do(self) -> list[Planned]:
        return [step for step in self.steps if step.state != ON_DISK]

    @property
    def seconds(self) -> tuple[float, list[str]]:
        """The sum of what is known, and the steps of which nothing is."""
        known = [step.estimate.seconds for step in self.to_do]
        return sum(s for s in known if s is not None), [s.step.label for s in self.to_do if s.estimate.seconds is None]

    def as_json(self) -> dict[str, Any]:
        seconds, unknown = self.seconds
        return {
            "data": self.data,
            "steps": [{"stage": s.step.label, "state": s.state, **dataclasses.asdict(s.estimate)} for s in self.steps],
            "seconds": seconds,
            "seconds_unknown": unknown,
            "judging": self.judging,
            "can_show": self.can_show,
            "notes": self.notes,
            "flops_per_second": self.rate,
        }


def plan(request: Request) -> Plan:
    """The plan of a `run`. InputError for bad input, as there.

    A stage whose key depends on one that is not made yet counts as to do, though it may turn out to be on disk.
    """
    harness = Harness(dataclasses.replace(request, say=lambda line: None), Looking(request.root))
    judging = cost_of_judging(harness.spec, harness.scored_by, harness.tokenizer, len(harness.rows), request.seeds)
    planner = _Planner(harness)
    found = [planner.look(step) for step in planner.steps]
    shows = plan_sentences(planner.prompts, request.seeds, len({r.name for r in harness.rows}), harness.spec.margin)
    rate = planner.rough.rate if any(s.estimate.basis == AT_LEAST for s in found) else None
    return Plan(harness.corpus.record, found, judging, shows, harness.notes, rate)


class _Planner:
    """Looks the steps of a run up, one after another."""

    def __init__(self, harness: Harness):
        pipeline = harness.pipeline.looking()
        self.steps = steps(pipeline, harness.rows, harness.seeds)
        self.made: dict[Key, Stage | None] = {}
        self.missing: set[Key] = set()
        spec, tuning = harness.spec, harness.shop.tuning
        self.earlier = Earlier(harness.shop.store, harness.base, tuning)
        self.rough = Rough(harness.base, tuning, harness.corpus.training, tuning.micro_tokens)
        self.spec, self.prompts, self.pairs = spec, len(pipeline.asked), len(harness.corpus.training)

    def look(self, step: Step) -> Planned:
        """A step whose stage is on disk, or what it may take; where one that it needs is missing it is to do."""
        if step.asks:
            return Planned(step, ASKS)
        if not self.missing.intersection(step.needs):
            with contextlib.suppress(NotMade):
                self.made[step.key] = step.make(self.made)
                return Planned(step, ON_DISK)
        self.missing.add(step.key)
        return Planned(step, TO_DO, self._estimate(step) or Estimate())

    def _estimate(self, step: Step) -> Estimate | None:
        """The expected cost of a step, by the kind of its stage; None where nothing is known."""
        earlier, rough, spec, row = self.earlier, self.rough, self.spec, step.row
        each = getattr(row.method, "responses_per_answer", 1) if row else 1
        examples = spec.reward_model.drawn(step.name.partition(" ")[0])
        imitated = spec.sft.examples if spec.sft else 0

        def training(row: Row) -> Estimate | None:
            settings = settings_of(row.method)
            return earlier.training(row.name, settings, spec.budget) or rough.training(row.method, spec.budget)

        guesses = {
            "sft": lambda: earlier.sft(imitated) or rough.sft(imitated),
            "reward_model": lambda: earlier.reward_model(examples) or rough.reward_model(examples),
            "reference": lambda: earlier.reference() or rough.reference(self.pairs),
            "train": lambda: training(row) if row else None,
            "generations": lambda: earlier.generations(self.prompts, each) or rough.generations(self.prompts, each),
            "scores": lambda: earlier.scores(step.name, self.prompts),
        }
        return guesses[step.kind]() if step.kind in guesses else None
