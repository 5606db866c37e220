"""A run's verdict in sentences: which method to use, who differs from whom, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .quantities import seconds
from .sequential import UNTIL_DECIDED
from .tuning import not_tuned_alike, tuned_with

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
LEVEL = 0.05  # below which an adjusted p shows a difference


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The run's verdict in sentences: who beats SFT, who differs from whom, at what cost, and what to beware of.

    The first headline metric of `PREFERRED` that was measured gets sentences with numbers, the others one line each.
    """
    metrics = headline(summary)
    said = [recommendation(summary, metrics), *comparison_sentences(summary, metrics)]
    said += length_sentences(summary, metrics)
    said += rating_sentences(summary, metrics)
    said += [f"{found['text']}." for found in summary.get("overoptimization", {}).values()]
    costs = [f"{m} {seconds(s)}" for m, row in summary["methods"].items() if (s := row["cost"].get("seconds"))]
    if costs:
        said.append(f"Training time for one seed: {', '.join(costs)}.")
    return said + tuned_with(summary) + not_tuned_alike(summary) + failed_gates(summary["gates"])


def headline(summary: Mapping[str, Any]) -> list[str]:
    return by_preference({c["metric"] for c in summary["comparisons"] if c["metric"].count(".") == 1})


def recommendation(summary: Mapping[str, Any], metrics: list[str]) -> str:
    if not metrics:
        return "No method was compared with SFT."
    return _choice([c for c in summary["comparisons"] if c["metric"] == metrics[0]])


def comparison_sentences(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """Each comparison on the first metric; then one line for each of the others."""
    said = []
    for metric in metrics:
        rows = [c for c in summary["comparisons"] if c["metric"] == metric]
        if metric == metrics[0]:
            said += [compared(c, summary) for c in sorted(rows, key=lambda c: c["b"] != SFT)]
        else:
            said.append(f"By {judged_by(metric)}: " + "; ".join(_short(c) for c in rows) + ".")
    return said


def compared(row: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    return _against_sft(row, summary["methods"]) if row["b"] == SFT else _pair(row)


def failed_gates(gates: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"Gate {gate['name']} not passed: {gate['text']}." for gate in gates if not gate["passed"]]


def by_preference(metrics: Iterable[str]) -> list[str]:
    return sorted(metrics, key=lambda m: (PREFERRED.index(m) if m in PREFERRED else len(PREFERRED), m))


def best(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Methods that are shown to beat SFT, and those of them that are not shown to be worse than any other."""
    better = [row["a"] for row in rows if row["b"] == SFT and row["verdict"] == f"{row['a']} is better"]
    lost = {row["b"] if row["verdict"] == f"{row['a']} is better" else row["a"] for row in rows if is_decided(row)}
    return better, [name for name in better if name not in lost]


def _choice(rows: list[Mapping[str, Any]]) -> str:
    """The opening sentence: which method to use, or why none stands out."""
    better, first = best(rows)
    by = f"by {judged_by(rows[0]['metric'])}"
    if not better:
        return f"No method is shown to beat SFT {by}; keep SFT, or give the comparison more prompts and seeds."
    if len(first) == 1 and len(better) == 1:
        return f"Use {first[0]}: it alone is shown to beat SFT {by}."
    if len(first) == 1:
        beaten = [n for n in better if n != first[0] and _beats(rows, first[0], n)]
        rest = [n for n in better if n != first[0] and n not in beaten]
        than = f" and to be better than {listed(beaten)}" if beaten else ""
        undecided = f"; against {listed(rest)} the difference is not significant" if rest else ""
        return f"Use {first[0]}: it is shown to beat SFT{than} {by}{undecided}."
    return f"{listed(first)} beat SFT {by}, and none of them is shown to be the best: choose among them by cost."


def is_decided(row: Mapping[str, Any]) -> bool:
    return row["verdict"] != NO_DIFFERENCE


def _beats(rows: list[Mapping[str, Any]], winner: str, loser: str) -> bool:
    pair = next(row for row in rows if {row["a"], row["b"]} == {winner, loser})
    return pair["verdict"] == f"{winner} is better"


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def judged_by(metric: str) -> str:
    name = metric.removeprefix("win_rate.")
    return BY.get(name, name)


def length_sentences(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """Win rates for which length control changes the side of one half that is shown."""
    said = []
    for metric in metrics:
        for method, cell in summary.get("length_controlled", {}).get(metric.removeprefix("win_rate."), {}).items():
            raw = summary["methods"][method]["metrics"][metric]
            if None not in (raw["low"], cell["low"]) and raw["low"] > 0.5 >= cell["low"]:
                said.append(
                    f"By {judged_by(metric)}, {method}'s win rate of {raw['mean']:.0%} is {cell['mean']:.0%} "
                    f"({_range(cell)}) at equal length: part of it is a preference for longer or shorter responses."
                )
    return said


def rating_sentences(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """One line: the ratings by the evaluator that the verdict trusts most."""
    for metric in metrics:
        row = summary.get("ratings", {}).get(metric.removeprefix("win_rate."), {})
        known_ratings = {m: cell for m, cell in row.items() if m != SFT and None not in (cell["mean"], cell["low"])}
        if known_ratings:
            order = sorted(known_ratings.items(), key=lambda item: -item[1]["mean"])
            shown = ", ".join(f"{m} {c['mean']:+.0f} ({c['low']:+.0f} to {c['high']:+.0f})" for m, c in order)
            values = [summary["methods"][m]["metrics"].get(metric, {}).get("n", 0) for m in known_ratings]
            shared = " on the seeds that all methods share" if max(values) > max(c["n"] for c in row.values()) else ""
            return [f"Elo points over SFT by {judged_by(metric)}{shared}: {shown}."]
    return []


def _against_sft(row: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    cell, seeds = methods[row["a"]]["metrics"][row["metric"]], methods[row["a"]]["seeds"]
    opening = {f"{row['a']} is better": f"{row['a']} beats SFT", f"{SFT} is better": f"{row['a']} is worse than SFT"}
    said = opening.get(row["verdict"], f"No significant difference between {row['a']} and SFT")
    by = judged_by(row["metric"])
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
    """The difference that would have been found, so that "no significant difference" is not read as "equal"."""
    size = row.get("detectable")
    return "" if size is None else f"; this run would show {100 * size:.0f} points or more with 80% power"
