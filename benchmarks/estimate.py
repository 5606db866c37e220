"""The expected cost of a stage: by what earlier ones took, else by its tokens and the pace of the model here."""

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluators.base import Traits
from ..evaluators.judge import OPENAI
from ..evaluators.judge_question import read_template
from ..models.checkpoint import Checkpoint
from ..models.tuning import Tuning
from ..results.progress import StepProgress, read_progress
from ..results.store import GENERATIONS, SCORES, Made, Stage, Store
from ..runtime import processes
from ..runtime.memory import total_on
from ..runtime.sharding import divides_frozen
from .context import settings_of
from .cost.rough import Estimate, Rough
from .cost.step_cost import TRAINED, VALUE, StepCost
from .definition.rows import SFT, Row
from .judging.bill import asked_of_a_row, asked_of_sft, asked_of_two_rows
from .stages.pipeline import Pipeline
from .stages.scorers import judge_of
from .stages.scores import QUESTIONS, VERSUS, asks_by
from .stages.steps import RESPONSES, Key
from .stages.steps import Step as RunStep

WEIGHTS = VALUE / TRAINED  # of a trained weight's bytes, its value
SMALLER = (
    "train LoRA adapters (tuning.lora_rank; with tuning.base_bits 4 on a base in 4 bits), take a smaller model, or "
    "divide the weights among GPUs with FSDP"
)


class Earlier:
    """The stages on disk that were made from the same base model with the same tuning, and what they took."""

    def __init__(self, store: Store, base: Checkpoint, tuning: Tuning):
        same = [m for m in store.made() if _ran_alike(m.manifest["inputs"], tuning)]
        ours = [m for m in same if m.manifest["stage"] == "sft" and m.manifest["inputs"]["base"] == base.key]
        sft = {m.stage.content for m in ours} | {base.key}  # the model as it is, where no SFT is trained
        self.found: dict[str, list[Made]] = {}
        answered: set[str] = set()
        for made in same:
            inputs = made.manifest["inputs"]
            if inputs.get("base") == base.key or inputs.get("sft") in sft:
                self.found.setdefault(made.manifest["stage"], []).append(made)
                if made.manifest["stage"] == "generations":
                    answered.add(made.stage.content)
        self.found["scores"] = [m for m in store.made() if m.manifest["inputs"].get("responses") in answered]
        self.judged = [m for m in store.made() if m.manifest["inputs"].get("judge")]
        self.runs = store.runs()

    def sft(self, examples: int) -> Estimate | None:
        return _scaled(self.found.get("sft", []), lambda m: examples / m.manifest["inputs"]["settings"]["examples"])

    def reward_model(self, examples: int) -> Estimate | None:
        def drawn(inputs: dict[str, Any]) -> float:
            return inputs["settings"]["examples"] / (1 - inputs.get("contrast", 0.0))

        return _scaled(self.found.get("reward_model", []), lambda m: examples / drawn(m.manifest["inputs"]))

    def reference(self, drawn: int | None) -> Estimate | None:
        """Of so many of the training pairs; None: of all."""
        made = [m for m in self.found.get("reference", []) if m.manifest["inputs"].get("drawn") == drawn]
        return _scaled(made, lambda m: 1.0)

    def training(self, name: str, settings: dict[str, Any], budget: int) -> Estimate | None:
        """Of a method: those with the same settings if there are any, else those with others."""
        made = [m for m in self.found.get("train", []) if m.manifest["inputs"]["method"] == name]
        alike = [m for m in made if m.manifest["inputs"]["settings"] == settings]
        found = _scaled(alike or made, lambda m: budget / m.manifest["inputs"]["budget"])
        if found is None or alike:
            return found
        return Estimate(f"{found.basis}, other settings", found.seconds, found.memory_mb, found.tokens)

    def generations(self, prompts: int, responses: int) -> Estimate | None:
        made = [m for m in self.found.get("generations", []) if (m.manifest["inputs"]["choice"] or [1])[0] == responses]
        return _scaled(
            made, lambda m: prompts / max(1, len((m.path / GENERATIONS).read_text(encoding="utf-8").splitlines()))
        )

    def scores(self, evaluator: str, prompts: int) -> Estimate | None:
        import pandas

        def scale(made: Made) -> float:
            return prompts / max(1, pandas.read_parquet(made.path / SCORES)["prompt_id"].nunique())

        return _scaled([m for m in self.found["scores"] if m.manifest["inputs"]["evaluator"] == evaluator], scale)

    def judging(self, asks: dict[str, Any], questions: int) -> Estimate | None:
        """Of so many questions, each as long as one of those that such a judge was asked, about whatever responses."""
        alike = ("models", "prompt")
        costs = [m.stage.cost for m in self.judged if all(m.manifest["inputs"]["judge"][n] == asks[n] for n in alike)]
        each = [cost["seconds"] / cost[QUESTIONS] for cost in costs if cost.get(QUESTIONS)]
        return Estimate(f"measured, {len(each)} earlier", questions * statistics.median(each)) if each else None

    def is_judged(self, name: str, asks: dict[str, Any], responses: str, others: Collection[str]) -> bool:
        """Such a judge was asked about these responses, and about all these other rows; name: of the step."""
        return any(
            inputs["evaluator"] == name
            and inputs["judge"] == asks
            and inputs["responses"] == responses
            and {*others} <= {*inputs.get("versus", ())}
            for inputs in (made.manifest["inputs"] for made in self.judged)
        )

    def closing(self, benchmark: str) -> Estimate | None:
        """Of a run's summary and report: those of the same benchmark if there are any, else of others."""
        took = [(run, p.closing) for run in self.runs if (p := read_progress(run)) and p.closing is not None]
        alike = [seconds for run, seconds in took if run.parent.name == benchmark] or [seconds for _, seconds in took]
        return Estimate(f"measured, {len(alike)} earlier", statistics.median(alike)) if alike else None


