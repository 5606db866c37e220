"""Scores along an axis (label noise, data size, beta): curves, how methods change, and whether they change alike.

A study's scores lie in one frame: a row a value, with a column for every axis. The change of a method from an axis's
first value to its last, and the difference between two methods' changes (the interaction), are contrasts of tables
[seeds, prompts], paired by seed and, as far as both sides have them, by prompt:

    T = estimate + N (1_last (last - mean last) / n_last - 1_first (first - mean first) / n_first)

with n values on either side and N places that have any; where both sides have the same prompts this is last - first.
Its interval and p are those of `statistics.py`. Within a score, Holm's correction goes over all that a study tests:
changes, interactions, and pairs of methods at each value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import LEVEL, NOT_DECIDED, by_preference
from .grids import grid_of
from .quantities import in_points, measured, signed
from .sequential import UNTIL_DECIDED
from .statistics import compare, holm, interval
from .verdict import begun, judged_by, listed

if TYPE_CHECKING:
    import pandas

Group = tuple[Hashable, ...]
FUNCTION = re.compile(r"\w+(\.\w+)+:\w+")  # as settings name one: package.module:function
BESIDE = {"kl": "KL to SFT (nats)", "length": "length (tokens)"}  # told beside the headline


def along_axes(scores: pandas.DataFrame, axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """For each axis its curves, changes and interactions, and the pairs of methods at each value; plain data.

    scores: columns method, seed, metric, prompt_id, value, and one for each axis with the place of its value in
    `axes`, NaN for a method that the axis does not concern.
    """
    found: dict[str, Any] = {}
    for axis, values in axes.items():
        tables = _tables(scores, axis, [other for other in axes if other != axis])
        found[axis] = {
            "values": list(values),
            "curves": [_curve(key, by_value, values) for key, by_value in tables.items()],
            "changes": [_change(key, by_value, values) for key, by_value in tables.items() if len(by_value) > 1],
            "interactions": [*_interactions(tables, values)],
            "pairs": [*_pairs(tables, values)],
        }
    tested = [row for axis in found.values() for part in ("changes", "interactions") for row in axis[part]]
    same: dict[Group, list[dict[str, Any]]] = {}  # where axes are crossed, each has the same pairs
    for field, axis in found.items():
        for row in axis["pairs"]:
            places = dict(zip((other for other in axes if other != field), row["at"], strict=True))
            places[field] = list(axes[field]).index(row["value"])
            same.setdefault((row["a"], row["b"], row["metric"], *(places[name] for name in axes)), []).append(row)
    _correct([*tested, *(rows[0] for rows in same.values())])
    for first, *rest in same.values():
        for row in rest:
            row |= {"p_adjusted": first["p_adjusted"], "verdict": first["verdict"]}
    return found


def beside_the_first(scores: pandas.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Each other method less the first, for a study without axes, with Holm's correction within a score.

    scores: columns method, seed, metric, prompt_id, value.
    """
    found = []
    for metric, part in scores.groupby("metric", sort=True):
        grids = {str(name): grid_of(rows) for name, rows in part.groupby("method")}
        for other in methods[1:] if methods[0] in grids else ():
            if other in grids:
                table = minus(grids[other], grids[methods[0]])
                bounds = (-1.0, 1.0) if str(metric).startswith("win_rate.") else None
                tested = asdict(compare(table.to_numpy(), np.zeros(table.shape), bounds=bounds))
                found.append({"a": other, "b": methods[0], "metric": str(metric), "seeds": len(table), **tested})
    _correct(found)
    return found


def headline_of(study: Mapping[str, Any]) -> str | None:
    """The win rate that the sentences trust most; None where there is none."""
    metrics = {row["metric"] for axis in study["axes"].values() for row in axis["curves"]}
    metrics |= {row["metric"] for row in study.get("beside_the_first", ())}
    return next(iter(by_preference(m for m in metrics if m.startswith("win_rate.") and m != UNTIL_DECIDED)), None)


Tables = dict[Group, dict[int, "pandas.DataFrame"]]


