"""The one loop that compares: stages, cells, scores, summary, report."""

import dataclasses
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from ..evaluators.judge import read_template
from ..evaluators.reward_model import RewardModel, RewardModelWinRate
from ..methods.base import TrainingError
from ..reports.render import render
from ..results.changes import differences_to_sft, ties
from ..results.chat import PLAIN_TEMPLATE
from ..results.checkpoint import Checkpoint, Tuning
from ..results.records import GateError, InputError, nearest
from ..results.store import (
    ALONG,
    POLICY,
    Cell,
    Run,
    Stage,
    Store,
    check_names,
    digest,
    folder_digest,
    runs_folder,
)
from ..results.summary import summarize
from . import gates, judge_people, reward_audit, scoring, stages
from .along import TRAINING, score_along
from .corpus import Corpus, load_corpus
from .judge_bill import most
from .judge_findings import identity, judge_findings
from .judge_labels import LabelledComparison
from .models import find_model
from .plugins import available, build
from .rows import method_row
from .spec import BenchmarkSpec
from .stages import MODEL, Workshop

Gate = Literal["warn", "fail", "ignore"]
PACKAGES = ("torch", "transformers", "peft", "tokenizers")


@dataclass(frozen=True)
class Request:
    """What one call of `bench run` asks for."""

    spec: BenchmarkSpec
    methods: tuple[str, ...]
    seeds: int
    root: Path
    """Folder of the cache and of new runs."""
    out: Path | None = None
    """Folder of this run; None: <root>/runs/<benchmark>/<run-id>."""
    device: str = "auto"
    gate: Gate = "warn"
    say: Callable[[str], None] = field(default=lambda line: print(line, file=sys.stderr))


@dataclass(frozen=True)
class Outcome:
    """A finished run, and the cells that failed, with the reason."""

    run: Run
    summary: dict[str, Any]
    failures: dict[str, str]


def run(request: Request) -> Outcome:
    """Compare methods: everything that is not on disk yet is trained and scored, then summary and report are written.

    InputError for bad input, before anything trains; GateError where a gate fails and `gate` is "fail". A cell that
    fails is named in the outcome and in the summary's warnings; the others go on.
    """
    return Harness(request).run()


