"""`bench run --dry-run`: what a run would do, from what is on disk; nothing is trained, asked or written."""

import contextlib
import dataclasses
import heapq
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..analysis.power import plan_sentences, plan_warnings
from ..results.store import Looking, NotMade, Stage
from .cost.rough import BY_PACE, Estimate
from .estimate import Estimates
from .harness import Harness
from .request import Request
from .stages.scorers import cost_of_judging
from .stages.steps import Key, Step, steps

ON_DISK, TO_DO, ASKS = "on disk", "to do", "asks for what is missing"
START, TRAINERS, CLOSING = "start and data", "start of the processes that train", "summary and report"
# Summary and report of the first run on a machine, in starts: 6.9 to 10.7 CPU seconds of `quick` with two methods.
CLOSING_STARTS = 0.65
STARTED = time.process_time()  # CPU seconds of this process until everything was imported, which a run does too


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
    warnings: list[str]
    """Reasons for which what was asked can show nothing, or less than it seems."""
    at_once: int
    """Cells that are trained side by side."""
    beside: dict[str, Estimate] = field(default_factory=dict)
    """The parts of the run that are no stages, by what they are called."""

    @property
    def is_rough(self) -> bool:
        """Some of the estimates go by a few rows that were timed."""
        return any(step.estimate.basis == BY_PACE for step in self.to_do)

    @property
    def to_do(self) -> list[Planned]:
        return [step for step in self.steps if step.state != ON_DISK]

    @property
    def seconds(self) -> tuple[float, list[str]]:
        """The sum of what is known, cells trained side by side, and the steps of which nothing is known."""
        beside = sum(part.seconds or 0.0 for part in self.beside.values())
        unknown = [s.step.label for s in self.to_do if s.estimate.seconds is None]
        return lasting(self.to_do, self.at_once) + beside, unknown

    def as_json(self) -> dict[str, Any]:
        seconds, unknown = self.seconds
        return {
            "data": self.data,
            "steps": [{"stage": s.step.label, "state": s.state, **dataclasses.asdict(s.estimate)} for s in self.steps],
            "beside": {name: dataclasses.asdict(part) for name, part in self.beside.items()},
            "seconds": seconds,
            "seconds_unknown": unknown,
            "judging": self.judging,
            "can_show": self.can_show,
            "notes": self.notes,
            "warnings": self.warnings,
        }


def lasting(steps: Iterable[Planned], at_once: int) -> float:
    """The seconds of stages made in turn, but for cells' trainings, of which the longest left takes the first free
    place."""
    total, trainings, places = 0.0, list[float](), [0.0] * at_once  # the seconds until each place is free
    for planned in steps:
        seconds = planned.estimate.seconds or 0.0
        if planned.step.cell and planned.step.trains:
            trainings.append(seconds)
        else:
            total += seconds
    for seconds in sorted(trainings, reverse=True):
        heapq.heapreplace(places, places[0] + seconds)
    return total + max(places)


def plan(request: Request, *, further: bool = False) -> Plan:
    """The plan of a `run`, or of a `score` where it is of a tuning's trials. InputError for bad input, as there.

    further: the run comes after another one in the same process, which is started once.

    A stage whose key depends on one that is not made yet counts as to do, though it may turn out to be on disk.
    """
    began = time.monotonic(), time.process_time()
    harness = Harness(dataclasses.replace(request, say=lambda line: None), Looking(request.root))
    # the lesser is what it takes where nothing else is at work, for readers of data have threads of their own
    reading = min(time.monotonic() - began[0], time.process_time() - began[1])
    judging = cost_of_judging(harness.spec, harness.scored_by, harness.tokenizer, len(harness.rows), request.seeds)
    planner = _Planner(harness)
    found = [planner.look(step) for step in planner.steps]
    rows, prompts = len({row.name for row in harness.rows}), len(harness.pipeline.asked)
    shows = plan_sentences(prompts, request.seeds, rows, harness.spec.margin)
    warnings = plan_warnings(prompts, request.seeds, rows, harness.corpus.record)
    warnings += planner.estimates.memory_warnings(planner.steps, lambda: planner.made)
    beside = _beside(harness, found, planner.estimates, reading, further)
    return Plan(harness.corpus.record, found, judging, shows, harness.notes, warnings, harness.at_once, beside)


def _beside(
    harness: Harness, found: Iterable[Planned], estimates: Estimates, reading: float, further: bool
) -> dict[str, Estimate]:
    """What a run takes beside its stages; reading: the seconds that this process took for the data."""
    start, basis = STARTED + reading, "as long as here"
    beside = {START: Estimate(basis, reading if further else start)}
    trainings = [planned for planned in found if planned.state == TO_DO and planned.step.trains and planned.step.cell]
    if harness.at_once > 1 and len(trainings) > 1:
        beside[TRAINERS] = Estimate(basis, start)  # they start side by side
    if not harness.request.trials:
        rough = Estimate("assumed, by the start", CLOSING_STARTS * start)
        beside[CLOSING] = estimates.earlier.closing(harness.spec.name) or rough
    return beside


class _Planner:
    """Looks the steps of a run up, one after another."""

    def __init__(self, harness: Harness):
        pipeline = harness.pipeline.looking()
        self.steps = steps(pipeline, harness.rows, harness.seeds)
        self.made: dict[Key, Stage | None] = {}
        self.missing: set[Key] = set()
        self.estimates = Estimates(harness.pipeline, harness.threads)

    def look(self, step: Step) -> Planned:
        """A step whose stage is on disk, or what it may take; where one that it needs is missing it is to do."""
        if step.asks:
            return Planned(step, ASKS, self.estimates.asked(step, self.made))
        if not self.missing.intersection(step.needs):
            with contextlib.suppress(NotMade):
                self.made[step.key] = step.make(self.made)
                return Planned(step, ON_DISK)
        self.missing.add(step.key)
        return Planned(step, TO_DO, self.estimates.of(step))