def _tables(scores: pandas.DataFrame, axis: str, others: Sequence[str]) -> Tables:
    """By method, metric and the other axes' values: for each value of the axis a frame, a row a seed."""
    found: Tables = {}
    concerned = scores[scores[axis].notna()]
    for key, part in concerned.groupby(["method", "metric", *others, axis], sort=True, dropna=False):
        frame = grid_of(part)
        group = tuple(None if isinstance(k, float) and np.isnan(k) else k for k in key[:-1])
        found.setdefault(group, {})[int(part[axis].iloc[0])] = frame
    return found


def _named(key: Group) -> dict[str, Any]:
    """A group's key as plain data; at: places of the other axes' values."""
    method, metric, *at = key
    return {"method": method, "metric": metric, "at": [None if k is None else int(k) for k in at]}  # type: ignore[call-overload]  # places are numbers


def _curve(key: Group, by_value: Mapping[int, pandas.DataFrame], values: Sequence[Any]) -> dict[str, Any]:
    bounds = (0.0, 1.0) if str(key[1]).startswith("win_rate.") else None
    points = [
        {"value": values[place], "seeds": len(frame), **asdict(interval(frame.to_numpy(), bounds=bounds))}
        for place, frame in sorted(by_value.items())
    ]
    return {**_named(key), "points": points}


def _change(key: Group, by_value: Mapping[int, pandas.DataFrame], values: Sequence[Any]) -> dict[str, Any]:
    first, last = min(by_value), max(by_value)
    found = _tested(by_value[first], by_value[last])
    return {**_named(key), "from": values[first], "to": values[last], **found}


def _interactions(tables: Tables, values: Sequence[Any]) -> Any:
    """Pairs of methods: how much more b changes than a... as a row: the change of a - b from first to last value."""
    for (one, ours), (two, theirs) in combinations(tables.items(), 2):
        shared = sorted(set(ours) & set(theirs))
        if one[1:] != two[1:] or len(shared) < 2:
            continue
        first, last = shared[0], shared[-1]
        differences = [minus(ours[place], theirs[place]) for place in (first, last)]
        named = _named(one)
        row = {"a": one[0], "b": two[0], "metric": named["metric"], "at": named["at"]}
        yield {**row, "from": values[first], "to": values[last], **_tested(*differences)}


def _pairs(tables: Tables, values: Sequence[Any]) -> Any:
    """Pairs of methods at each value of the axis."""
    for (one, ours), (two, theirs) in combinations(tables.items(), 2):
        if one[1:] != two[1:]:
            continue
        for place in sorted(set(ours) & set(theirs)):
            table = minus(ours[place], theirs[place])
            bounds = (-1.0, 1.0) if str(one[1]).startswith("win_rate.") else None
            tested = compare(table.to_numpy(), np.zeros(table.shape), bounds=bounds)
            named = _named(one)
            row = {"a": one[0], "b": two[0], "metric": named["metric"], "at": named["at"], "value": values[place]}
            yield {**row, "seeds": len(table), **asdict(tested)}


def minus(ours: pandas.DataFrame, theirs: pandas.DataFrame) -> pandas.DataFrame:
    """The difference on the seeds and prompts that both have."""
    ours, theirs = ours.align(theirs, join="inner")
    return ours - theirs


def contrast(first: pandas.DataFrame, last: pandas.DataFrame) -> np.ndarray:
    """A table [seeds, prompts] whose mean is mean(last) - mean(first), with each value's influence on it."""
    seeds = first.index.intersection(last.index)
    prompts = first.columns.union(last.columns)
    a, b = (frame.reindex(index=seeds, columns=prompts).to_numpy(float) for frame in (first, last))
    if not (np.isfinite(a).any() and np.isfinite(b).any()):
        return np.full((1, 1), nan)
    places = np.isfinite(a) | np.isfinite(b)
    influence = np.zeros(a.shape)
    for table, sign in ((b, 1), (a, -1)):
        known = np.isfinite(table)
        influence += np.where(known, sign * places.sum() * (table - np.nanmean(table)) / known.sum(), 0.0)
    return np.where(places, np.nanmean(b) - np.nanmean(a) + influence, nan)


