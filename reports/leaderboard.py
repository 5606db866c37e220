"""The leaderboard and the matrix of methods against each other, as plain cells for every format of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.comparisons import LEVEL
from ..analysis.elsewhere import is_elsewhere
from ..analysis.grids import SFT
from ..analysis.metric_names import FAMILIES, evaluator, title
from ..analysis.quantities import COSTS, MISSING, cost, measured, p_value, share
from .wording import bracket, cost_title, ordered, value

SPENT = ("cost", "inference", "looking")  # parts of a row of summary["methods"]: of training, a response, our probes
AT_FIRST = ("seconds", "flops")  # costs that the page shows before anything is chosen


@dataclass(frozen=True)
class Column:
    """One column; `key` is its place in summary.json: a metric, "rating.EVALUATOR", or "cost.NAME" and the like
    (SPENT)."""

    key: str
    head: str
    title: str
    """The head where no group stands above it."""


@dataclass(frozen=True)
class Group:
    """Columns that are shown and hidden together."""

    title: str
    columns: Sequence[Column]
    shown: bool = True


@dataclass(frozen=True)
class Value:
    """A cell's content; `number` sorts it, None where nothing was measured."""

    text: str = MISSING
    interval: str = ""
    note: str = ""
    number: float | None = None


def groups(summary: Mapping[str, Any]) -> list[Group]:
    """Columns of the leaderboard: headline metrics by family, ratings, costs, then everything else."""
    methods = summary.get("methods", {})
    metrics = ordered({m for row in methods.values() for m in row.get("metrics", {})})
    headline = [m for m in metrics if m.split(".")[0] in FAMILIES and m.count(".") < 2]
    families: dict[str, list[Column]] = {}
    for metric in headline:
        head, _, tail = metric.partition(".")
        families.setdefault(head, []).append(Column(metric, evaluator(tail) if tail else "", title(metric)))
    found = [
        Group(FAMILIES[head][0], columns, head not in ("eos_rate", "versus")) for head, columns in families.items()
    ]
    if ratings := summary.get("ratings"):
        names = [name.removeprefix("win_rate.") for name in ordered(f"win_rate.{name}" for name in ratings)]
        columns = [Column(f"rating.{n}", evaluator(n), f"Bradley-Terry rating ({evaluator(n)})") for n in names]
        found.append(Group("Bradley-Terry rating (Elo)", columns))
    ranked = {kind: _costs(methods, kind) for kind in SPENT}
    for name, kind, part, shown in (
        ("Cost", "cost", [key for key in ranked["cost"] if key in AT_FIRST], True),
        ("Further costs", "cost", [key for key in ranked["cost"] if key not in AT_FIRST], False),
        ("Cost of a response", "inference", ranked["inference"], False),
        ("Spent on looking", "looking", ranked["looking"], False),
    ):
        if part:
            found.append(
                Group(name, [Column(f"{kind}.{key}", cost_title(key), _title(kind, key)) for key in part], shown)
            )
    if others := [Column(m, title(m), title(m)) for m in metrics if m not in headline]:
        found.append(Group("Further measures", others, shown=False))
    return found


def _costs(methods: Mapping[str, Any], kind: str) -> list[str]:
    """The costs that any row has, in the order of COSTS."""
    keys = {key for row in methods.values() for key in row.get(kind) or {}}
    return [key for key in COSTS if key in keys] + sorted(keys - set(COSTS))


def _title(kind: str, key: str) -> str:
    return {"cost": "{}", "inference": "{}, of a response", "looking": "{}, of looking"}[kind].format(cost_title(key))


def cell(summary: Mapping[str, Any], method: str, key: str) -> Value:
    """A method's value in a column."""
    row = summary["methods"][method]
    kind, _, name = key.partition(".")
    if kind == "cost" and is_elsewhere(row):
        return Value("unknown")
    if kind in SPENT:
        amount = (row.get(kind) or {}).get(name)
        return Value(cost(amount, name), number=amount) if measured(amount) else Value()
    if kind == "rating":
        found = (summary["ratings"][name].get(method)) or {}
        if not measured(found.get("mean")):
            return Value()
        low, high = found.get("low"), found.get("high")
        interval = f"[{_points(low)}, {_points(high)}]" if measured(low) and measured(high) and low != high else ""
        return Value(_points(found["mean"]), interval, number=found["mean"])
    found = row.get("metrics", {}).get(key) or {}
    if not measured(found.get("mean")):
        return Value()
    coverage = found.get("coverage")
    note = f"{share(coverage)} answered" if measured(coverage) and coverage < 1 else ""
    return Value(value(found["mean"], key), bracket(found, key), note, found["mean"])


def matrices(summary: Mapping[str, Any], shown: Sequence[str]) -> list[dict[str, Any]]:
    """A matrix an evaluator: how often the method of the row wins against the one of the column, and how sure that is.

    `rows`: (method, [None on the diagonal or where nothing is known, else {"text", "interval", "p", "verdict"}]).
    """
    met: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in meetings(summary):
        met.setdefault(row["metric"], {})[row["a"], row["b"]] = row
    return [
        {
            "evaluator": evaluator(metric.removeprefix("win_rate.")),
            "names": list(shown),
            "rows": [(a, [_met(met[metric], a, b) for b in shown]) for a in shown],
        }
        for metric in ordered(met)
    ]


def meetings(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of responses with responses, `mean` the win rate of a, its interval beside it."""
    return [
        {**row, "mean": 0.5 + row["difference"], **{end: _half(row[end]) for end in ("low", "high")}}
        for row in summary.get("comparisons", [])
        if measured(row["difference"]) and (row["b"] == SFT or row.get("basis") == "direct")
    ]


def _half(end: float | None) -> float | None:
    return 0.5 + end if measured(end) else None


def _met(pairs: Mapping[tuple[str, str], Mapping[str, Any]], a: str, b: str) -> dict[str, str] | None:
    """The outcome from the row's side; a pair lies in `pairs` in one direction only."""
    row = pairs.get((a, b))
    if row is None and (b, a) in pairs:
        turned = pairs[b, a]
        low, high = (1 - turned[end] if measured(turned[end]) else None for end in ("high", "low"))
        row = {**turned, "mean": 1 - turned["mean"], "low": low, "high": high}
    if row is None:
        return None
    tested = measured(row["p_adjusted"])
    shown = tested and row["p_adjusted"] < LEVEL
    return {
        "text": share(row["mean"]),
        "interval": bracket(row, "win_rate"),
        "p": p_value(row["p_adjusted"]) if tested else "",
        "verdict": "open" if not shown else "wins" if row["mean"] > 0.5 else "loses",
    }


def _points(amount: float | None) -> str:
    return f"{amount:+.0f}".replace("-", "−") if amount else "0"
