"""The runs of a study: their plan, and one after another; what they found together as study.json, and its page.

Each run has a contract and a folder of its own and goes on from the cache, so a study that was stopped goes on as well;
runs share through the cache what their contracts share: SFT, reward models, reference log-probs, cells.
"""

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...analysis import axes as along_an_axis
from ...analysis import budgets, variance
from ...analysis import frontier as frontiers
from ...analysis.answer import answer, sentences, told
from ...analysis.budgets import BUDGET
from ...analysis.findings import few_seeds
from ...analysis.learnt_scorer import JUDGE, beside_the_truth
from ...analysis.summary import plain
from ...analysis.verdict import verdict
from ...reports.render import render_study
from ...results.integrity import digest, write_record, writing
from ...results.run_folder import STUDIES, STUDY, Run, check_names
from .. import harness
from ..plan import Plan, Planned, lasting, plan
from ..request import Request
from .axes import Study, StudyRun, described
from .code import code_of

if TYPE_CHECKING:
    import pandas

KEPT = ("kl", "length", "implicit_reward.chosen")  # measures that a study shows beside scores and what it asks about
# What a tuning's contract and a run's must have in common for the one to be told beside the other.
ALIKE = ("base", "data", "splits", "lengths", "tuning", "sft", "reward_model", "budget", "evaluation")
# Fields that a shared stage hangs on: of stages to do that agree in them only one is counted.
DATA = ("model", "template", "preferences", "collected", "preferences_split", "columns", "rows", "splits", "split_seed",
        "max_prompt_tokens", "max_response_tokens", "tuning", "sft", "demonstrations")  # fmt: skip
TRAINED_ON = (*DATA, "labels", "more_pairs", "training_pairs")
FEEDS = {"sft": DATA, "reward_model": (*TRAINED_ON, "reward_model"), "reference": (*TRAINED_ON, "budget")}


@dataclass(frozen=True)
class Planning:
    """The plans of a study's runs, in their order."""

    runs: list[tuple[StudyRun, Plan]]

    @property
    def new(self) -> list[tuple[Plan, list[Planned]]]:
        """Of each run the stages to do that no run before it makes, as far as can be told before they are made."""
        seen: set[str] = set()
        found = []
        for run, made in self.runs:
            keys = {_same(run, step): step for step in made.to_do}
            found.append((made, [step for key, step in keys.items() if key not in seen]))
            seen |= keys.keys()
        return found

    @property
    def to_do(self) -> list[Planned]:
        """Stages to do, each once."""
        return [step for _, steps in self.new for step in steps]

    @property
    def seconds(self) -> tuple[float, int]:
        """The seconds of what is known, and of how many stages nothing is."""
        known = sum(lasting(steps, made.at_once) for made, steps in self.new)
        beside = sum(part.seconds or 0.0 for made, _ in self.new for part in made.beside.values())
        return known + beside, sum(step.estimate.seconds is None for step in self.to_do)


def _same(run: StudyRun, planned: Planned) -> str:
    fields = FEEDS.get(planned.step.kind)
    values = run.spec.model_dump(mode="json", include=set(fields) if fields else None, exclude={"name", "description"})
    return digest([planned.step.label, values])


def plan_study(study: Study, base: Request, *, keep: bool) -> Planning:
    """What the runs would do. InputError for bad input of any of them, before anything trains.

    base: a request with all that the runs share beside the study (root, device, ...). keep: tokenized pairs stay on
    disk, for the study is going to be made; else nothing is written.
    """
    runs = study.runs()
    if keep:
        sources = {*DATA, "unpaired", "more_pairs", "training_pairs", "prompts", "evaluation"}
        for run in {digest(run.spec.model_dump(mode="json", include=sources)): run for run in runs}.values():
            harness.Harness(dataclasses.replace(_request(study, run, base), say=lambda line: None))
    return Planning([(run, plan(_request(study, run, base), further=place > 0)) for place, run in enumerate(runs)])


def _request(study: Study, run: StudyRun, base: Request) -> Request:
    return dataclasses.replace(base, spec=run.spec, methods=tuple(run.labels), seeds=study.seeds, out=None)


def run_study(study: Study, base: Request) -> Path:
    """Make all runs that are not on disk, write study.json and the page; the study's folder."""
    runs = study.runs()
    check_names([study.name])
    folder = base.root / STUDIES / study.name / study.id
    outcomes = []
    for number, run in enumerate(runs, 1):
        if told := told_of(run, study):
            base.say(f"run {number} of {len(runs)}: {told}")
        outcomes.append(harness.run(_request(study, run, base)))
    return write_study(folder, found_by(study, runs, outcomes))


