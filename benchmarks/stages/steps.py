"""The order of a run, written once: each stage with what it needs and how it is made.

The harness makes the steps, the plan of a dry run looks them up, the processes beside the first and a worker take those
in which they share. A new stage is one entry here and one function in the pipeline.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...models.checkpoint import Checkpoint
from ...results.progress import CELL
from ...results.store import ALONG, POLICY, Stage
from ..definition.rows import SFT, Row
from ..definition.spec import LAST, BenchmarkSpec
from ..request import Cell
from . import gates
from .picked import picked_policy
from .pipeline import Pipeline, more_reward_models, roles_of
from .scores import VERSUS

TRAINING, ALONG_TRAINING, RESPONSES, SCORES = "training", "checkpoints along training", "responses", "scores"
SUPERVISED, SCORER, REFERENCE = "SFT", "{} reward model", "reference log-probs"  # what cells share
BROUGHT = "training reward on held-out pairs"  # where the benchmark brings it
CHECKPOINT = "pick of a checkpoint"
Key = tuple[str, int | None, str]  # a row's label and a seed (empty and None for what all share), and the step's name
Made = Mapping[Key, Stage | None]


@dataclass(frozen=True)
class Step:
    """One stage of a run."""

    name: str
    """As people read it: SFT, training, responses, or what an evaluator is called."""
    kind: str
    """Its stage's name in the store; estimates are by this."""
    make: Callable[[Made], Stage | None]
    """Makes the stage, or finds it on disk, from those that it needs; None where there is nothing to make."""
    needs: tuple[Key, ...] = ()
    row: Row | None = None
    seed: int | None = None
    gate: Callable[[Stage], dict[str, Any]] | None = None
    """The gate that the stage must pass."""
    state: str = TRAINING
    """The word for what is done with the cell meanwhile."""
    trains: bool = False
    """All processes of a run make it together."""
    asks: bool = False
    """Its evaluator is called on every run, for what is missing is known to it alone."""
    is_placed: bool = False
    """The run's folder holds its files."""

    @property
    def key(self) -> Key:
        return self.row.label if self.row else "", self.seed, self.name

    @property
    def cell(self) -> Cell | None:
        """The row's label and the seed; None for what all cells share."""
        return (self.row.label, self.seed) if self.row and self.seed is not None else None

    @property
    def cell_label(self) -> str:
        """The cell as it is called; empty for what all cells share."""
        return f"{self.row.label}{CELL}{self.seed}" if self.row else ""

    @property
    def label(self) -> str:
        """The step as it is called."""
        return f"{self.cell_label}, {self.name}" if self.row else self.name

    @property
    def is_score(self) -> bool:
        return self.kind == "scores"


def steps(pipeline: Pipeline, rows: Sequence[Row], seeds: Iterable[int]) -> list[Step]:
    """Everything that a run of these rows makes, in its order: shared stages, then cell by cell."""
    shared = [*_shared(pipeline, rows)]
    needs = tuple(step.key for step in shared if step.trains)
    ordered = (SFT, *rows)
    cells = [
        _cell(pipeline, row, seed, needs, before=[other.label for other in ordered[1:place]])
        for seed in seeds
        for place, row in enumerate(ordered)
    ]
    return [*shared, *(step for cell in cells for step in cell)]


def _stage(made: Made, key: Key) -> Stage:
    """A stage that its step always makes."""
    if (stage := made[key]) is None:
        raise LookupError(f"{key} was not made")
    return stage


def _shared(pipeline: Pipeline, rows: Sequence[Row]) -> Iterator[Step]:
    needs: list[Key] = []
    threshold = pipeline.spec.gates.reward_model_accuracy
    if brought := pipeline.brought:  # first, for what cannot be read is to be told before anything trains
        gate = partial(gates.training_reward_gate, name=brought.name, threshold=threshold)
        yield Step(BROUGHT, "reward_audit", lambda made: pipeline.read_training_reward(), gate=gate)
    if pipeline.spec.sft:
        yield (sft := Step(SUPERVISED, "sft", lambda made: pipeline.train_sft(), gate=gates.sft_gate, trains=True))
        needs.append(sft.key)
    start = tuple(needs)
    for role in roles_of(pipeline.spec, pipeline.use):
        yield (step := _reward_model(pipeline, role, start, partial(pipeline.train_reward_model, role)))
        needs.append(step.key)
    for number in sorted({number for row in rows for number in more_reward_models(row.method)}):
        make = partial(pipeline.train_another_reward_model, number)
        yield (step := _reward_model(pipeline, f"training {number}", start, make))
        needs.append(step.key)
    if any(REFERENCE in needed(row.method, pipeline.spec) for row in rows):
        yield Step(REFERENCE, "reference", lambda made: pipeline.reference(), tuple(needs))


