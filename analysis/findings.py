"""The opening of a report: recommendation, certainty, cost, confounds, what to watch, and what was not shown.

A few methods are told one by one; with more of them the sentences gather those of which the same is to be said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import learnt_scorer, people, picked, prediction_powered
from .choice import better, choose
from .comparisons import LEVEL
from .costs import cost_sentences, unequal_compute, unequal_examples
from .elsewhere import is_elsewhere
from .elsewhere import sentences as not_trained_here
from .equal_length import sentences as extrapolated
from .frontier import sentences as at_equal_kl
from .grids import SFT
from .judge_audit import doubtful_judges, judges_below_people, panel_sentences
from .quantities import measured
from .subsets import sentences as where
from .tuning import not_tuned_alike, tuned_with
from .verdict import (
    compared,
    comparison_sentences,
    could_show,
    estimates,
    headline,
    judged_by,
    length_sentences,
    listed,
    rate,
    rating_sentences,
    recommendation,
    tested,
)

FEW = 4  # methods that are told one by one
MINIMUM_SEEDS = 3


@dataclass(frozen=True)
class Findings:
    """The opening of a report; each part is a list of sentences, and any of them but the first may be empty."""

    recommendation: str
    certainty: list[str]
    """Shown results, with intervals and p, by the evaluator that is trusted most and then by the others."""
    cost: list[str]
    confounds: list[str]
    """Explanations of the figures other than the method: few seeds, unequal compute."""
    watch: list[str]
    """Reasons for caution: over-optimization, evaluators that contradict each other, length, a doubtful judge."""
    not_shown: list[str]
    """Comparisons that are not decided."""
    limits: list[str] = field(default_factory=list)
    """What no run of this kind shows, and what this one did not ask."""


def findings(summary: Mapping[str, Any]) -> Findings:
    """The content of `verdict`, sorted by what a reader asks; failed gates and warnings are left to the page."""
    metrics = headline(summary)
    main = tested(summary, metrics[0]) if metrics else []
    many = len(summary["methods"]) - 1 > FEW
    undecided = [compared(c, summary) for c in main if not _is_settled(c)]
    if many:
        certainty = _gathered(summary, metrics, main)
        undecided = _gathered_open(summary, main)
    else:
        certainty = [said for said in comparison_sentences(summary, metrics) if said not in undecided]
        certainty += rating_sentences(summary, metrics)
    if main and not any(_is_settled(c) for c in main):
        certainty = [f"No difference is shown by {judged_by(metrics[0])}{could_show(main)}.", *certainty]
    certainty += [*people.sentences(summary), *prediction_powered.sentences(summary), *tuned_with(summary)]
    certainty += picked.sentences(summary)
    return Findings(
        recommendation(summary, metrics),
        [*certainty, *where(summary)],
        cost_sentences(summary, choose(main).first if many else None),
        [
            *not_trained_here(summary["methods"]),
            *few_seeds(summary["methods"]),
            *_unequal_seeds(main, summary),
            *not_tuned_alike(summary),
            *unequal_examples(summary),
            *unequal_compute(summary),
        ],
        [
            *learnt_scorer.sentences(summary),
            *_overoptimized(summary, many),
            *at_equal_kl(summary),
            *_contradictions(summary, metrics),
            *length_sentences(summary, metrics),
            *extrapolated(summary),
            *doubtful_judges(summary),
            *judges_below_people(summary),
            *panel_sentences(summary),
        ],
        undecided,
        _limits(summary),
    )


@dataclass(frozen=True)
class Answer:
    """What is told under one of a reader's questions; `otherwise`: said where there are no sentences."""

    question: str
    sentences: list[str]
    otherwise: str = ""


def answers(found: Findings, noticed: Sequence[str] = (), *, told_before: bool = False) -> list[Answer]:
    """The first screen in its order: which, how sure, at what cost, where it breaks; then what was not shown.

    noticed: further reasons for caution (warnings of the run, signs of a training gone wrong). told_before: there are
    others, and they stand above.
    """
    broken, word = [*noticed, *found.watch], "Nothing else" if told_before else "Nothing"
    return [
        Answer("Which", [found.recommendation]),
        Answer("How sure", found.certainty, "No difference is shown."),
        Answer("At what cost", found.cost, "No cost was recorded."),
        Answer("Where it breaks", broken, f"{word} was found that weakens this verdict."),
        Answer("What was not shown", [*found.not_shown, *found.limits]),
    ]


def _is_settled(row: Mapping[str, Any]) -> bool:
    """A difference, an equality or its half is shown."""
    return bool(better(row) or row.get("not_worse"))


