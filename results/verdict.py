"""What a run says, in sentences: which method to use, how sure, at what cost, what to watch, and what was not shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .quantities import COSTS, cost, known, seconds
from .sequential import UNTIL_DECIDED

SFT = "sft"
# the order in which the verdict trusts them
PREFERRED = ("win_rate.gold", "win_rate.reward_model", "win_rate.judge", UNTIL_DECIDED)
BY = {
    "gold": "the true reward",
    "reward_model": "the evaluation reward model",
    "judge": "the judge",
    "judge_until_decided": "the judge, asked until decided",
}
NO_DIFFERENCE = "no significant difference"
MINIMUM_SEEDS = 3
LEVEL = 0.05  # below which an adjusted p shows a difference
UNEQUAL = 1.5  # times the cost of another method from which on a difference in cost is said
FLIPS = 0.1  # share of verdicts that flip when answers are swapped, above which the judge is doubted


@dataclass(frozen=True)
class Findings:
    """What a report opens with; each part a list of sentences, any of them may be empty but the first."""

    recommendation: str
    certainty: list[str]
    """What is shown, with intervals and p, by the evaluator that is trusted most and then by the others."""
    cost: list[str]
    confounds: list[str]
    """What else than the method may explain the figures: few seeds, unequal compute."""
    watch: list[str]
    """What may mislead: over-optimization, evaluators that contradict each other, length, a doubtful judge."""
    not_shown: list[str]


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """What the run says, in sentences: who beats SFT, who differs from whom, at what cost, and what to beware of.

    The first headline metric of `PREFERRED` that was measured gets sentences with numbers, the others one line each.
    """
    metrics = _headline(summary)
    said = [_recommendation(summary, metrics), *_comparison_sentences(summary, metrics)]
    said += _length_sentences(summary, metrics)
    said += _rating_sentences(summary, metrics)
    said += [f"{found['text']}." for found in summary.get("overoptimization", {}).values()]
    costs = [f"{m} {seconds(s)}" for m, row in summary["methods"].items() if (s := row["cost"].get("seconds"))]
    if costs:
        said.append(f"Training time for one seed: {', '.join(costs)}.")
    return said + failed_gates(summary["gates"])


def findings(summary: Mapping[str, Any]) -> Findings:
    """The same as `verdict`, sorted by what a reader wants to know; failed gates and warnings are left to the page."""
    metrics = _headline(summary)
    undecided = _undecided(summary, metrics)
    certainty = [said for said in _comparison_sentences(summary, metrics) if said not in undecided]
    return Findings(
        _recommendation(summary, metrics),
        certainty + _rating_sentences(summary, metrics),
        _cost_sentences(summary),
        [*few_seeds(summary["methods"]), *_unequal_compute(summary)],
        [
            *(f"{found['text']}." for found in summary.get("overoptimization", {}).values()),
            *_contradictions(summary, metrics),
            *_length_sentences(summary, metrics),
            *_doubtful_judges(summary),
        ],
        undecided + _limits(summary),
    )


def few_seeds(methods: Mapping[str, Any]) -> list[str]:
    """Where too few training runs stand behind a method to tell how much they vary."""
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


def _headline(summary: Mapping[str, Any]) -> list[str]:
    return by_preference({c["metric"] for c in summary["comparisons"] if c["metric"].count(".") == 1})


def _recommendation(summary: Mapping[str, Any], metrics: list[str]) -> str:
    if not metrics:
        return "No method was compared with SFT."
    return _choice([c for c in summary["comparisons"] if c["metric"] == metrics[0]])


def _comparison_sentences(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """Each comparison on the first metric; then one line for each of the others."""
    said = []
    for metric in metrics:
        rows = [c for c in summary["comparisons"] if c["metric"] == metric]
        if metric == metrics[0]:
            said += [_compared(c, summary) for c in sorted(rows, key=lambda c: c["b"] != SFT)]
        else:
            said.append(f"By {_judged_by(metric)}: " + "; ".join(_short(c) for c in rows) + ".")
    return said


def _compared(row: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    return _against_sft(row, summary["methods"]) if row["b"] == SFT else _pair(row)


def _undecided(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    rows = [c for c in summary["comparisons"] if metrics and c["metric"] == metrics[0] and not _is_decided(c)]
    return [_compared(c, summary) for c in rows]


def _costs_of(summary: Mapping[str, Any], key: str) -> dict[str, float]:
    rows = {name: row["cost"].get(key) for name, row in summary["methods"].items() if name != SFT}
    return {name: value for name, value in rows.items() if known(value) and value > 0}


def _cost_sentences(summary: Mapping[str, Any]) -> list[str]:
    """What one seed of each method costs, and how much longer the slowest takes than the quickest."""
    said = []
    for name, row in summary["methods"].items():
        parts = [cost(row["cost"].get(key), key) for key in ("seconds", "flops") if row["cost"].get(key)]
        parts += [
            f"{cost(row['cost'][key], key)} {COSTS[key].lower()}"
            for key in ("generated_tokens", "reward_queries")
            if row["cost"].get(key)
        ]
        if parts and name != SFT:
            said.append(f"{name}: {', '.join(parts)}.")
    times = _costs_of(summary, "seconds")
    if len(times) > 1 and max(times.values()) >= UNEQUAL * min(times.values()):
        slow, quick = max(times, key=times.get), min(times, key=times.get)
        said.append(f"{slow} takes {times[slow] / times[quick]:.1f} times as long as {quick}.")
    return said


def _unequal_compute(summary: Mapping[str, Any]) -> list[str]:
    spent = _costs_of(summary, "flops")
    if len(spent) < 2 or max(spent.values()) < UNEQUAL * min(spent.values()):
        return []
    most, least = max(spent, key=spent.get), min(spent, key=spent.get)
    return [
        f"The budget is equal in examples, not in compute: {most} spends {spent[most] / spent[least]:.1f} times the "
        f"FLOPs of {least}, so a part of what separates them may be bought."
    ]


def _contradictions(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """Pairs of which one evaluator shows the one side to be better, and another the other side."""
    said: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in summary["comparisons"]:
        if row["metric"] in metrics and _is_decided(row):
            sides = said.setdefault((row["a"], row["b"]), {})
            sides.setdefault(row["verdict"], []).append(_judged_by(row["metric"]))
    return [
        "Evaluators contradict each other: " + "; ".join(f"{v} by {_and(by)}" for v, by in sides.items()) + "."
        for sides in said.values()
        if len(sides) > 1
    ]


def _doubtful_judges(summary: Mapping[str, Any]) -> list[str]:
    audits = (summary.get("judges") or {}).get("audit") or {}
    flips = {name: (row.get("flip") or {}).get("mean") for name, row in audits.items()}
    return [
        f"The {name} changes its verdict on {value:.0%} of the pairs when the two answers are swapped."
        for name, value in flips.items()
        if known(value) and value > FLIPS
    ]


def _limits(summary: Mapping[str, Any]) -> list[str]:
    """What no run of this kind shows, and what this one was not asked."""
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
    measured = {metric for row in summary["methods"].values() for metric in row["metrics"]}
    if not any(metric.startswith("win_rate.judge") for metric in measured):
        said.append("What a judge says: none was asked.")
    said.append("What people prefer: every score here comes from a model or a formula.")
    if not summary.get("overoptimization"):
        said.append(
            "Whether the reward turns during training: no checkpoints along the way were scored (evaluation.along)."
        )
    return said


def failed_gates(gates: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"Gate {gate['name']} not passed: {gate['text']}." for gate in gates if not gate["passed"]]


def by_preference(metrics: Iterable[str]) -> list[str]:
    return sorted(metrics, key=lambda m: (PREFERRED.index(m) if m in PREFERRED else len(PREFERRED), m))


def _choice(rows: list[Mapping[str, Any]]) -> str:
    """The opening sentence: which method to use, or why none stands out."""
    metric = rows[0]["metric"]
    better = [row["a"] for row in rows if row["b"] == SFT and row["verdict"] == f"{row['a']} is better"]
    lost = {row["b"] if row["verdict"] == f"{row['a']} is better" else row["a"] for row in rows if _is_decided(row)}
    best = [name for name in better if name not in lost]
    by = f"by {_judged_by(metric)}"
    if not better:
        return f"No method is shown to beat SFT {by}; keep SFT, or give the comparison more prompts and seeds."
    if len(best) == 1 and len(better) == 1:
        return f"Use {best[0]}: it alone is shown to beat SFT {by}."
    if len(best) == 1:
        beaten = [n for n in better if n != best[0] and _beats(rows, best[0], n)]
        rest = [n for n in better if n != best[0] and n not in beaten]
        than = f" and to be better than {_and(beaten)}" if beaten else ""
        undecided = f"; against {_and(rest)} the difference is not significant" if rest else ""
        return f"Use {best[0]}: it is shown to beat SFT{than} {by}{undecided}."
    return f"{_and(best)} beat SFT {by}, and none of them is shown to be the best: choose among them by cost."


def _is_decided(row: Mapping[str, Any]) -> bool:
    return row["verdict"] != NO_DIFFERENCE


def _beats(rows: list[Mapping[str, Any]], winner: str, loser: str) -> bool:
    pair = next(row for row in rows if {row["a"], row["b"]} == {winner, loser})
    return pair["verdict"] == f"{winner} is better"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _judged_by(metric: str) -> str:
    name = metric.removeprefix("win_rate.")
    return BY.get(name, name)


def _length_sentences(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """Where length control changes which side of one half a win rate is shown to be on."""
    said = []
    for metric in metrics:
        for method, cell in summary.get("length_controlled", {}).get(metric.removeprefix("win_rate."), {}).items():
            raw = summary["methods"][method]["metrics"][metric]
            if None not in (raw["low"], cell["low"]) and raw["low"] > 0.5 >= cell["low"]:
                said.append(
                    f"By {_judged_by(metric)}, {method}'s win rate of {raw['mean']:.0%} is {cell['mean']:.0%} "
                    f"({_range(cell)}) at equal length: part of it is a preference for longer or shorter responses."
                )
    return said


def _rating_sentences(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """One line: the ratings by the evaluator that the verdict trusts most."""
    for metric in metrics:
        row = summary.get("ratings", {}).get(metric.removeprefix("win_rate."), {})
        known_ratings = {m: cell for m, cell in row.items() if m != SFT and None not in (cell["mean"], cell["low"])}
        if known_ratings:
            order = sorted(known_ratings.items(), key=lambda item: -item[1]["mean"])
            listed = ", ".join(f"{m} {c['mean']:+.0f} ({c['low']:+.0f} to {c['high']:+.0f})" for m, c in order)
            values = [summary["methods"][m]["metrics"].get(metric, {}).get("n", 0) for m in known_ratings]
            shared = " on the seeds that all methods share" if max(values) > max(c["n"] for c in row.values()) else ""
            return [f"Elo points over SFT by {_judged_by(metric)}{shared}: {listed}."]
    return []


def _against_sft(row: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    cell, seeds = methods[row["a"]]["metrics"][row["metric"]], methods[row["a"]]["seeds"]
    opening = {f"{row['a']} is better": f"{row['a']} beats SFT", f"{SFT} is better": f"{row['a']} is worse than SFT"}
    said = opening.get(row["verdict"], f"No significant difference between {row['a']} and SFT")
    by = _judged_by(row["metric"])
    rate = f"it wins {cell['mean']:.0%} by {by} ({_range(cell)})" if cell["mean"] is not None else "no values"
    shown = _would_show(row) if row["verdict"] == NO_DIFFERENCE else ""
    return f"{said}: {rate}, {seeds} seed{'' if seeds == 1 else 's'}{_p(row)}{shown}."


def _pair(row: Mapping[str, Any]) -> str:
    a, b = row["a"], row["b"]
    if row["difference"] is None:
        return f"{a} and {b} have no seed and prompt in common to be compared on."
    sign, better, worse = (1, a, b) if row["difference"] >= 0 else (-1, b, a)
    limits = [None if x is None else sign * x for x in (row["low"], row["high"])][::sign]
    span = _range({"low": limits[0], "high": limits[1]})
    points = round(100 * sign * row["difference"])
    ahead = f"{better}'s win rate is {points} point{'' if points == 1 else 's'} higher ({span}){_p(row)}"
    if row["verdict"] == NO_DIFFERENCE:
        return f"No significant difference between {a} and {b}: {ahead}{_would_show(row)}."
    return f"{better} is better than {worse}: {ahead}."


def _short(row: Mapping[str, Any]) -> str:
    a, b = (row[side] if row[side] != SFT else "SFT" for side in ("a", "b"))
    if row["verdict"] == NO_DIFFERENCE:
        return f"{NO_DIFFERENCE} between {a} and {b}"
    return f"{a} is better than {b}" if row["difference"] > 0 else f"{b} is better than {a}"


def _range(cell: Mapping[str, Any]) -> str:
    if cell["low"] is None or cell["high"] is None:
        return "too few prompts for an interval"
    return f"95% interval {100 * cell['low']:.0f} to {100 * cell['high']:.0f}"


def _p(row: Mapping[str, Any]) -> str:
    p = row["p_adjusted"]
    return "" if p is None else f", adjusted p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def _would_show(row: Mapping[str, Any]) -> str:
    """How large a difference would have been found, so that "no significant difference" is not read as "equal"."""
    size = row.get("detectable")
    return "" if size is None else f"; this run would show {100 * size:.0f} points or more with 80% power"
