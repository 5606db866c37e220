"""`bench tune`: as many trials (or as much compute) for every method, a rule, and fresh seeds of the winners.

Trials are cells like any other, in a run of their own that answers the tuning prompts; nothing but the stages in the
store is remembered, so a tuning that was stopped goes on by being asked for again. What it found is `tune.json`.
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil, inf, log
from pathlib import Path
from typing import Any

from ...analysis.selection import CRITERIA, LABELS, ranked
from ...analysis.statistics import interval
from ...analysis.summary import plain
from ...analysis.tuning import of_method, rule_in_words
from ...errors import InputError
from ...reports.tuning import render_tuning
from ...results.integrity import digest, write_record, writing
from ...results.progress import CELL
from ...results.run_folder import STUDIES, TUNE
from ...runtime import processes
from .. import harness
from ..definition.rows import method_settings
from ..harness import Outcome
from ..request import Request
from .code import code_of
from .rule import check_rule, criteria, trial_spec
from .search import Optimizer, Search, Settings, Space, as_json, space_of

TRIAL_SEED = 1000  # of every trial; the winners' seeds count up from 0, so that none is a trial's
ETA = 3  # successive halving keeps one of so many, and gives it so many times the budget
MOST = 100  # trials of a method that costs no compute to train, where compute is what is shared out
COVERED = 0.9  # share of the prompts that must have a score
DISTANCE = "kl"


@dataclass(frozen=True)
class Tuning:
    """What one call of `bench tune` asks for."""

    request: Request
    """The winners' run: benchmark, methods, seeds, folders."""
    trials: int = 12
    """Trials of each method."""
    optimizer: Optimizer = "halton"
    seed: int = 0
    """Of the search."""
    flops: float | None = None
    """Training FLOPs of each method's trials in place of a number; the benchmark's own settings say what one takes."""
    halving: bool = False
    """Successive halving: trials begin with a part of the budget, and the best third goes on with three times that."""
    shared: bool = False
    """The benchmark's own settings are trained with the winners' seeds as well."""
    spaces: list[Space] = field(init=False)

    def __post_init__(self) -> None:
        """InputError for bad input, before anything trains."""
        spec = self.request.spec
        if self.trials < 2:
            raise InputError(f"--trials {self.trials} is no search; give at least 2")
        if self.halving and self.optimizer != "halton":
            raise InputError("--halving goes with --optimizer halton; leave one of the two out")
        if self.halving and self.flops:
            raise InputError("--halving shares compute out by itself; leave out --tune-flops or --halving")
        check_rule(spec)
        items = list(dict.fromkeys(self.request.methods))
        object.__setattr__(self, "spaces", [space_of(spec, item) for item in items])
        for space in self.spaces:
            if spec.select.by == LABELS and getattr(space.row.method, "responses_per_answer", 1) > 1:
                raise InputError(
                    f"{space.row.label} leaves SFT as it is, so labels cannot tell its trials apart; leave it out, or "
                    f"go by another scorer with --set select.by=selection_reward_model"
                )

    @property
    def rule(self) -> dict[str, Any]:
        select = self.request.spec.select
        return {"by": select.by, "at_most_kl": select.limit, "margin": select.margin}

    @property
    def criteria(self) -> list[str]:
        return criteria(self.request.spec)

    @property
    def contract(self) -> dict[str, Any]:
        """What was fixed before: space, trials, rule."""
        return {
            "trials": self.trials,
            "optimizer": self.optimizer,
            "seed": self.seed,
            "flops": self.flops,
            "halving": self.halving,
            "rule": self.rule,
            "criteria": self.criteria,
            "space": {space.row.label: as_json(space) for space in self.spaces},
        }

    @property
    def folder(self) -> Path:
        """The study's, in which its record and its page lie."""
        request = self.request
        name = digest([request.spec.model_dump(mode="json"), self.contract, request.seeds, self.shared])[:12]
        return request.out or Path(request.root) / STUDIES / request.spec.name / name

    @property
    def budgets(self) -> list[int]:
        """Of the rounds of trials: the benchmark's, or where halving is asked for, rising up to it."""
        budget = self.request.spec.budget
        rounds = 1 + int(log(self.trials + 1e-9, ETA)) if self.halving else 1
        return [max(1, budget // ETA ** (rounds - 1 - place)) for place in range(rounds)]

    def trial_request(self, settings: Mapping[str, Sequence[Settings]], budget: int) -> Request:
        """The run of trials: settings by row."""
        spec = trial_spec(self.request.spec, self.criteria).model_copy(update={"budget": budget})
        items = [space.item(each) for space in self.spaces for each in settings.get(space.row.label, ())]
        return dataclasses.replace(
            self.request,
            spec=spec,
            methods=tuple(dict.fromkeys(items)),
            seeds=1,
            first_seed=TRIAL_SEED,
            trials=True,
            out=None,
        )

    @property
    def known_before(self) -> bool:
        """True if the settings of all trials are known before one is trained, so that all may be trained at once."""
        return self.optimizer != "tpe" and not self.halving and self.flops is None

    def first(self) -> dict[str, list[Settings]]:
        """The settings of every method's first round, the benchmark's own in front."""
        return {s.row.label: [s.shared, *self.search(s).ask(self.trials)] for s in self.spaces}

    def search(self, space: Space) -> Search:
        return Search(space, self.optimizer, self.trials, self.seed)

    def winners_request(self, picked: Mapping[str, Settings], tuned: dict[str, Any] | None) -> Request:
        """The winners' run, with each row's settings in place of the benchmark's."""
        spec, items, methods = self.request.spec, [], dict(self.request.spec.methods)
        for space in self.spaces:
            row, settings = space.row, picked[space.row.label]
            if row.label == row.name:
                items.append(row.name)
                methods[row.name] = {**method_settings(spec, row.name), **settings}
            else:  # its own settings were typed, so these are too
                items.append(space.item(settings))
            if self.shared and settings != space.shared:
                items.append(space.item(space.shared))
        return dataclasses.replace(
            self.request,
            spec=spec.model_copy(update={"methods": methods}),
            methods=tuple(dict.fromkeys(items)),
            out=None,
            tuned=tuned,
        )


@dataclass(frozen=True)
class Tuned:
    """A finished tuning."""

    folder: Path
    record: dict[str, Any]
    """tune.json."""
    outcome: Outcome
    """The winners' run."""


def tune(tuning: Tuning) -> Tuned:
    """Train the trials, pick by the rule, and run the winners with fresh seeds on the held-out prompts."""
    tuning = dataclasses.replace(tuning, request=_saying_once(tuning.request))
    trials = _Trials(tuning)
    if tuning.optimizer == "tpe":
        _one_after_another(trials)
    elif tuning.halving:
        _halve(trials)
    elif not tuning.known_before:
        trials.run({s.row.label: [*trials.search(s).ask(trials.counts[s.row.label])] for s in tuning.spaces})
    found = {}
    for space in tuning.spaces:
        label = space.row.label
        finished = [t for t in trials.of(label) if t["budget"] == tuning.request.spec.budget]
        found[label] = {
            "space": as_json(space),
            "shared": trials.shared[label],
            "trials": trials.of(label),
            **of_method(finished, tuning.rule, tuning.criteria),
            "spent": _spent(trials.of(label)),
        }
    picked = {space.row.label: _picked(space, found[space.row.label]) for space in tuning.spaces}
    labels = _labels(tuning, picked)
    agreed = {
        "trials": {labels[label]: _settings_tried(row["trials"]) for label, row in found.items()},
        "settings": {labels[label]: settings for label, settings in picked.items()},
        **{name: tuning.contract[name] for name in ("optimizer", "seed", "flops", "halving", "rule", "space")},
        "spent": {labels[label]: _without_seconds(row["spent"]) for label, row in found.items()},
    }
    record: dict[str, Any] = {
        "study": tuning.folder.name,
        "benchmark": tuning.request.spec.name,
        "model": tuning.request.spec.model,
        "preferences": tuning.request.spec.preferences,
        "command": shlex.join(["bench", *sys.argv[1:]]),
        "code": code_of([space.row.name for space in tuning.spaces], tuning.request.spec),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "contract": tuning.contract,
        "trial_seed": TRIAL_SEED,
        "trials_run": str(trials.folder),
        "methods": found,
        "rows": labels,
        "spent": _spent([t for row in found.values() for t in row["trials"]]),
    }
    _write(tuning.folder, record)
    _say(tuning, found)
    outcome = harness.run(tuning.winners_request(picked, agreed))
    record["run"] = str(outcome.run.path)
    record["winners"] = _winners(outcome)
    record["environment"] = outcome.run.record["environment"]
    _write(tuning.folder, record)
    if not processes.rank():
        render_tuning(tuning.folder)
    return Tuned(tuning.folder, record, outcome)


def _saying_once(request: Request) -> Request:
    """The request of runs that share most of what they do, so that they say it once."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            request.say(line)

    return dataclasses.replace(request, say=say)


class _Trials:
    """The trials of a tuning so far, by row."""

    def __init__(self, tuning: Tuning):
        self.tuning, self.found = tuning, dict[str, list[dict[str, Any]]]()
        self.folder: Path | None = None
        own = {space.row.label: [space.shared] for space in tuning.spaces}
        first = self._run(tuning.first() if tuning.known_before else own, tuning.request.spec.budget)
        self.shared = {label: rows[0] for label, rows in first.items()}
        self.counts = {label: self._count(label) for label in self.shared}
        for label, rows in first.items():
            self._take(label, rows[1:])

    def search(self, space: Space) -> Search:
        tuning = self.tuning
        return Search(space, tuning.optimizer, self.counts[space.row.label], tuning.seed)

    def of(self, label: str) -> list[dict[str, Any]]:
        return self.found.get(label, [])

    def run(self, settings: Mapping[str, Sequence[Settings]], budget: int | None = None) -> dict[str, list[dict]]:
        """Train and score trials; those of each row, after which they are among the trials so far."""
        new = self._run(settings, budget or self.tuning.request.spec.budget)
        for label, rows in new.items():
            self._take(label, rows)
        return {label: self.of(label)[-len(rows) :] for label, rows in new.items() if rows}

    def _take(self, label: str, rows: Sequence[dict[str, Any]]) -> None:
        """Number trained trials on from those so far."""
        first = len(self.of(label))
        self.found.setdefault(label, []).extend({"number": n, **row} for n, row in enumerate(rows, first))

    def _run(self, settings: Mapping[str, Sequence[Settings]], budget: int) -> dict[str, list[dict[str, Any]]]:
        request = self.tuning.trial_request(settings, budget)
        outcome = harness.score(request)
        self.folder = outcome.run.path
        rows = _rows(outcome, self.tuning.criteria)
        return {
            space.row.label: [
                {"settings": each, "budget": budget, **rows[space.item(each)]} for each in settings[space.row.label]
            ]
            for space in self.tuning.spaces
            if space.row.label in settings
        }

    def _count(self, label: str) -> int:
        """How many trials a row gets. InputError where the compute does not pay for two."""
        flops = self.tuning.flops
        if flops is None:
            return self.tuning.trials
        each = self.shared[label]["cost"].get("flops") or 0
        if each and flops < 2 * each:
            raise InputError(
                f"--tune-flops {flops:g} does not pay for two trials of {label}, of which one takes {each:.3g}; "
                f"give at least {2 * each:.3g}"
            )
        return min(MOST, int(flops / each)) if each else self.tuning.trials


def _one_after_another(trials: _Trials) -> None:
    """A trial of every row at a time, each told before the next is asked for."""
    rule, searched = trials.tuning.rule, {space.row.label: trials.search(space) for space in trials.tuning.spaces}
    for number in range(max(trials.counts.values())):
        asked = {label: [*search.ask(1)] for label, search in searched.items() if number < trials.counts[label]}
        for label, rows in trials.run({label: each for label, each in asked.items() if each}).items():
            for row in rows:
                kl = row["kl"] if row["kl"] is not None else inf
                excess = kl - rule["at_most_kl"] if rule["at_most_kl"] is not None else 0.0
                searched[label].tell(row["settings"], row["scores"].get(rule["by"]), excess)


def _halve(trials: _Trials) -> None:
    """Successive halving, Jamieson and Talwalkar (2016, arXiv:1502.07943), in rounds of the benchmark's budgets."""
    tuning = trials.tuning
    left = {space.row.label: [*trials.search(space).ask(tuning.trials)] for space in tuning.spaces}
    for budget in tuning.budgets:
        found = trials.run(left, budget)
        left = {
            label: [t["settings"] for t in reversed(ranked(rows, tuning.rule["by"], tuning.rule["at_most_kl"]))]
            for label, rows in found.items()
        }
        left = {label: rows[: ceil(len(found[label]) / ETA)] for label, rows in left.items()}


def _rows(outcome: Outcome, asked: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By row of the trials' run: scores by criterion with intervals, KL, costs, and why it failed, if it did."""
    scores, costs = outcome.run.scores(), {cell.method: cell.cost() for cell in outcome.run.cells()}
    by = {key: part["value"].astype(float).to_numpy() for key, part in scores.groupby(["method", "metric"])}
    found = {}
    for label in [*outcome.run.record["methods"]]:
        values = {name: by.get((label, CRITERIA[name])) for name in asked}
        known = {n: v for n, v in values.items() if v is not None and (v == v).mean() >= COVERED}
        limits = {name: interval(v[None], bounds=(0.0, 1.0)) for name, v in known.items()}
        kl = by.get((label, DISTANCE))
        found[label] = {
            "scores": {name: float(v[v == v].mean()) for name, v in known.items()},
            "intervals": {name: [float(i.low), float(i.high)] for name, i in limits.items()},
            "kl": float(kl.mean()) if kl is not None and (kl == kl).all() else None,
            "cost": costs.get(label, {}),
            "failed": outcome.failures.get(f"{label}{CELL}{TRIAL_SEED}"),
        }
    for name, why in outcome.failures.items():
        found.setdefault(
            name.rpartition(CELL)[0], {"scores": {}, "intervals": {}, "kl": None, "cost": {}, "failed": why}
        )
    return found


def _picked(space: Space, found: Mapping[str, Any]) -> Settings:
    trial = next((t for t in found["trials"] if t["number"] == found["picked"]), None)
    return trial["settings"] if trial else space.shared


def _labels(tuning: Tuning, picked: Mapping[str, Settings]) -> dict[str, str]:
    """The winners' row of each row that was tuned."""
    return {
        space.row.label: space.row.label if space.row.label == space.row.name else space.item(picked[space.row.label])
        for space in tuning.spaces
    }


def _settings_tried(trials: Sequence[Mapping[str, Any]]) -> int:
    """How many settings were tried; by halving some are with several budgets."""
    return len({tuple(trial["settings"].items()) for trial in trials})


def _spent(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What trials cost to train, over all of them."""
    keys = ("seconds", "flops", "examples")
    return {"trials": len(trials), **{key: sum(t["cost"].get(key, 0) for t in trials) for key in keys}}


def _without_seconds(spent: Mapping[str, float]) -> dict[str, float]:
    """For the contract, which is the same wherever a tuning ran."""
    return {key: value for key, value in spent.items() if key != "seconds"}


def _winners(outcome: Outcome) -> dict[str, Any]:
    """Of each row of the winners' run: its seeds, and its win rates and KL on the held-out prompts."""
    kept = ("win_rate.", "kl")
    return {
        name: {
            "seeds": row["seeds"],
            "metrics": {m: cell for m, cell in row["metrics"].items() if m.startswith(kept)},
        }
        for name, row in outcome.summary["methods"].items()
    }


def _write(folder: Path, record: dict[str, Any]) -> None:
    if processes.rank():
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / TUNE, plain(record))


def _say(tuning: Tuning, found: Mapping[str, Any]) -> None:
    say = tuning.request.say
    say(f"trials done; picked by {rule_in_words(tuning.rule)}:")
    for label, row in found.items():
        for said in row["warnings"]:
            say(f"  {label}: {said}")