def _gathered(summary: Mapping[str, Any], metrics: Sequence[str], main: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows that beat SFT or lose to it, those that the best ones are better than, then estimates by other scorers."""
    said = []
    if metrics:
        against = [c for c in main if c["b"] == SFT]
        for winner, words in (("a", "beat SFT"), ("b", "be worse than SFT")):
            rows = [c for c in against if better(c) == c[winner]]
            if rows:
                said.append(f"Shown to {words} by {judged_by(metrics[0])}: {_rates(summary, metrics[0], rows)}.")
    found = choose(main)
    said += [f"{name} is better than {listed(found.over[name])}." for name in found.first if found.over[name]]
    said += [
        f"{name} is equal to {listed(found.equal[name])}, within the margin."
        for name in found.first
        if found.equal[name]
    ]
    return said + [estimates(summary, metric) for metric in metrics[1:]]


def _gathered_open(summary: Mapping[str, Any], main: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows not decided against SFT, how many pairs are not, and how large a difference would have been seen."""
    said = []
    against = [c for c in main if c["b"] == SFT and not _is_settled(c)]
    if against:
        metric = main[0]["metric"]
        said.append(
            f"Not decided against SFT by {judged_by(metric)}: {_rates(summary, metric, against)}{could_show(against)}."
        )
    pairs = [c for c in main if c["b"] != SFT]
    if rows := [c for c in pairs if not _is_settled(c)]:
        said.append(f"Not decided in {len(rows)} of {len(pairs)} pairs{could_show(rows)}.")
    return said


def _rates(summary: Mapping[str, Any], metric: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Win rates against SFT with intervals, the highest first."""
    cells = {c["a"]: summary["methods"][c["a"]]["metrics"][metric] for c in rows}
    cells = {name: cell for name, cell in cells.items() if measured(cell["mean"])}
    order = sorted(cells.items(), key=lambda item: -item[1]["mean"])
    return ", ".join(f"{name} {rate(cell)}" for name, cell in order) or "no values"


def _unequal_seeds(main: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[str]:
    """The seeds on which pairs of unequal ones were compared."""
    runs = {c["a"]: c["seeds"] for c in main if c["b"] == SFT and not is_elsewhere(summary["methods"][c["a"]])}
    if len(set(runs.values())) < 2:
        return []
    counts = ", ".join(f"{name} {seeds}" for name, seeds in runs.items())
    return [f"The rows have unequally many seeds ({counts}); two of them are compared on the seeds that both have."]


def _overoptimized(summary: Mapping[str, Any], many: bool) -> list[str]:
    texts = {name: row["text"] for name, row in (summary.get("overoptimization") or {}).items()}
    if not many:
        return [f"{text}." for text in texts.values()]
    turned = {name: text for name, text in texts.items() if "is over-optimized" in text}
    rest = [name for name in texts if name not in turned]
    return [f"{text}." for text in turned.values()] + (
        [f"Not shown to be over-optimized: {listed(rest)}."] if rest else []
    )


def few_seeds(methods: Mapping[str, Any]) -> list[str]:
    """Methods with too few training runs to tell how much they vary."""
    said = []
    trained = {n: row["seeds"] for n, row in methods.items() if n != SFT and row["seeds"] and not is_elsewhere(row)}
    if single := [name for name, seeds in trained.items() if seeds == 1]:
        said.append(
            f"{', '.join(single)}: one seed; the intervals are over prompts alone, and what is shown is about the "
            "policies that were trained here, not about the methods"
        )
    if double := [name for name, seeds in trained.items() if 1 < seeds < MINIMUM_SEEDS]:
        said.append(
            f"{', '.join(double)}: fewer than {MINIMUM_SEEDS} seeds; "
            "two training runs tell little about the variation between runs, so the intervals are wide"
        )
    return said


def _contradictions(summary: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """Differences shown by the headline of which another scorer shows the opposite, corrected for all of them."""
    said = []
    claims = {(c["a"], c["b"]): c for c in tested(summary, metrics[0]) if better(c)} if metrics else {}
    others = [c for c in summary["comparisons"] if c["metric"] in metrics[1:] and c.get("basis") != "through_sft"]
    for row in others:
        claim = claims.get((row["a"], row["b"]))
        if claim is None or not measured(row["p"]) or row["p"] * len(others) >= LEVEL:
            continue
        ahead = row["a"] if row["difference"] > 0 else row["b"]
        if ahead != better(claim):
            said.append(
                f"Scorers contradict each other: {better(claim)} is better by {judged_by(metrics[0])}, "
                f"{'SFT' if ahead == SFT else ahead} by {judged_by(row['metric'])}."
            )
    return said


def _limits(summary: Mapping[str, Any]) -> list[str]:
    """Limits of any run of this kind, and questions not asked of this one."""
    said = []
    if any(row["seeds"] == 1 and not is_elsewhere(row) for name, row in summary["methods"].items() if name != SFT):
        said.append("How another training run would turn out: with one seed, the intervals are over prompts only.")
    contract = summary["contract"] if isinstance(summary["contract"], Mapping) else {}
    if str(contract.get("model", "")).startswith("builtin/"):
        said.append(
            f"Anything about large models or natural text: {summary['benchmark']} is a small made-up world with a "
            "known true reward."
        )
    fixed = {"sft": "SFT model", "reward_model": "reward models", "split": "split of the data"}
    same = [words for name, words in fixed.items() if name not in (contract.get("per_seed") or ())]
    if same:
        said.append(
            "How other runs of what all seeds share would turn out: seeds vary a method's training, with the same "
            f"{listed(same)} in all of them, and no interval covers that."
        )
    said.append("Other models, data, budgets and settings than those of the contract below.")
    metrics = {metric for row in summary["methods"].values() for metric in row["metrics"]}
    if not any(metric.startswith("win_rate.judge") for metric in metrics):
        said.append("What a judge says: none was asked.")
    if not summary.get("people"):
        said.append(
            "What people prefer: every score here comes from a model or a formula (`bench label RUN` asks them)."
        )
    if not summary.get("overoptimization"):
        said.append(
            "Whether the reward turns during training: no checkpoints along the way were scored (evaluation.along)."
        )
    return said
