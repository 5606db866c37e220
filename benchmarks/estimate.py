"""The expected cost of a stage: by what earlier ones took, else by its tokens and the pace of the model here."""

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..errors import InputError
from ..evaluators.base import Traits
from ..methods.pairwise import PairwiseMethod
from ..models.checkpoint import Checkpoint
from ..models.four_bits import BYTES
from ..models.lora import base_layers
from ..models.model_files import remote_code_allowed
from ..models.network import packed_tokens
from ..models.tuning import Tuning
from ..results.progress import StepProgress
from ..results.records import Pair
from ..results.store import GENERATIONS, SCORES, Made, Store
from ..runtime import processes
from ..runtime.device import constants
from ..runtime.memory import free_on, resident, total_on
from ..runtime.sharding import divides_frozen
from ..training.probe import PAIRS, PROMPTS, SHARES
from .context import settings_of
from .cost.step_cost import TRAINED, VALUE, Step, StepCost, StepKind, step_cost
from .definition.rows import Row
from .definition.spec import Supervised
from .pace import Pace, pace_of
from .stages.pipeline import Pipeline
from .stages.steps import Key
from .stages.steps import Step as RunStep

FROZEN = {"fp32": 4, "bf16": 2}  # bytes a weight of a model that is only read; in bf16 embeddings and norms take 4
MIB = 2**20
WEIGHTS = VALUE / TRAINED  # of a trained weight's bytes, its value
SMALLER = (
    "train LoRA adapters (tuning.lora_rank; with tuning.base_bits 4 on a base in 4 bits), take a smaller model, or "
    "divide the weights among GPUs with FSDP"
)
BY_PACE = "a few rows timed here"  # the basis of a rough estimate


@dataclass(frozen=True)
class Estimate:
    """Seconds, MiB and tokens of one stage, each None where nothing is known; `basis` says where they come from."""

    basis: str = ""
    seconds: float | None = None
    memory_mb: float | None = None
    tokens: float | None = None


MOMENT = Estimate("assumed, a moment", 0.5)  # of scores for which no model is asked


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

    @cached_property
    def rough(self) -> "Rough":
        tuning = self.pipeline.shop.tuning
        return Rough(self.pipeline.base, tuning, self.pipeline.corpus.training, tuning.micro_tokens, self.threads)

    def of(self, step: RunStep) -> Estimate:
        """What a step may take, empty where nothing is known."""
        return self._measured(step) or self._rough(step) or Estimate()

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
            "scores": lambda: earlier.scores(step.name, self.prompts),
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
            "scores": lambda: self.rough.scores(self._traits(step.name), self.prompts, self.heldout),
        }
        return guesses[step.kind]() if step.kind in guesses else None

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