def write_study(folder: Path, found: dict[str, Any]) -> Path:
    """Write study.json and the page; the folder."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / STUDY, found)
    render_study(folder, found)
    return folder


def told_of(run: StudyRun, study: Study) -> str:
    """The values of a run, as people read them."""
    values = {axis.field: axis.values[run.at[axis.field]] for axis in study.axes if axis.field in run.at}
    worlds = {f"seed of {source}": number for source, number in run.world.items()}
    return ", ".join(f"{field} {along_an_axis.text_of(value)}" for field, value in {**values, **worlds}.items())


def found_by(study: Study, runs: Sequence[StudyRun], outcomes: Sequence[harness.Outcome]) -> dict[str, Any]:
    """The content of study.json."""
    import pandas

    values = {axis.field: axis.values for axis in study.axes}
    scores = pandas.concat(
        [_scores(study, run, outcome, number) for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True))]
    )
    independent = _independent(scores, study)
    found: dict[str, Any] = {
        "study_id": study.id,
        **described(study),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["bench", *sys.argv[1:]]),
        "code": code_of(study.methods, study.spec),
        "environment": outcomes[0].run.record["environment"],
        "runs": [_run(study, run, outcome) for run, outcome in zip(runs, outcomes, strict=True)],
        "axes": along_an_axis.along_axes(independent, values),
        "beside_the_first": [] if values else along_an_axis.beside_the_first(independent, study.methods),
        "frontiers": _frontiers(scores, study, runs, outcomes),
        "variance": _variance(scores, study),
        "tuned": of_tuning(study, runs, outcomes),
        "warnings": warnings_of(study, runs, outcomes),
    }
    if study.tuned and not found["tuned"]["at"]:
        found["warnings"].append(f"No run here has the data, models and budget of the tuning in {study.tuned}.")
    found = plain(found)
    found["verdict"] = verdict_of(found)
    if study.design:
        found["answer"] = {"answer": answer(found)["answer"], "sentences": sentences(found)}
    return found


def verdict_of(found: Mapping[str, Any]) -> list[str]:
    """What a study shows, in sentences."""
    metric = along_an_axis.headline_of(found)
    answered = told(found)
    said = along_an_axis.sentences(found, answered)
    places: dict[str, list[str]] = {}  # of a text that parts have in common
    for part in found["frontiers"]:
        texts = frontiers.sentences({"frontier": part}, answered)
        for text in texts + frontiers.compute_sentences(part["equal_compute"]):
            places.setdefault(text, []).append(", ".join(along_an_axis.values_at(part["at"], found)))
    every = prod(len(found["axes"][field]["values"]) for part in found["frontiers"][:1] for field in part["at"])
    said += [
        text if len(at) == every else f"{text.removesuffix('.')} ({'; '.join(at)})." for text, at in places.items()
    ]
    said += budgets.sentences(found)
    said += variance.sentences(found, metric or next((r["metric"] for r in found["variance"]), None))
    nothing = "Nothing is compared here: no method has scores at two values of an axis."
    return said or ["Nothing else is compared." if answered else nothing]


def _scores(study: Study, run: StudyRun, outcome: harness.Outcome, number: int) -> "pandas.DataFrame":
    """The scores of a run's cells with the places of its values; SFT's have those of the run."""
    frame = outcome.run.scores()
    names = {"sft": ("sft", {}), **run.labels}
    asked = {said.by for said in (*study.design.yes_if, *study.design.no_if)} if study.design else set()
    kept = {*KEPT, *asked, frontiers.FINAL_PROXY}
    wanted = frame["metric"].map(lambda m: m in kept or frontiers.is_wanted(m))
    frame = frame[frame["method"].isin(names) & (frame["seed"] < study.seeds) & wanted]
    frame = frame.assign(label=frame["method"], method=frame["method"].map(lambda label: names[label][0]), run=number)
    for axis in study.axes:
        places = {label: {**run.at, **own}.get(axis.field) for label, (_, own) in names.items()}
        frame[axis.field] = frame["label"].map(places).astype(float)
    return frame.assign(**{_world(source): run.world[source] for source in study.per_seed})


def _world(source: str) -> str:
    """The column of a source's seed."""
    return f"seed of {source}"


def _independent(scores: "pandas.DataFrame", study: Study) -> "pandas.DataFrame":
    """Scores of methods by seeds that vary all that is to vary: with `per_seed` a seed is a world in which all sources
    moved together, and its value the mean over the method's seeds there."""
    columns = ["method", "seed", "metric", "prompt_id", "value", *(axis.field for axis in study.axes)]
    scores = scores[scores["label"] != "sft"]
    if not study.per_seed:
        return scores[columns]
    worlds = scores[[_world(source) for source in study.per_seed]]
    together = scores[worlds.eq(worlds.iloc[:, 0], axis=0).all(axis=1)]
    together = together.assign(seed=together[_world(study.per_seed[0])])
    keys = [column for column in columns if column != "value"]
    return together.groupby(keys, dropna=False, as_index=False).agg({"value": "mean"})[columns]


