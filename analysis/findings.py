"""The opening of a report: recommendation, certainty, cost, confounds, what to watch, and what was not shown.

A few methods are told one by one; with more of them the sentences gather those of which the same is to be said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .quantities import COSTS, cost, measured
from .tuning import not_tuned_alike, tuned_with
from .verdict import (
    SFT,
    best,
    compared,
    comparison_sentences,
    headline,
    is_decided,
    judged_by,
    length_sentences,
    listed,
    rating_sentences,
    recommendation,
)

FEW = 4  # methods that are told one by one
MINIMUM_SEEDS = 3
UNEQUAL = 1.5  # times the cost of another method from which on a difference in cost is said
FLIPS = 0.1  # share of verdicts that flip when responses are swapped, above which the judge is doubted


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


def findings(summary: Mapping[str, Any]) -> Findings:
    """The content of `verdict`, sorted by what a reader asks; failed gates and warnings are left to the page."""
    metrics = headline(summary)
    main = [c for c in summary["comparisons"] if metrics and c["metric"] == metrics[0]]
    many = len(summary["methods"]) - 1 > FEW
    undecided = [compared(c, summary) for c in main if not is_decided(c)]
    if many:
        certainty = _gathered(summary, metrics, main)
        undecided = _gathered_open(summary, main)
    else:
        certainty = [said for said in comparison_sentences(summary, metrics) if said not in undecided]
        certainty += rating_sentences(summary, metrics)
    if main and not any(is_decided(c) for c in main):
        certainty = [f"No difference is shown by {judged_by(metrics[0])}.", *certainty]
    certainty += tuned_with(summary)
    return Findings(
        recommendation(summary, metrics),
        certainty,
        _cost_sentences(summary, best(main)[1] if many else None),
        [
            *few_seeds(summary["methods"]),
            *not_tuned_alike(summary),
            *_unequal_examples(summary),
            *_unequal_compute(summary),
        ],
        [
            *_overoptimized(summary, many),
            *_contradictions(summary, metrics),
            *length_sentences(summary, metrics),
            *_doubtful_judges(summary),
            *_judges_below_people(summary),
        ],
        undecided + _limits(summary),
    )


def _gathered(summary: Mapping[str, Any], metrics: list[str], main: Sequence[Mapping[str, Any]]) -> list[str]:
    """Methods that beat SFT or lose to it by each evaluator, and those that the best ones are better than."""
    said = []
    for metric in metrics:
        against = [c for c in summary["comparisons"] if c["metric"] == metric and c["b"] == SFT]
        for winner, words in (("a", "beat SFT"), ("b", "be worse than SFT")):
            rows = [c for c in against if c["verdict"] == f"{c[winner]} is better"]
            if rows:
                said.append(f"Shown to {words} by {judged_by(metric)}: {_rates(summary, metric, rows)}.")
    for name in best(main)[1]:
        beaten = [c["b"] if c["a"] == name else c["a"] for c in main if c["verdict"] == f"{name} is better"]
        if others := [other for other in beaten if other != SFT]:
            said.append(f"{name} is better than {listed(others)}.")
    return said


def _gathered_open(summary: Mapping[str, Any], main: Sequence[Mapping[str, Any]]) -> list[str]:
    """Methods not shown to differ from SFT, how many pairs are not, and how large a difference would have been seen."""
    said = []
    against = [c for c in main if c["b"] == SFT and not is_decided(c)]
    if against:
        metric = main[0]["metric"]
        rates = _rates(summary, metric, against)
        said.append(f"No significant difference to SFT by {judged_by(metric)}: {rates}{_seen(against)}.")
    pairs = [c for c in main if c["b"] != SFT]
    if rows := [c for c in pairs if not is_decided(c)]:
        said.append(f"No significant difference in {len(rows)} of {len(pairs)} pairs of methods{_seen(rows)}.")
    return said


def _rates(summary: Mapping[str, Any], metric: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Win rates against SFT with intervals, the highest first."""
    cells = {c["a"]: summary["methods"][c["a"]]["metrics"][metric] for c in rows}
    cells = {name: cell for name, cell in cells.items() if measured(cell["mean"])}
    texts = []
    for name, cell in sorted(cells.items(), key=lambda item: -item[1]["mean"]):
        limits = f" ({100 * cell['low']:.0f} to {100 * cell['high']:.0f})" if measured(cell["low"]) else ""
        texts.append(f"{name} {cell['mean']:.0%}{limits}")
    return ", ".join(texts) or "no values"


def _seen(rows: Sequence[Mapping[str, Any]]) -> str:
    """The difference that these comparisons would have found."""
    sizes = [100 * c["detectable"] for c in rows if measured(c.get("detectable"))]
    if not sizes:
        return ""
    span = f"{min(sizes):.0f}" + (f" to {max(sizes):.0f}" if round(max(sizes)) > round(min(sizes)) else "")
    return f"; this run would show differences of {span} points or more with 80% power"


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
    trained = {name: row["seeds"] for name, row in methods.items() if name != SFT and row["seeds"]}
    if single := [name for name, seeds in trained.items() if seeds == 1]:
        said.append(
            f"{', '.join(single)}: fewer than {MINIMUM_SEEDS} seeds; "
            "intervals with one seed leave out the variation between training runs, so the verdict is about the "
            "policies that were trained here, not about the methods"
        )
    if double := [name for name, seeds in trained.items() if 1 < seeds < MINIMUM_SEEDS]:
        said.append(
            f"{', '.join(double)}: fewer than {MINIMUM_SEEDS} seeds; "
            "two training runs tell little about the variation between runs, so the intervals are wide"
        )
    return said