def _tested(first: pandas.DataFrame, last: pandas.DataFrame) -> dict[str, Any]:
    table = contrast(first, last)
    return {"seeds": len(table), **asdict(compare(table, np.zeros(table.shape)))}


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's correction within each score, and the verdict that follows. The same policies at both ends are no test."""
    for metric in {row["metric"] for row in rows}:
        tested = [row for row in rows if row["metric"] == metric and isfinite(row["p"]) and not same(row)]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = p
    for row in rows:
        row.setdefault("p_adjusted", nan)
        shown = row["p_adjusted"] < LEVEL
        row["verdict"] = ("rises" if row["difference"] > 0 else "falls") if shown else NOT_DECIDED


def same(row: Mapping[str, Any]) -> bool:
    """True where the policies are the same, as those are that an axis says nothing to: not one value differs."""
    return bool(row["difference"] == row["low"] == row["high"] == 0)


def sentences(study: Mapping[str, Any], answered: Collection[int] = ()) -> list[str]:
    """What a study shows along its axes: changes, interactions, who is better where, and what is not shown.

    answered: ids of rows of which the answer to the study's question tells already. Its tests are corrected for each
    other alone, so what is shown there would stand here as not shown.
    """
    if not (metric := headline_of(study)):
        return []
    said = _beside(study, metric, answered)
    first = next((field for field, axis in study["axes"].items() if axis["pairs"]), None)
    for field, axis in study["axes"].items():
        rows = {part: [r for r in axis[part] if r["metric"] == metric] for part in ("changes", "interactions", "pairs")}
        by = judged_by(metric)
        said += [_changed(row, field, by, study) for row in rows["changes"] if row["verdict"] != NOT_DECIDED]
        said += [_gains(row, field, by, study) for row in rows["interactions"] if row["verdict"] != NOT_DECIDED]
        if field == first:
            said += _better(rows["pairs"], field, by, study)
        said += _not_shown(rows, field, by, study, answered)
    return said


def _beside(study: Mapping[str, Any], metric: str, answered: Collection[int]) -> list[str]:
    """Of a study without axes each method beside the first: what is shown by the headline, by KL and by length, and by
    the headline what is not."""
    said, left = [], []
    for row in study.get("beside_the_first", ()):
        (who, one), (whom, _) = (_subject(row[side], row["seeds"]) for side in ("a", "b"))
        is_ = "is" if one else "are"
        if row["verdict"] == NOT_DECIDED:
            left += [f"{row['a']} ({_estimate(row)})"] if row["metric"] == metric and id(row) not in answered else []
        elif row["metric"] == metric:
            size, span = _points(row, 1 if row["difference"] > 0 else -1)
            word = "better" if row["difference"] > 0 else "worse"
            said.append(f"{who} {is_} {word} than {whom} by {judged_by(metric)}: {in_points(size)} ({span}{_p(row)}).")
        elif row["metric"] in BESIDE:
            word = "above" if row["difference"] > 0 else "below"
            said.append(f"{who} {is_} {word} {whom} in {BESIDE[row['metric']]} ({_estimate(row, 1, 2)}{_p(row)}).")
    first = next((row["b"] for row in study.get("beside_the_first", ())), "")
    rest = f"Not shown, in points of win rate by {judged_by(metric)}: a difference to {first} of {'; '.join(left)}."
    return [*map(begun, said), *([rest] if left else [])]


def _changed(row: Mapping[str, Any], field: str, by: str, study: Mapping[str, Any]) -> str:
    who, one = _subject(row["method"], row["seeds"])
    word = ("gain" if row["difference"] > 0 else "lose") + ("s" if one else "")
    size, span = _points(row, 1 if row["difference"] > 0 else -1)
    return (
        f"From {field} {text_of(row['from'])} to {text_of(row['to'])}{_at(row, field, study)}, {who} {word} "
        f"{in_points(size)} of win rate by {by} ({span}{_p(row)})."
    )


def _gains(row: Mapping[str, Any], field: str, by: str, study: Mapping[str, Any]) -> str:
    ahead, behind, sign = (row["a"], row["b"], 1) if row["difference"] > 0 else (row["b"], row["a"], -1)
    (who, one), (whom, _) = _subject(ahead, row["seeds"]), _subject(behind, row["seeds"])
    size, span = _points(row, sign)
    changes = {
        r["method"]: 100 * r["difference"]
        for r in study["axes"][field]["changes"]
        if (r["metric"], r["at"]) == (row["metric"], row["at"])
    }
    own = f"; {behind} {signed(changes[behind])}, {ahead} {signed(changes[ahead])}"
    where = f"From {field} {text_of(row['from'])} to {text_of(row['to'])}{_at(row, field, study)}"
    return f"{where}, {who} gain{'s' * one} {in_points(size)} on {whom} by {by} ({span}{own}{_p(row)})."