def _frontiers(
    scores: "pandas.DataFrame", study: Study, runs: Sequence[StudyRun], outcomes: Sequence[harness.Outcome]
) -> list[dict[str, Any]]:
    """Frontiers of runs that differ in nothing but the budget, whose rows are joined like rows of other settings; with
    several budgets compared at equal training compute too. World 0 alone."""
    apart = [axis.field for axis in study.axes if axis.method is None and axis.field != BUDGET]
    spent = next((axis.values for axis in study.axes if axis.field == BUDGET), ())
    for source in study.per_seed:
        scores = scores[scores[_world(source)] == 0]
    found = []
    for part in [part for _, part in scores.groupby(apart)] if apart else [scores]:
        names, flops = {}, {}
        cells = part[["label", "run"]].drop_duplicates()
        for label, number in zip(cells["label"], cells["run"], strict=True):
            budget = f":{BUDGET}={spent[runs[number].at[BUDGET]]}" if spent and label != "sft" else ""
            names[label, number] = f"{label}{budget}"
            flops[f"{label}{budget}"] = outcomes[number].summary["methods"][label]["cost"].get("flops")
        joined = part.assign(method=[names[key] for key in zip(part["label"], part["run"], strict=True)])
        joined = joined.drop_duplicates(["method", "seed", "metric", "prompt_id"])  # SFT's are in every run
        joined = joined[["method", "seed", "metric", "prompt_id", "value"]]
        if made := frontiers.frontier(joined):
            rows = {name: label for (label, _), name in names.items()}
            equal = frontiers.equal_compute(joined, rows, flops) if spent else []
            found.append({"at": {field: int(part[field].iloc[0]) for field in apart}, **made, "equal_compute": equal})
    return found


def of_tuning(study: Study, runs: Sequence[StudyRun], outcomes: Sequence[harness.Outcome]) -> dict[str, Any] | None:
    """What the winners of the study's tuning showed; at: places of the runs whose contracts are that of the winners'
    but for settings, None without a tuning."""
    if not study.tuned:
        return None
    found = study.tuning
    winners = Run(Path(found["run"]))
    summary, rows = winners.summary, found["rows"]
    trials = summary["contract"]["tuned"]["trials"]
    agreed = [outcome.summary["contract"] for outcome in outcomes]
    alike = [run.at for run, a in zip(runs, agreed, strict=True) if all(a[n] == summary["contract"][n] for n in ALIKE)]
    return {
        "folder": str(study.tuned),
        "trials": {item: trials[label] for item, label in rows.items()},
        "rows": rows,
        "comparisons": summary["comparisons"],
        "at": [{field: place for field, place in at.items() if field != BUDGET} for at in alike],
    }


def _variance(scores: "pandas.DataFrame", study: Study) -> list[dict[str, Any]]:
    """The variance by source, at the first value of each axis of the benchmark's fields."""
    if not study.per_seed:
        return []
    for axis in study.axes:
        if axis.method is None:
            scores = scores[scores[axis.field] == 0]
    scores = scores[scores["label"] != "sft"]
    renamed = scores.assign(method=scores["label"], **{source: scores[_world(source)] for source in study.per_seed})
    return variance.split_variance(renamed, study.per_seed)


def _run(study: Study, run: StudyRun, outcome: harness.Outcome) -> dict[str, Any]:
    summary = outcome.summary
    return {
        "at": run.at,
        "world": run.world,
        "told": told_of(run, study),
        "run_id": summary["run_id"],
        "run_dir": summary["run_dir"],
        "recommendation": verdict(summary)[0],
        "reward_models": reward_models(summary),
        "rows": {
            label: {"method": item, "at": own, "cost": summary["methods"].get(label, {}).get("cost", {})}
            for label, (item, own) in run.labels.items()
        },
        "failures": outcome.failures,
    }


def reward_models(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What `bench audit-reward` finds in a run, in short: accuracies on held-out pairs, and where the true reward is
    known Kendall's tau between it and the evaluation reward model over rows, and between it and the judge, how many
    rows are ruined, how many of these the reward model takes for better than SFT."""
    audit = (summary.get("reward_models") or {}).get("heldout") or {"models": {}}
    truth = beside_the_truth(summary)
    return {
        "accuracy": {role: row["accuracy"] for role, row in audit["models"].items()},
        "phi": audit.get("phi"),
        "tau": truth["tau"],
        "tau_of_judge": beside_the_truth(summary, JUDGE)["tau"],
        "ruined": sum(row["is_ruined"] for row in truth["rows"]) if truth["rows"] else None,
        "missed": sum(row["is_missed"] for row in truth["rows"]) if truth["rows"] else None,
    }


def warnings_of(study: Study, runs: Sequence[StudyRun], outcomes: Sequence[harness.Outcome]) -> list[str]:
    """Cells that failed, gates that were not passed, too few seeds."""
    said = few_seeds({item: {"seeds": study.seeds} for item in study.methods})
    failed: dict[tuple[str, str], list[str]] = {}  # gates; runs that share a stage share its gate
    for run, outcome in zip(runs, outcomes, strict=True):
        told = told_of(run, study)
        where = f" ({told})" if told else ""
        said += [f"{label} failed{where}: {why}" for label, why in outcome.failures.items()]
        for gate in outcome.summary.get("gates", ()):
            if not gate["passed"]:
                failed.setdefault((gate["name"], gate["text"]), []).append(told)
    for (name, text), places in failed.items():
        where = f" ({'; '.join(places)})" if 0 < len(places) < len(runs) else ""
        said.append(f"gate {name} not passed{where}: {text}")
    return said