def needed(method: Any, spec: BenchmarkSpec) -> list[str]:
    """Names of the shared stages without which a method cannot be trained or, for a choice of responses, used."""
    reference = getattr(method, "needs_reference", False) and getattr(method, "needs_pairs", False)
    found = {
        SUPERVISED: spec.sft is not None,
        SCORER.format("training"): getattr(method, "needs_reward", False) and spec.training_reward is None,
        **{SCORER.format(f"training {number}"): True for number in more_reward_models(method)},
        REFERENCE: reference,
    }
    return [name for name, is_needed in found.items() if is_needed]


def _reward_model(pipeline: Pipeline, role: str, needs: tuple[Key, ...], make: Callable[[], Stage]) -> Step:
    gate = partial(gates.reward_model_gate, role=role, threshold=pipeline.spec.gates.reward_model_accuracy)
    name = SCORER.format(role)
    return Step(name, "reward_model", lambda made: make(), needs, gate=gate, trains=True)


def _cell(pipeline: Pipeline, row: Row, seed: int, shared: tuple[Key, ...], before: Sequence[str]) -> Iterator[Step]:
    """The steps of a row with one seed; SFT and what was trained elsewhere have no training.

    before: the rows that come before it, but for SFT.
    """
    step = partial(Step, row=row, seed=seed)
    trained, responses = (row.label, seed, TRAINING), (row.label, seed, RESPONSES)
    baseline = (SFT.label, seed, RESPONSES)
    both = tuple(dict.fromkeys((responses, baseline)))
    is_trained = row is not SFT and row.policy is None
    picked = (row.label, seed, CHECKPOINT)
    picks = is_trained and pipeline.spec.evaluation.checkpoint.by != LAST

    def policy(made: Made) -> Checkpoint | None:
        if row.policy:
            return row.policy
        if picks:
            return picked_policy(_stage(made, picked))
        stage = made.get(trained)
        return Checkpoint(stage.path / POLICY, stage.content) if stage else None

    def along(made: Made) -> Stage | None:
        if not (_stage(made, trained).path / ALONG).is_dir():  # the method saved none
            return None
        return pipeline.along(_stage(made, trained), seed, _stage(made, baseline))

    if is_trained:
        yield step(
            TRAINING,
            "train",
            lambda made: pipeline.train(row.name, row.method, seed),
            shared,
            trains=True,
            is_placed=True,
        )
    if picks:
        yield step(
            CHECKPOINT,
            "picked",
            lambda made: pipeline.pick(_stage(made, trained), seed),
            (trained,),
            state=CHECKPOINT,
            is_placed=True,
        )
    yield step(
        RESPONSES,
        "generations",
        lambda made: pipeline.generate(policy(made), seed, row.method),
        (picked if picks else trained,) if is_trained else shared,
        state=RESPONSES,
        is_placed=True,
    )
    if is_trained and pipeline.spec.evaluation.along:
        yield step(ALONG_TRAINING, "along", along, (trained, *both), state=ALONG_TRAINING, is_placed=True)
    for name, asks in pipeline.scored_by.names.items():

        def score(made: Made, name: str = name) -> Stage:
            return pipeline.score(name, _stage(made, responses), _stage(made, baseline), policy(made))

        yield step(name, "scores", score, both, state=SCORES, asks=asks)
    judge = pipeline.scored_by.judge
    if before and judge is not None and judge.direct:
        keys = {label: (label, seed, RESPONSES) for label in before}

        def versus(made: Made) -> Stage:
            there = {label: stage for label, key in keys.items() if (stage := made.get(key))}  # a cell may have failed
            return pipeline.versus(_stage(made, responses), there)

        yield step(VERSUS, "scores", versus, (responses, *keys.values()), state=SCORES, asks=True)
