"""A run's verdict in sentences: which method to use, who differs from whom, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import picked
from .choice import Choice, better, choose
from .comparisons import MARGIN, NOT_COMPARED, by_preference
from .elsewhere import MARK, elsewhere
from .grids import SFT
from .learnt_scorer import NOT_PASSED, fails_gate, no_winner
from .power import MOST
from .quantities import in_points, measured, seconds
from .tuning import not_tuned_alike, tuned_with

BY = {
    "gold": "the true reward",
    "people": "people",
    "reward_model": "the evaluation reward model",
    "judge": "the judge",
    "judge_until_decided": "the judge, asked until decided",
}


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The run's verdict in sentences: who beats SFT, who differs from whom, at what cost, and what to beware of.

    The first headline metric of `PREFERRED` that was measured is tested, and claims are made on it alone; the others
    get one line of estimates each.
    """
    metrics = headline(summary)
    said = [recommendation(summary, metrics), *comparison_sentences(summary, metrics)]
    said += length_sentences(summary, metrics)
    said += rating_sentences(summary, metrics)
    said += [f"{found['text']}." for found in summary.get("overoptimization", {}).values()]
    costs = [f"{m} {seconds(s)}" for m, row in summary["methods"].items() if (s := row["cost"].get("seconds"))]
    if costs:
        said.append(f"Training time for one seed: {', '.join(costs)}.")
    said += [*tuned_with(summary), *not_tuned_alike(summary), *picked.sentences(summary)]
    return said + failed_gates(summary["gates"])


def headline(summary: Mapping[str, Any]) -> list[str]:
    """The overall win rates that have values, the one that is tested first."""
    rows = [c for c in summary["comparisons"] if c["metric"].count(".") == 1 and measured(c["difference"])]
    led = {c["metric"] for c in rows if c.get("verdict")}  # an older run tested every metric
    return sorted(by_preference({c["metric"] for c in rows}), key=lambda metric: metric not in led)


def leading(summary: Mapping[str, Any]) -> str | None:
    """The win rate against SFT that stands first; of a run that is not finished, the one that would be trusted most."""
    rates = {m for row in summary["methods"].values() for m in row.get("metrics", {}) if m.startswith("win_rate.")}
    return next(iter(headline(summary) or by_preference(m for m in rates if m.count(".") == 1)), None)