class Harness:
    """One run in progress."""

    def __init__(self, request: Request):
        self.request, self.spec, self.say = request, request.spec, request.say
        spec = self.spec
        if "sft" in request.methods:
            raise InputError("sft is the baseline of every run and needs no --method; leave it away")
        rows = [method_row(spec, item) for item in request.methods]
        self.names = {label: name for label, name, _ in rows}
        self.methods = {label: method for label, _, method in rows}
        check_names(self.methods)
        self.runs = runs_folder(request.root, spec.name)
        for name in spec.methods:
            if name not in available("methods"):
                raise InputError(
                    f"benchmark {spec.name}: methods.{name} is no method; {nearest(name, available('methods'))}"
                )
        tuning = Tuning(**spec.tuning.model_dump(), device=request.device).resolve()
        self.own_reward_model: Checkpoint | None = None  # the user's, which then evaluates
        self.evaluators_given: dict[str, Any] = {}  # as the settings have them, before the benchmark fills in its part
        self.judges: dict[str, Checkpoint] = {}  # the local judges' models; an endpoint has none
        self.people_labels: list[LabelledComparison] = []  # of pairs on which the judge is compared with people
        self._check_evaluators(tuning)
        self.base = find_model(spec.model, "--model")
        packages = {name: version(name) for name in PACKAGES}
        self.shop = Workshop(Store(request.root), tuning, packages)
        self.tokenizer = self.base.tokenizer()
        self.corpus: Corpus = load_corpus(spec, self.tokenizer)
        self._check_context()
        external = self.spec.external_pairs
        self.external = reward_audit.read_external(external, self.corpus) if external else None
        self.stamps: list[str] = []  # what every page must say
        self.warnings: list[str] = []
        self.gates: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}

    def run(self) -> Outcome:
        self._say_data()
        self._say_cost_of_judging()
        self._train_shared()
        run = self._open_run()
        responses = self.corpus.prompts(
            self.corpus.heldout, self.spec.max_response_tokens, limit=self.spec.evaluation.prompts
        )
        for seed in range(self.request.seeds):
            baseline = self._generate(None, responses, seed)
            self._place(run, "sft", seed, [], baseline, baseline)
            for name, method in self.methods.items():
                label = f"{name} seed {seed}"
                try:
                    trained = self._timed(label, lambda n=name, m=method, s=seed: self._train(n, m, s))
                    policy = Checkpoint(trained.path / POLICY, trained.content)
                    answers = self._generate(policy, responses, seed, self._choice(method))
                    made = [trained, *self._along(label, trained, responses, seed, answers, baseline)]
                    self._place(run, name, seed, made, answers, baseline, policy)
                except (InputError, KeyboardInterrupt):
                    raise
                except Exception as error:
                    kind = "" if isinstance(error, TrainingError) else f"{type(error).__name__}: "
                    self.failures[label] = f"{kind}{error}".strip().splitlines()[0]
                    self.say(f"{label} failed: {self.failures[label]}; the other cells go on")
        summary = self._summarize(run)
        render([run])
        return Outcome(run, summary, self.failures)

    def make_sft(self) -> Checkpoint:
        """The SFT checkpoint of this benchmark, trained or found on disk."""
        spec, corpus = self.spec, self.corpus
        sft = self._timed("SFT", lambda: stages.train_sft(self.shop, self.base, spec.sft, corpus.sft, corpus.heldout))
        self._gate(gates.sft_gate(sft))
        return Checkpoint(sft.path / MODEL, sft.content)

    def _train_shared(self) -> None:
        spec, corpus = self.spec, self.corpus
        self.sft = self.make_sft()
        self.reward_models: dict[str, Checkpoint] = {}
        trained: dict[str, Stage] = {}
        for seed, (role, pairs) in enumerate(
            [("training", corpus.training), ("evaluation", corpus.evaluation)], start=1
        ):
            made = trained[role] = self._timed(
                f"{role} reward model",
                lambda p=pairs, s=seed: stages.train_reward_model(
                    self.shop, self.sft, spec.reward_model, p, corpus.heldout, s
                ),
            )
            self.reward_models[role] = Checkpoint(made.path / MODEL, made.content)
            self._gate(gates.reward_model_gate(made, role, spec.gates.reward_model_accuracy))
        gates.check_reward_models_apart(trained)
        self._check_reward_models()
        self.pairs = stages.pair_dataset(self.shop, self.sft, corpus.training)
        self.prompts = corpus.prompts(corpus.training, spec.max_response_tokens)

    def _check_reward_models(self) -> None:
        """The reward model that evaluates must be another than the one that trains, learnt from other prompts.

        InputError where it is the same one, unless that is forced: then every page says so.
        """
        prompts = [{p.prompt.id for p in pairs} for pairs in (self.corpus.training, self.corpus.evaluation)]
        if shared := prompts[0] & prompts[1]:
            raise InputError(f"training and evaluation reward models share {len(shared)} prompts; mend the splits")
        training, own = self.reward_models["training"], self.own_reward_model
        if own is None or folder_digest(own.path) != folder_digest(training.path):
            return
        said = f"{own.path} is the reward model that the methods are trained on, so it cannot judge them"
        if not self.spec.evaluators["reward_model"].get("allow_training_model"):
            raise InputError(
                f"{said}; name another with --reward-model, or force it with allow_training_model: true under "
                f"evaluators.reward_model"
            )
        self.stamps.append(
            "Evaluated with the training reward model: its win rates and rewards are what the methods were trained to "
            "raise, not evidence that they are better"
        )

    @cached_property
    def training_reward(self) -> RewardModel:
        return RewardModel.open(self.reward_models["training"].path, self.shop.tuning)

    def _train(self, label: str, method: Any, seed: int) -> Stage:
        return stages.train_cell(
            self.shop,
            self.names[label],
            method,
            base=self.base,
            sft=self.sft,
            pairs=self.pairs,
            unpaired=self.corpus.unpaired,
            prompts=self.prompts,
            reward=lambda: self.training_reward,
            reward_model=self.reward_models["training"],
            budget=self.spec.budget,
            seed=seed,
            along=self.spec.evaluation.along,
        )

    def _choice(self, method: Any) -> stages.Choice | None:
        """How a method that answers with the best of several responses chooses."""
        count = getattr(method, "responses_per_answer", 1)
        key = self.reward_models["training"].key
        return stages.Choice(count, lambda: self.training_reward, key) if count > 1 else None

    def _generate(self, policy: Checkpoint | None, prompts, seed: int, choice: stages.Choice | None = None) -> Stage:
        temperature = self.spec.evaluation.temperature
        return stages.generate(self.shop, self.sft, policy, prompts, temperature=temperature, seed=seed, choice=choice)

    def _place(
        self,
        run: Run,
        name: str,
        seed: int,
        trained: list[Stage],
        answers: Stage,
        baseline: Stage,
        policy: Checkpoint | None = None,
    ) -> Cell:
        """Score a policy (None: SFT) by every evaluator and show the cell in the run's folder."""
        spec = self.spec
        limits = scoring.Limits(spec.max_prompt_tokens, spec.max_response_tokens, spec.evaluation.temperature)
        parts = [
            scoring.score(
                self.shop, part, evaluator, needs, answers, baseline, sft=self.sft, policy=policy, limits=limits
            )
            for part, (evaluator, needs) in self.evaluators.items()
        ]
        made = [*trained, answers, stages.join_scores(self.shop, parts)]
        return run.place(name, seed, made, evaluators=self._identities())

    def _along(self, label: str, trained: Stage, prompts, seed: int, answers: Stage, baseline: Stage) -> list[Stage]:
        """The scores of the checkpoints along training, where the method saved any."""
        if not (trained.path / ALONG).is_dir():
            return []
        scorers = {name: self.evaluators[name] for name in ("reward_model", "gold") if name in self.evaluators}
        scorers["divergence"] = build("evaluators", "divergence", {}, "along training"), {}
        scorers[TRAINING] = self._training_reward_model()
        return [
            self._timed(
                f"{label}, checkpoints along training",
                lambda: score_along(
                    self.shop,
                    scorers,
                    trained,
                    lambda policy: scoring.responses(self._generate(policy, prompts, seed)),
                    scoring.responses(answers),
                    scoring.responses(baseline),
                ),
            )
        ]

    @cached_property
    def evaluators(self) -> dict[str, tuple[Any, dict[str, str]]]:
        """Each evaluator with the keys of what the benchmark fills in."""
        found = {}
        for name, settings in self.spec.evaluators.items():
            settings, needs = dict(settings), {}
            if name == "reward_model" and "model" not in settings:
                given, needs = self._reward_model("evaluation")
                settings |= given
            elif name == "reward_model":
                settings["model"] = str(self.own_reward_model.path)
                settings.setdefault("device", self.shop.tuning.device)
                needs = {"model": self.own_reward_model.key}
            if name == "implicit_reward":
                settings["pairs"] = tuple(self.corpus.labelled)
                needs = {"pairs": digest([dataclasses.asdict(pair) for pair in self.corpus.labelled])}
            if name == "judge":
                settings = judge_settings(settings, self.judges, self.shop.tuning.device, self.request.root)
            found[name] = (build("evaluators", name, settings, f"benchmark {self.spec.name}, evaluators.{name}"), needs)
            if name == "reward_model":
                found[TRAINING] = self._training_reward_model()
        return found

    def _reward_model(self, role: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings of the evaluator for one of the benchmark's reward models, and the keys of what it is given."""
        checkpoint = self.reward_models[role]
        settings = {"model": str(checkpoint.path), "tuning": self.shop.tuning}
        return settings, {"model": checkpoint.key, "tuning": digest(dataclasses.asdict(self.shop.tuning))}

    def _training_reward_model(self) -> tuple[RewardModelWinRate, dict[str, str]]:
        """The reward model that methods are trained on as an evaluator, with the keys of what it is given."""
        settings, needs = self._reward_model("training")
        return RewardModelWinRate(**settings, label="reward_model.training"), needs

    def _check_evaluators(self, tuning: Tuning) -> None:
        """Construct every evaluator once with what it will be given, so that a wrong setting is told at the start."""
        for name, settings in self.spec.evaluators.items():
            given = {"model": "(trained by the benchmark)", "tuning": tuning} if name == "reward_model" else {}
            made = build("evaluators", name, {**given, **settings}, f"benchmark {self.spec.name}, evaluators.{name}")
            self.evaluators_given[name] = made
            if name == "reward_model" and "model" in settings:
                self.own_reward_model = find_model(settings["model"], "--reward-model")
            if name == "judge":
                self.judges = {m: find_model(m, "--judge") for m in made.models if not m.startswith("openai:")}
                self.people_labels = judge_people.read(made, self.say)

    def _check_context(self) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(self.base.path)).get_text_config()
        window = getattr(config, "max_position_embeddings", None)
        longest = self.spec.max_prompt_tokens + self.spec.max_response_tokens
        if window and longest > window:
            raise InputError(
                f"benchmark {self.spec.name}: max_prompt_tokens + max_response_tokens is {longest}, but "
                f"{self.spec.model} reads at most {window} tokens; lower them"
            )

    def _open_run(self) -> Run:
        contract = self._contract()
        run_id = digest(contract)[:12]
        run = Run(self.request.out or self.runs / run_id)
        run.open(
            {
                "run_id": run_id,
                "benchmark": self.spec.name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "commands": [shlex.join(["bench", *sys.argv[1:]])],
                "contract": contract,
                "environment": _environment(self.shop),
                "data": {**self.corpus.record, "notes": self._notes()},
                "methods": {
                    label: {
                        "name": self.names[label],
                        "params": stages.settings_of(method),
                        "description": (type(method).__doc__ or "").partition("\n")[0],
                    }
                    for label, method in self.methods.items()
                },
            },
            evaluators=self._identities(),
            scored=[(name, seed) for name in ("sft", *self.methods) for seed in range(self.request.seeds)],
        )
        return run

    def _identities(self) -> dict[str, Any]:
        """By name what determines the scores of each evaluator, beside what the contract says."""
        given = self.spec.evaluators
        return {n: identity(given[n], self.judges) if n == "judge" else given[n] for n in given}

    def _contract(self) -> dict[str, Any]:
        """All that rows of one table must share, the benchmark's settings of its methods included.

        Which of them are run, seeds and evaluators come on top of it.
        """
        spec = self.spec
        template = self.tokenizer.chat_template
        return {
            "benchmark": spec.name,
            "model": spec.model,
            "base": self.base.key,
            "tokenizer": digest(self.tokenizer.get_vocab()),
            "template": digest(template),
            "data": self.corpus.digest,
            "splits": {**spec.splits.model_dump(), "seed": spec.split_seed},
            "lengths": {"prompt": spec.max_prompt_tokens, "response": spec.max_response_tokens},
            "tuning": dataclasses.asdict(self.shop.tuning),
            "sft": {**spec.sft.model_dump(), "content": self.sft.key},
            "reward_model": {
                **spec.reward_model.model_dump(),
                **{role: checkpoint.key for role, checkpoint in self.reward_models.items()},
            },
            **({"evaluated_by": self.own_reward_model.key} if self.own_reward_model else {}),
            "budget": spec.budget,
            "methods": spec.methods,
            "method_defaults": spec.method_defaults,
            "evaluation": spec.evaluation.model_dump(),
            "order": "a fresh permutation of the training pairs (or prompts) each epoch, from the seed",
            "code": stages.code_digest(*stages.TRAINING_CODE),
            "packages": self.shop.packages,
        }

    def _notes(self) -> list[str]:
        """What a reader of the numbers must know of the data and the model."""
        notes, spec = [], self.spec
        if self.tokenizer.chat_template == PLAIN_TEMPLATE:
            notes.append(f"{spec.model} has no chat template; the plain template of alignment-bench was used")
        for label, method in self.methods.items():
            if (count := getattr(method, "responses_per_answer", 1)) > 1:
                notes.append(f"{label} costs nothing to train but {count} responses and scores for every answer in use")
            if getattr(method, "start", "sft") != "sft":
                notes.append(f"{label} is tuned from the {method.start} model, so it saw the preference data only")
            if getattr(method, "data", "pairs") == "unpaired":
                notes.append(f"{label} learns from other data than the rest: {spec.unpaired}")
        record = self.corpus.record
        prompts = record["splits"]["heldout"]["prompts"]
        if prompts < spec.evaluation.prompts:
            notes.append(f"only {prompts} held-out prompts are there, {spec.evaluation.prompts} were asked for")
        dropped = sum(record["dropped"].values())
        if 2 * dropped > record["read"]:
            notes.append(f"{dropped} of {record['read']} rows were dropped, so the rest may not be like the whole")
        return notes

    def _summarize(self, run: Run) -> dict[str, Any]:
        import pandas

        frames, costs, along = [], {}, []
        for cell in run.cells():
            if (checkpoints := cell.along()) is not None:
                along.append(checkpoints.assign(method=cell.method, seed=cell.seed))
            frames.append(cell.scores().assign(method=cell.method, seed=cell.seed))
            if cell.cost():
                costs.setdefault(cell.method, []).append(cell.cost())
        failed = [f"{label} failed: {reason}" for label, reason in self.failures.items()]
        scores = pandas.concat(frames, ignore_index=True)
        summary = summarize(
            run_id=run.record["run_id"],
            run_dir=str(run.path.resolve()),
            benchmark=self.spec.name,
            contract=run.record["contract"],
            scores=scores,
            costs=costs,
            along=pandas.concat(along, ignore_index=True) if along else None,
            gates=self.gates,
            warnings=[*failed, *self._notes()],
        )
        summary |= self._beyond_scores(run, scores)
        return run.write_summary(summary)

    def _beyond_scores(self, run: Run, scores: Any) -> dict[str, Any]:
        """What the summary says beside the scores: other changes, and the audit of judges."""
        found: dict[str, Any] = {"changes": differences_to_sft(scores), "ties": ties(scores), "stamps": self.stamps}
        found["reward_models"] = self._audit_reward_models()
        if "judge" in self.spec.evaluators:
            judge = self.evaluators["judge"][0]
            found["judges"] = judge_findings(run, judge, scores, self.people_labels, self.say)
        return found

    def _audit_reward_models(self) -> dict[str, Any]:
        tuning = self.shop.tuning
        models = {
            role: (RewardModelWinRate(str(made.path), tuning), made.key) for role, made in self.reward_models.items()
        }
        if self.own_reward_model:
            models["evaluation"] = self.evaluators["reward_model"][0], self.own_reward_model.key
        return reward_audit.audit(self.shop, models, self.tokenizer, self.corpus.labelled, self.external)

    def _gate(self, gate: dict[str, Any]) -> None:
        if self.request.gate == "ignore":
            return
        self.gates.append(gate)
        self.say(f"  gate {'passed' if gate['passed'] else 'NOT passed'}: {gate['text']}")
        if not gate["passed"] and self.request.gate == "fail":
            raise GateError(f"gate {gate['name']} not passed: {gate['text']}; --gate warn goes on in spite of it")

    def _timed(self, label: str, make: Callable[[], Stage]) -> Stage:
        started = time.monotonic()
        stage = make()
        how = f"made in {time.monotonic() - started:.0f} s" if stage.fresh else "found on disk"
        self.say(f"{label}: {how}")
        return stage

    def _say_data(self) -> None:
        record = self.corpus.record
        parts = ", ".join(f"{name} {s['pairs']} pairs" for name, s in record["splits"].items())
        dropped = sum(record["dropped"].values())
        self.say(f"{self.spec.name}: {record['used']} pairs from {record['source']} ({dropped} dropped): {parts}")

    def _say_cost_of_judging(self) -> None:
        """The most that an endpoint can cost, before anything is asked or trained."""
        if "judge" in self.spec.evaluators:
            judge, spec = self.evaluators_given["judge"], self.spec
            question = len(self.tokenizer(read_template(judge.prompt))["input_ids"])
            question += spec.max_prompt_tokens + 2 * spec.max_response_tokens
            cells = len(self.methods) * self.request.seeds
            if said := most(judge, cells, spec.evaluation.prompts, question):
                self.say(f"judge: {said}; verdicts on disk are not paid again")


def judge_settings(settings: dict[str, Any], judges: dict[str, Checkpoint], device: str, root: Path) -> dict[str, Any]:
    """A judge's settings with the folders of its local models, the device and the place of its verdicts filled in."""
    models = [settings["model"]] if isinstance(settings["model"], str) else settings["model"]
    folders = [str(judges[m].path) if m in judges else m for m in models]
    return {"device": device, **settings, "model": tuple(folders), "cache": Store(root).verdicts}


def _environment(shop: Workshop) -> dict[str, Any]:
    return {
        "packages": {
            **shop.packages,
            "alignment-bench": version("alignment-bench"),
            "python": platform.python_version(),
        },
        "machine": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": shop.tuning.device,
        "precision": shop.tuning.precision,
    }