class Rough:
    """What a stage takes by its tokens and the pace of the base model on this machine, which is timed on a few rows.

    The memory of what trains is counted on tensors without data (`step_cost.py`), for rows as long as the pairs' mean.
    Of an architecture that cannot be counted so, and of what does not train, it is weights, gradients, Adam's moments
    and the largest logits. On a CPU what the process holds already comes on top.
    """

    def __init__(
        self, base: Checkpoint, tuning: Tuning, pairs: Sequence[Pair], micro_tokens: int, threads: int | None = None
    ):
        """threads: of a cell that is trained, where those are others than there are."""
        from transformers import AutoConfig, AutoModelForCausalLM

        trust = remote_code_allowed()
        config = AutoConfig.from_pretrained(str(base.path), trust_remote_code=trust)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
        self.size = sum(p.numel() for p in model.parameters())
        self.frozen = FROZEN[tuning.precision] * self.size  # bytes
        if tuning.base_bits:
            rounded = sum(model.get_submodule(path).weight.numel() for path in base_layers(model))
            self.frozen -= round((FROZEN[tuning.precision] - BYTES) * rounded)
        self.tuning, self.base, self.looked_at, self.config = tuning, base, min(PAIRS, len(pairs)), config
        self.tokens = min(micro_tokens, packed_tokens(self.size, tuning.device))  # of a pass
        self.logits = 4 * micro_tokens * config.get_text_config().vocab_size
        self.counted: dict[Step, StepCost | None] = {}
        self.prompt = statistics.fmean(len(p.prompt.ids) for p in pairs)
        self.reply = statistics.fmean((len(p.chosen) + len(p.rejected)) / 2 for p in pairs)
        self.threads = threads if threads and tuning.device == "cpu" else torch.get_num_threads()

    @cached_property
    def pace(self) -> Pace:
        """With all threads, as what cells share is trained."""
        return self._timed(torch.get_num_threads())

    @cached_property
    def pace_of_cells(self) -> Pace:
        """With those that train a cell."""
        return self.pace if self.threads == torch.get_num_threads() else self._timed(self.threads)

    def _timed(self, threads: int) -> Pace:
        return pace_of(self.base, self.tuning, max(1, round(self.prompt)), max(1, round(self.reply)), threads)

    def stage(
        self,
        *,
        trained: float = 0,
        sampled: float = 0,
        read: float = 0,
        trainable: int = 0,
        frozen: int = 1,
        by_cell: bool = False,
        with_samples: bool = False,
        step: Step | None = None,
    ) -> Estimate:
        """trained: tokens with a backward pass; sampled and read: without; trainable and frozen: models in memory.

        step: one of the training, whose memory is counted.
        by_cell: with a cell's threads, and the probes of its training; with_samples: those draw responses as well.
        """
        pace = self.pace_of_cells if by_cell else self.pace
        sequence = self.prompt + self.reply
        seconds = (
            trained * pace.trained + sampled * pace.sampled + read * pace.read + (trainable + frozen) * pace.opened
        )
        if by_cell:  # SFT's log-probs of the probe's pairs, then at each look the policy's
            seconds += (1 + len(SHARES)) * 2 * self.looked_at * sequence * pace.read
            if with_samples:
                seconds += len(SHARES) * PROMPTS * (self.reply * pace.sampled + 2 * sequence * pace.read)
        if self.tuning.lora_rank:  # one frozen model under all adapters
            trainable, frozen = 0, 1
        cost = self.count(step) if step else None
        memory = cost.peak if cost else self.size * trainable * TRAINED + frozen * self.frozen + self.logits
        if self.tuning.device == "cpu":
            memory += resident()
        return Estimate(BY_PACE, seconds, memory / MIB, trained + sampled)

    def count(self, step: Step) -> StepCost | None:
        """The cost of a step, counted once; None for an architecture whose code asks for numbers of its tensors.

        Of a GPU whose free memory a pass would not fit into, with gradient checkpointing.
        """
        if step not in self.counted:
            try:
                self.counted[step] = self._count(step)
            except Exception:  # what an architecture raises on tensors without data is its own affair
                self.counted[step] = None
        return self.counted[step]

    def _count(self, step: Step) -> StepCost:
        asked, free = self.tuning.gradient_checkpointing, free_on(self.tuning.device)
        found = step_cost(self.config, replace(self.tuning, gradient_checkpointing=asked is True), step)
        if asked == "auto" and free is not None and found.peak > constants("cuda").training_share * free:
            found = step_cost(self.config, replace(self.tuning, gradient_checkpointing=True), step)
        return found

    def step(self, kind: StepKind, rows: int, method: Any = None) -> Step:
        """A step's largest pass: its rows, or as many as fit into one."""
        prompt, reply = max(1, round(self.prompt)), max(1, round(self.reply))
        each = prompt + reply * (2 if kind in ("reward_model", "pairs") else 1)
        return Step(kind, min(self.tokens, rows * each), prompt, reply, method)

    def step_of(self, method: Any, budget: int) -> Step:
        """A step of a method, by what it says it needs."""
        if getattr(method, "needs_reward", False):
            rows = min(budget, getattr(method, "minibatch_size", budget))
            return self.step("online with critic" if getattr(method, "needs_critic", False) else "online", rows)
        rows = min(budget, getattr(method, "batch_size", budget))
        return self.step("pairs", rows, method) if isinstance(method, PairwiseMethod) else self.step("sft", 2 * rows)

    def supervised_step(self, kind: StepKind, settings: Supervised) -> Step:
        return self.step(kind, min(settings.examples, settings.batch_size))

    def sft(self, settings: Supervised) -> Estimate:
        tokens = settings.examples * (self.prompt + self.reply)
        return self.stage(trained=tokens, trainable=1, frozen=0, step=self.supervised_step("sft", settings))

    def reward_model(self, settings: Supervised, examples: int) -> Estimate:
        tokens = 2 * examples * (self.prompt + self.reply)
        return self.stage(trained=tokens, trainable=1, frozen=0, step=self.supervised_step("reward_model", settings))

    def reference(self, pairs: int) -> Estimate:
        return self.stage(read=2 * pairs * (self.prompt + self.reply))

    def training(self, method: Any, budget: int) -> Estimate:
        """Of a method by what it says it needs; replies are taken to be as long as those of the pairs."""
        sequence, critic = self.prompt + self.reply, getattr(method, "needs_critic", False)
        if getattr(method, "responses_per_answer", 1) > 1:
            return MOMENT
        if not getattr(method, "needs_reward", False):
            trained, step = 2 * budget * sequence, self.step_of(method, budget)
            return self.stage(trained=trained, trainable=1, frozen=1, by_cell=True, with_samples=True, step=step)
        passes = getattr(method, "epochs", 1) * (2 if critic else 1)
        # sampled once, with log-probs; read by the reference, the reward model and the critic
        return self.stage(
            trained=budget * passes * sequence,
            sampled=budget * self.reply,
            read=budget * (2 + critic) * sequence,
            trainable=1 + critic,
            frozen=2,
            by_cell=True,
            step=self.step_of(method, budget),
        )

    def generations(self, prompts: int, responses: int) -> Estimate:
        """Sampling, and two passes for the KL."""
        sequence = self.prompt + self.reply
        return self.stage(sampled=prompts * responses * self.reply, read=prompts * 2 * sequence, frozen=2)

    def scores(self, traits: Traits, prompts: int, pairs: int) -> Estimate | None:
        """Of responses by a reward model, or of held-out pairs by policy and reference; None where it asks a judge."""
        sequence = self.prompt + self.reply
        if traits.asks_models or traits.is_judge or traits.keeps_answers:
            return None
        if traits.needs_policy:
            return self.stage(read=2 * 2 * pairs * sequence, frozen=2) if traits.needs_pairs else None
        return self.stage(read=prompts * sequence) if traits.needs_reward_model else MOMENT