def recommendation(summary: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """The opening sentence: which method to use over which, or why none is recommended."""
    if not metrics:
        return "No method was compared with SFT."
    rows = tested(summary, metrics[0])
    if reason := no_winner(summary, metrics[0]):
        return reason
    doubt = NOT_PASSED if fails_gate(summary, metrics[0]) else ""
    by, margin = f"by {judged_by(metrics[0])}{doubt}", summary.get("margin", MARGIN)
    runs = {row["a"]: row["seeds"] for row in rows if row["b"] == SFT}
    repeated = [name for name, seeds in runs.items() if seeds > 1]
    if not repeated:
        return _of_policies(choose(rows), by, summary)
    # a pair that shares one seed was compared as two policies, not as two methods
    found = choose([row for row in rows if row["seeds"] > 1], repeated)
    away = elsewhere(summary["methods"])
    single = [name for name, seeds in runs.items() if seeds < 2 and name not in away]
    apart = f"; {listed(single)}, with one seed, {_is(single)} left out" if single else ""
    apart += _beside(choose(rows), [name for name in runs if name in away])
    return f"{_of_methods(found, by, margin, summary)}{apart}."


def tested(summary: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    """A metric's comparisons. An older run's know neither seeds nor basis, and compared two rows through SFT alone."""
    runs = {name: row["seeds"] for name, row in summary["methods"].items()}
    found = []
    for row in summary["comparisons"]:
        if row["metric"] != metric:
            continue
        older = {"seeds": min(runs[row[side]] for side in ("a", "b") if row[side] != SFT), "basis": "sft"}
        if row["b"] != SFT and "basis" not in row:
            older |= {"basis": "through_sft"}
            row = {**row, "verdict": NOT_COMPARED}
        found.append({**older, **row})
    return found


def _of_methods(found: Choice, by: str, margin: float, summary: Mapping[str, Any]) -> str:
    """The opening sentence of a run with two seeds or more, without its full stop."""
    if not found.beat_sft:
        return f"No method is shown to beat SFT {by}; more prompts and seeds would show smaller differences"
    if not found.first:  # those that beat SFT lose to others, which are not shown to beat it
        winners = [name for name in found.rows if any(b in found.over[name] for b in found.beat_sft)]
        return (
            f"No method is recommended: {listed(found.beat_sft)} {_is(found.beat_sft)} shown to beat SFT {by}, and "
            f"{listed(winners)} to be better still, but not to beat SFT"
        )
    if use := found.use:
        others = f" and to be better than {listed(found.over[use])}" if found.over[use] else ""
        return f"Use {use}: it is shown to beat SFT{others} {by}"
    unsettled = _undecided(found)
    if found.is_tie:
        costs = _costs(found.first, summary)
        return (
            f"{listed(found.first)} are shown to beat SFT {by} and are equal within {100 * margin:g} points, so choose "
            f"between them by cost{f' ({costs})' if costs else ''}{_over(found, found.first)}{unsettled}"
        )
    if len(found.first) == 1 and found.over[found.first[0]]:
        name = found.first[0]
        return f"Use {name} over {listed(found.over[name])}: it is shown to beat SFT and to be better {by}{unsettled}"
    shown = f"{listed(found.first)} {_is(found.first)} shown to beat SFT {by}"
    return f"No single method is recommended: {shown}{_over(found, found.first)}{unsettled}"


def _beside(found: Choice, away: Sequence[str]) -> str:
    """What is shown of policies that were not trained here, beside a choice between methods."""
    told: dict[str, list[str]] = {}
    for name in away:
        said = ["to beat SFT"] if name in found.beat_sft else []
        said += [f"to be better than {listed(found.over[name])}"] if found.over[name] else []
        ahead = [other for other, beaten in found.over.items() if name in beaten]
        shown = [f"shown {' and '.join(said)}"] if said else []
        shown += [f"than which {listed(ahead)} {_is(ahead)} shown to be better"] if ahead else []
        told.setdefault(", ".join(shown) or "of which nothing is shown", []).append(name)
    said = [f"{_these(names)}, {shown}" for shown, names in told.items()]
    return f"; {MARK}, and no method: {'; '.join(said)}" if said else ""


def _of_policies(found: Choice, by: str, summary: Mapping[str, Any]) -> str:
    """The opening sentence of a run with one seed: about these policies, with the price of knowing more."""
    away = elsewhere(summary["methods"])
    here = [name for name in found.rows if name not in away]
    said = []
    if found.beat_sft:
        said.append(f"{_these(found.beat_sft)} {_is(found.beat_sft)} shown to beat SFT {by}")
    said += [f"{_these([name])} to be better than {_these(beaten)}" for name, beaten in found.over.items() if beaten]
    shown = ", and ".join(said) if said else f"no policy is shown to beat SFT {by}"
    times = [summary["methods"][name]["cost"].get("seconds") for name in found.rows]
    total = sum(t for t in times if measured(t))
    of = listed(here) if 0 < len(here) < len(found.rows) else "all"
    price = f"; each further seed of {of} would train for about {seconds(total)}" if total and here else ""
    why = "each was trained once" if here else "none was trained here"
    return f"No method is recommended, for {why}: {shown}{price}."


def _undecided(found: Choice) -> str:
    """Every pair of a first row that is not decided, and those that are equal."""
    said, told = [], set[frozenset[str]]()
    for name in found.first:
        rest = [other for other in found.open(name) if frozenset((name, other)) not in told]
        told |= {frozenset((name, other)) for other in rest}
        if rest:
            said.append(f"{name} against {listed(rest)}")
    equal = [] if found.is_tie else [f"{a} and {b}" for a, b in _pairs(found)]
    parts = [f"; equal within the margin: {', '.join(equal)}"] if equal else []
    return "".join(parts) + (f"; not decided: {', '.join(said)}" if said else "")


def _pairs(found: Choice) -> list[tuple[str, str]]:
    """Equal pairs of which one is a first row, each once."""
    pairs = dict.fromkeys(tuple(sorted((a, b))) for a in found.first for b in found.equal[a])
    return [(a, b) for a, b in pairs]


def _over(found: Choice, names: Sequence[str]) -> str:
    said = [f"{name} is better than {listed(found.over[name])}" for name in names if found.over[name]]
    return f"; {', '.join(said)}" if said else ""


def _costs(names: Sequence[str], summary: Mapping[str, Any]) -> str:
    times = {name: summary["methods"][name]["cost"].get("seconds") for name in names}
    return ", ".join(f"{name} {seconds(time)}" for name, time in times.items() if measured(time))


def _these(names: Sequence[str]) -> str:
    return listed([f"this {name} policy" for name in names])


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def comparison_sentences(summary: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """Each comparison on the metric that is tested; then one line of estimates for each of the others."""
    said = []
    for metric in metrics:
        if metric == metrics[0]:
            said += [compared(c, summary) for c in sorted(tested(summary, metric), key=lambda c: c["b"] != SFT)]
        else:
            said.append(estimates(summary, metric))
    return said


def estimates(summary: Mapping[str, Any], metric: str) -> str:
    """Win rates against SFT by a scorer on which nothing is claimed."""
    cells = {name: row["metrics"].get(metric) or {} for name, row in summary["methods"].items() if name != SFT}
    rates = ", ".join(f"{name} {rate(cell)}" for name, cell in cells.items() if measured(cell.get("mean")))
    return f"By {judged_by(metric)}, for comparison and not tested: {rates}."


def rate(cell: Mapping[str, Any]) -> str:
    """A win rate with its interval, short."""
    limits = f" ({100 * cell['low']:.0f} to {100 * cell['high']:.0f})" if measured(cell["low"]) else ""
    return f"{cell['mean']:.0%}{limits}"


def compared(row: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """A comparison on the metric that is tested, in a sentence."""
    return begun(_compared(row, summary))


def begun(text: str) -> str:
    """A sentence with a capital where it begins with a word; a method's name stays as it is written."""
    return f"T{text[1:]}" if text.startswith(("this ", "these ")) else text


def _compared(row: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    if row["basis"] == "through_sft":
        return _through_sft(row)
    away = elsewhere(summary["methods"])
    a, b = (_side(row, side, away) for side in ("a", "b"))
    if not measured(row["difference"]):
        return f"{a} and {b} have no seed and prompt in common to be compared on."
    where = f", {_runs(row, away)}{_p(row)}"
    if better(row) == row["b"]:
        if row["b"] == SFT:
            return f"{a} is worse than SFT: it wins {_rate(row, 1)}{where}."
        return f"{b} is better than {a}: it wins {_rate(row, -1)}{where}."
    wins = f"{'it' if better(row) else a} wins {_rate(row, 1)}{where}"
    if better(row):
        return f"{a} {'beats SFT' if row['b'] == SFT else f'is better than {b}'}: {wins}."
    points = f"{100 * summary.get('margin', MARGIN):g} points"
    if row.get("equal"):
        return f"{a} is equal to {b} within {points}: {wins}."
    if kept := row.get("not_worse"):
        first, second = (a, b) if kept[0] == row["a"] else (b, a)
        return f"{first} is not worse than {second} by more than {points}, and neither is shown to be better: {wins}."
    return f"Not decided between {a} and {b}: {wins}{could_show([row])}."


def _through_sft(row: Mapping[str, Any]) -> str:
    """Two win rates against SFT beside each other, of which nothing is claimed."""
    a, b = row["a"], row["b"]
    if not measured(row["difference"]):
        return f"{a} and {b} have no seed and prompt in common to be compared on."
    ahead, behind = (a, b) if row["difference"] >= 0 else (b, a)
    points = in_points(f"{abs(100 * row['difference']):.0f}")
    more = f"{ahead}'s win rate against SFT is {points} above {behind}'s"
    asked = "; --judge-pairs asks the judge about them" if "judge" in row["metric"] else ""
    return f"{a} and {b} were {NOT_COMPARED}: {more}, of which nothing is concluded{asked}."


def _side(row: Mapping[str, Any], side: str, away: Sequence[str]) -> str:
    name = row[side]
    return "SFT" if name == SFT else f"this {name} policy" if row["seeds"] == 1 or name in away else name


def _rate(row: Mapping[str, Any], sign: int) -> str:
    """The win rate of a (sign 1) or of b (sign -1), with its interval."""
    ends = [None if not measured(row[end]) else 0.5 + sign * row[end] for end in ("low", "high")][::sign]
    share = 0.5 + sign * row["difference"]
    where = "" if row["b"] == SFT else " head to head"
    return f"{share:.0%}{where} by {judged_by(row['metric'])} ({_range({'low': ends[0], 'high': ends[1]})})"


def _runs(row: Mapping[str, Any], away: Sequence[str]) -> str:
    names = [row[side] for side in ("a", "b") if row[side] != SFT]
    if here := [name for name in names if name not in away]:
        if len(here) < len(names) and row["seeds"] > 1:
            return f"{row['seeds']} seeds of {here[0]}"
    else:
        return f"{listed(names)} {MARK}"
    if row["seeds"] == 1:
        return "one seed"
    return f"{row['seeds']} seeds" if row["b"] == SFT else f"the {row['seeds']} seeds of both"


def could_show(rows: Sequence[Mapping[str, Any]]) -> str:
    """The differences that these comparisons would have found, so that "not decided" is not read as "equal"."""
    known = [row for row in rows if "detectable" in row]
    if not known:
        return ""
    size = _span([row["detectable"] for row in known])
    ends = [row[end] for row in known for end in ("detectable_low", "detectable_high") if end in row]
    span = _span(ends) if len(ends) == 2 * len(known) else size
    vary = f" ({span} as far as the seeds tell)" if span != size else ""
    return f"; the smallest difference that a run of this size shows with 80% power is {size}{vary}"


def _span(sizes: Sequence[float | None]) -> str:
    """The least to the most of some sizes in points; one that is None or infinite is more than any that is named."""
    top = f"more than {100 * MOST:.0f} points"
    known = sorted(round(100 * size) for size in sizes if measured(size))
    if not known:
        return top
    if len(known) < len(sizes):
        return f"{known[0]} to {top}"
    return f"{known[0]} to {known[-1]} points" if known[-1] > known[0] else f"{known[0]} points"


def failed_gates(gates: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"Gate {gate['name']} not passed: {gate['text']}." for gate in gates if not gate["passed"]]


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def judged_by(metric: str) -> str:
    name = metric.removeprefix("win_rate.")
    return BY.get(name, name)


def length_sentences(summary: Mapping[str, Any], metrics: list[str]) -> list[str]:
    """Win rates shown to be above one half that are not at equal length, where length is shown to matter."""
    said = []
    for metric in metrics:
        for method, cell in summary.get("equal_length", {}).get(metric.removeprefix("win_rate."), {}).items():
            raw = summary["methods"][method]["metrics"][metric]
            effect = cell["length_effect"]
            if None in (raw["low"], cell["low"], effect["low"]) or effect["low"] <= 0 <= effect["high"]:
                continue
            if raw["low"] > 0.5 >= cell["low"]:
                said.append(
                    f"By {judged_by(metric)}, {method}'s win rate of {raw['mean']:.0%} is {cell['mean']:.0%} "
                    f"({_range(cell)}) at equal length: part of it is a preference for longer or shorter responses."
                )
    return said


def rating_sentences(summary: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
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


def _range(cell: Mapping[str, Any]) -> str:
    if cell["low"] is None or cell["high"] is None:
        return "too few prompts for an interval"
    return f"95% interval {100 * cell['low']:.0f} to {100 * cell['high']:.0f}"


def _p(row: Mapping[str, Any]) -> str:
    p = row["p_adjusted"]
    return "" if p is None else f", adjusted p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