class Estimates:
    """The expected cost of the steps of a run: by what earlier ones took, else a lower bound."""

    def __init__(self, pipeline: Pipeline, threads: int | None = None):
        """threads: of a cell that is trained, see `Rough`."""
        spec, tuning = pipeline.spec, pipeline.shop.tuning
        self.spec, self.prompts = spec, len(pipeline.asked)
        self.drawn = None if pipeline.drawn is None else len(pipeline.drawn)  # of the training pairs
        self.pairs = len(pipeline.corpus.training) if self.drawn is None else self.drawn
        self.earlier = Earlier(pipeline.shop.store, pipeline.base, tuning)
        self.heldout, self.threads = len(pipeline.corpus.heldout), threads
        self.pipeline, self.known = pipeline, dict[tuple[str, ...], Estimate | None]()
        self.judge = judge_of(spec, pipeline.scored_by, tuning.device, pipeline.shop.store.root)

    @cached_property
    def rough(self) -> Rough:
        tuning = self.pipeline.shop.tuning
        return Rough(self.pipeline.base, tuning, self.pipeline.corpus.training, tuning.micro_tokens, self.threads)

    def of(self, step: RunStep) -> Estimate:
        """What a step may take, empty where nothing is known."""
        return self._measured(step) or self._rough(step) or Estimate()

    def asked(self, step: RunStep, made: Mapping[Key, Stage | None]) -> Estimate:
        """What asking may take: nothing where the answers about what is on disk are there."""
        responses = made.get((step.row.label, step.seed, RESPONSES)) if step.row else None
        others = [label for label, *_ in step.needs[1:]] if step.name == VERSUS else []
        if (
            responses
            and self.judge
            and self.earlier.is_judged(step.name, asks_by(self.judge), responses.content, others)
        ):
            return Estimate("asked before", 0.0)
        return self.of(step)

    def progress(self, step: RunStep) -> StepProgress:
        """A step as those see it who look on; what earlier runs took is expected of it."""
        measured, row = self._measured(step), step.row.label if step.row and step.trains else ""
        return StepProgress(
            step.label,
            step.name,
            step.cell_label,
            f"{step.name} {row}".strip(),
            step.trains,
            measured.seconds if measured else None,
        )

    def _measured(self, step: RunStep) -> Estimate | None:
        """By what earlier stages of its kind took; equal for all seeds of a row, so it is looked up once."""
        key = (step.kind, step.name, step.row.label if step.row else "")
        if key not in self.known:
            self.known[key] = self._earlier(step)
        return self.known[key]

    def _earlier(self, step: RunStep) -> Estimate | None:
        earlier, row = self.earlier, step.row

        def training(row: Row) -> Estimate | None:
            return earlier.training(row.name, settings_of(row.method), self.spec.budget)

        guesses: dict[str, Callable[[], Estimate | None]] = {
            "sft": lambda: earlier.sft(self.spec.sft.examples if self.spec.sft else 0),
            "reward_model": lambda: earlier.reward_model(self._drawn(step)),
            "reference": lambda: earlier.reference(self.drawn),
            "train": lambda: training(row) if row else None,
            "generations": lambda: earlier.generations(self.prompts, _each(row)),
            "scores": lambda: self._judging(step) or earlier.scores(step.name, self.prompts),
        }
        return guesses[step.kind]() if step.kind in guesses else None

    def _rough(self, step: RunStep) -> Estimate | None:
        row = step.row
        guesses: dict[str, Callable[[], Estimate | None]] = {
            "sft": lambda: self.rough.sft(self.spec.sft) if self.spec.sft else None,
            "reward_model": lambda: self.rough.reward_model(self.spec.reward_model, self._drawn(step)),
            "reference": lambda: self.rough.reference(self.pairs),
            "train": lambda: self.rough.training(row.method, self.spec.budget) if row else None,
            "generations": lambda: self.rough.generations(self.prompts, _each(row)),
            "scores": lambda: (
                self._judging_roughly(step) or self.rough.scores(self._traits(step.name), self.prompts, self.heldout)
            ),
        }
        return guesses[step.kind]() if step.kind in guesses else None

    def _judging(self, step: RunStep) -> Estimate | None:
        """By what questions to this judge took before; None of a step that asks none."""
        if not (judge := self._judge_of(step)):
            return None
        questions = self._questions(step, judge)
        return self.earlier.judging(asks_by(judge), questions) if questions else Estimate("nothing to ask", 0.0)

    def _judging_roughly(self, step: RunStep) -> Estimate | None:
        """By the weights of local judges; None where an endpoint is asked."""
        if not (judge := self._judge_of(step)) or any(model.startswith(OPENAI) for model in judge.models):
            return None
        template = len(self.pipeline.base.tokenizer()(read_template(judge.prompt))["input_ids"])
        local = [Checkpoint(Path(model), model) for model in judge.models]
        return self.rough.judged(local, self._questions(step, judge), template)

    def _judge_of(self, step: RunStep) -> Any | None:
        return self.judge if step.name == VERSUS or self._traits(step.name).is_judge else None

    def _questions(self, step: RunStep, judge: Any) -> int:
        """To each of its models."""
        if step.name == VERSUS:
            return (len(step.needs) - 1) * asked_of_two_rows(judge, self.prompts)
        return (asked_of_sft if step.row is SFT else asked_of_a_row)(judge, self.prompts)

    def step_cost(self, step: RunStep) -> StepCost | None:
        """The counted cost of an optimizer step of what trains; None of all else, and of what cannot be counted."""
        spec, rough, row = self.spec, self.rough, step.row
        if step.kind == "train" and row and getattr(row.method, "responses_per_answer", 1) == 1:
            return rough.count(rough.step_of(row.method, spec.budget))
        if step.kind == "reward_model":
            return rough.count(rough.supervised_step("reward_model", spec.reward_model))
        return rough.count(rough.supervised_step("sft", spec.sft)) if step.kind == "sft" and spec.sft else None

    def memory_warnings(self, steps: Iterable[RunStep], on_disk: Callable[[], Collection[Key]]) -> list[str]:
        """A sentence where a GPU is too small for a step's pass as it is. InputError where it is for any pass.

        That is where the weights, gradients and Adam moments that are held throughout do not fit. on_disk: of the
        steps that are there already; looked up where one would be told of.
        """
        device, found = self.pipeline.shop.tuning.device, dict[str, str]()
        if (total := total_on(device)) is None:
            return []
        there: Collection[Key] | None = None
        for step in steps:
            if (cost := self.step_cost(step)) is None:
                continue
            held = cost.resident - _elsewhere(cost)
            peak = held + cost.peak - cost.resident + (cost.gathered if processes.is_sharding() else 0)
            if peak <= total:
                continue
            there = on_disk() if there is None else there
            if step.key in there:
                continue
            if held > total:
                raise InputError(
                    f"{step.label} holds {_gib(held)} of weights, gradients and Adam moments throughout, and {device} "
                    f"has {_gib(total)}: {SMALLER}"
                )
            found[step.kind] = (
                f"{step.label} may take {_gib(peak)} at its peak, and {device} has {_gib(total)}: set "
                f"tuning.gradient_checkpointing to true, lower tuning.micro_tokens, or {SMALLER}"
            )
        return [*found.values()]

    def _traits(self, evaluator: str) -> Traits:
        """An evaluator's description; the training reward model scores beside those that the benchmark names."""
        return self.pipeline.scored_by.traits.get(evaluator, Traits(needs_reward_model=True))

    def _drawn(self, step: RunStep) -> int:
        return self.spec.reward_model.drawn(step.name.partition(" ")[0])