def _costs_of(summary: Mapping[str, Any], key: str) -> dict[str, float]:
    rows = {name: row["cost"].get(key) for name, row in summary["methods"].items() if name != SFT}
    return {name: value for name, value in rows.items() if measured(value) and value > 0}


def _cost_sentences(summary: Mapping[str, Any], chosen: Sequence[str] | None) -> list[str]:
    """The cost of one seed, and how much longer the slowest method takes than the quickest.

    chosen: of many methods those to be told, beside the quickest and the slowest; None for all.
    """
    said = []
    times = _costs_of(summary, "seconds")
    if chosen is not None and times:
        chosen = [*chosen, min(times, key=times.__getitem__), max(times, key=times.__getitem__)]
    for name, row in summary["methods"].items():
        if chosen is not None and name not in chosen:
            continue
        parts = [cost(row["cost"].get(key), key) for key in ("seconds", "flops") if row["cost"].get(key)]
        parts += [
            f"{cost(row['cost'][key], key)} {COSTS[key].lower()}"
            for key in ("generated_tokens", "reward_queries")
            if row["cost"].get(key)
        ]
        if parts and name != SFT:
            said.append(f"{name}: {', '.join(parts)}.")
    if len(times) > 1 and max(times.values()) >= UNEQUAL * min(times.values()):
        slow, quick = max(times, key=times.__getitem__), min(times, key=times.__getitem__)
        said.append(f"{slow} takes {times[slow] / times[quick]:.1f} times as long as {quick}.")
    return said


def _unequal_examples(summary: Mapping[str, Any]) -> list[str]:
    """Methods that did not learn from equally many examples; one that trains nothing is left out."""
    seen: dict[float, list[str]] = {}
    for name, count in _costs_of(summary, "examples").items():
        seen.setdefault(count, []).append(name)
    if len(seen) < 2:
        return []
    parts = [f"{listed(names)} from {count:,.0f}" for count, names in seen.items()]
    return [f"The budgets differ: {'; '.join(parts)} examples."]


def _unequal_compute(summary: Mapping[str, Any]) -> list[str]:
    spent = _costs_of(summary, "flops")
    if len(spent) < 2 or max(spent.values()) < UNEQUAL * min(spent.values()):
        return []
    most, least = max(spent, key=spent.__getitem__), min(spent, key=spent.__getitem__)
    equal = "" if _unequal_examples(summary) else "The budget is equal in examples, not in compute: "
    times = f"{spent[most] / spent[least]:.1f} times the FLOPs"
    return [f"{equal}{most} spends {times} of {least}, so part of their difference may be due to compute."]


def _contradictions(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """Pairs of which one evaluator shows the one side to be better, and another the other side."""
    said: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in summary["comparisons"]:
        if row["metric"] in metrics and is_decided(row):
            sides = said.setdefault((row["a"], row["b"]), {})
            sides.setdefault(row["verdict"], []).append(judged_by(row["metric"]))
    return [
        "Evaluators contradict each other: " + "; ".join(f"{v} by {listed(by)}" for v, by in sides.items()) + "."
        for sides in said.values()
        if len(sides) > 1
    ]


def _doubtful_judges(summary: Mapping[str, Any]) -> list[str]:
    audits = (summary.get("judges") or {}).get("audit") or {}
    flips = {name: (row.get("flip") or {}).get("mean") for name, row in audits.items()}
    return [
        f"The {name} changes its verdict on {value:.0%} of the pairs when the two responses are swapped."
        for name, value in flips.items()
        if measured(value) and value > FLIPS
    ]


def _judges_below_people(summary: Mapping[str, Any]) -> list[str]:
    """Judges that agree with a person less than people do with each other, the whole interval lying below."""
    judges = ((summary.get("judges") or {}).get("people") or {}).get("judges") or {}
    beside = {name: row.get("another_person") or {} for name, row in judges.items()}
    return [
        f"The judge {name} agrees with one person on {row['agreement']:.0%} of the pairs that people labelled, people "
        f"with each other on {row['people']:.0%}: {-100 * row['difference']:.0f} points below its ceiling "
        f"({-100 * row['high']:.0f} to {-100 * row['low']:.0f}), so trust its verdicts less than a person's."
        for name, row in beside.items()
        if measured(row.get("high")) and row["high"] < 0
    ]


def _limits(summary: Mapping[str, Any]) -> list[str]:
    """Limits of any run of this kind, and questions not asked of this one."""
    said = []
    if any(row["seeds"] == 1 for name, row in summary["methods"].items() if name != SFT):
        said.append("How another training run would turn out: with one seed, the intervals are over prompts only.")
    contract = summary["contract"] if isinstance(summary["contract"], Mapping) else {}
    if str(contract.get("model", "")).startswith("builtin/"):
        said.append(
            f"Anything about large models or natural text: {summary['benchmark']} is a small made-up world with a "
            "known true reward."
        )
    said.append("Other models, data, budgets and settings than those of the contract below.")
    metrics = {metric for row in summary["methods"].values() for metric in row["metrics"]}
    if not any(metric.startswith("win_rate.judge") for metric in metrics):
        said.append("What a judge says: none was asked.")
    said.append("What people prefer: every score here comes from a model or a formula.")
    if not summary.get("overoptimization"):
        said.append(
            "Whether the reward turns during training: no checkpoints along the way were scored (evaluation.along)."
        )
    return said