def _better(rows: Sequence[Mapping[str, Any]], field: str, by: str, study: Mapping[str, Any]) -> list[str]:
    """For each pair of methods the values at which one is shown to be better, and whether the order turns."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["a"], row["b"], tuple(row["at"])), []).append(row)
    said = []
    for (a, b, _), group in groups.items():
        parts = []
        for who, whom, verdict in ((a, b, "rises"), (b, a, "falls")):
            if shown := [text_of(row["value"]) for row in group if row["verdict"] == verdict]:
                (ahead, one), (behind, _) = (_subject(name, group[0]["seeds"]) for name in (who, whom))
                where = f"every value of {field}" if len(shown) == len(group) > 1 else f"{field} {listed(shown)}"
                parts.append(f"{ahead} {'is' if one else 'are'} better than {behind} at {where}")
        if parts:
            turns = "The order turns: " if len(parts) == 2 else ""
            text = f"{turns}{'; '.join(parts)} by {by}{_at(group[0], field, study)}."
            said.append(text[0].upper() + text[1:] if turns else begun(text))
    return said


def _not_shown(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    field: str,
    by: str,
    study: Mapping[str, Any],
    answered: Collection[int],
) -> list[str]:
    """Changes and interactions that are not shown, with their intervals, so that this is not read as "none"."""
    parts = []
    for row in rows["changes"]:
        if row["verdict"] == NOT_DECIDED and not same(row) and id(row) not in answered:
            parts.append(f"a change of {row['method']}{_at(row, field, study)} ({_estimate(row)})")
    for row in rows["interactions"]:
        if row["verdict"] == NOT_DECIDED and not same(row) and id(row) not in answered:
            name = f"{row['a']} and {row['b']}"
            parts.append(f"that {name} change differently{_at(row, field, study)} ({_estimate(row)})")
    return [f"Not shown along {field}, in points of win rate by {by}: {'; '.join(parts)}."] if parts else []


def _estimate(row: Mapping[str, Any], unit: float = 100, digits: int = 0) -> str:
    if not measured(row["low"]):
        return "no interval"
    mean, low, high = (signed(unit * row[part], digits) for part in ("difference", "low", "high"))
    return f"{mean}, {low} to {high}"


def _subject(method: str, seeds: int) -> tuple[str, bool]:
    """A method, or the policies of one training run each; and whether it is one thing."""
    return (f"these {method} policies", False) if seeds == 1 else (method, True)


def _points(row: Mapping[str, Any], sign: int) -> tuple[str, str]:
    low, high = sorted(100 * sign * row[end] for end in ("low", "high"))
    return f"{abs(100 * row['difference']):.0f}", f"{low:.0f} to {high:.0f}"


def _p(row: Mapping[str, Any]) -> str:
    p = row["p_adjusted"]
    return f", adjusted p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def text_of(value: Any) -> str:
    """A value of an axis as people read it: of a function in a module its name alone."""
    text = f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
    return text.partition(":")[2] if FUNCTION.fullmatch(text) else text


def values_at(at: Mapping[str, int], study: Mapping[str, Any]) -> list[str]:
    """Axes with their values; at: by axis the place of its value."""
    return [f"{name} {text_of(study['axes'][name]['values'][place])}" for name, place in at.items()]


def others(row: Mapping[str, Any], field: str, study: Mapping[str, Any]) -> list[str]:
    """The other axes with their values, where there are any."""
    places = zip((name for name in study["axes"] if name != field), row["at"], strict=True)
    return values_at({name: place for name, place in places if place is not None}, study)


def _at(row: Mapping[str, Any], field: str, study: Mapping[str, Any]) -> str:
    told = others(row, field, study)
    return f" at {listed(told)}" if told else ""


def series_name(row: Mapping[str, Any], field: str, study: Mapping[str, Any]) -> str:
    """A method with the other axes' values: a line of a chart."""
    return ", ".join([row["method"], *others(row, field, study)])