def _elsewhere(cost: StepCost) -> float:
    """Bytes of a step that other processes hold; of what is trained ZeRO divides all but the weights."""
    divided = 0.0
    if processes.is_dividing_moments():
        divided = cost.trained * (1 - WEIGHTS)
    elif processes.is_sharding():
        divided = cost.divided + (cost.frozen if divides_frozen() else 0)
    return divided * (1 - 1 / processes.size())


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _each(row: Row | None) -> int:
    """Responses that are drawn for one answer of a row."""
    return getattr(row.method, "responses_per_answer", 1) if row else 1


def _ran_alike(inputs: dict[str, Any], tuning: Tuning) -> bool:
    theirs, ours = inputs.get("tuning"), tuning.identity()
    return isinstance(theirs, dict) and all(
        theirs.get(k) == ours[k] for k in ("device", "precision", "lora_rank", "base_bits")
    )


def _scaled(made: Sequence[Made], scale: Callable[[Made], float]) -> Estimate | None:
    """The median time and tokens of earlier stages, each scaled to this one's size, and their largest memory."""
    rows = [(m, m.stage.cost, scale(m)) for m in made]
    seconds = [s for m, cost, share in rows if (s := _seconds(m, cost, share))]
    if not seconds:
        return None
    memory = [cost["peak_memory_mb"] for _, cost, _ in rows if "peak_memory_mb" in cost]
    tokens = [share * (c["trained_tokens"] + c["generated_tokens"]) for _, c, share in rows if "trained_tokens" in c]
    return Estimate(
        f"measured, {len(seconds)} earlier",
        statistics.median(seconds),
        max(memory, default=None),
        statistics.median(tokens) if tokens else None,
    )


def _seconds(made: Made, cost: Mapping[str, float], share: float) -> float | None:
    """The time of a stage of another size: a method's own grows with it, ours for looking at it does not."""
    if "seconds" in cost:
        return share * cost["seconds"] + cost.get("looking_seconds", 0.0)
    seconds = made.manifest.get("seconds")
    return None if seconds is None else share * seconds
