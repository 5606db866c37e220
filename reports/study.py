"""The page of a study, from study.json alone: curves over each axis, methods by values, frontiers, variance."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.answer import SIDES, named_before, said_of
from ..analysis.axes import BESIDE, headline_of, others, same, series_name, text_of, values_at
from ..analysis.frontier import AT_EQUAL_KL, GAP, TRUSTED
from ..analysis.metric_names import title
from ..analysis.quantities import MISSING, measured, number, p_value, share
from ..analysis.variance import CALLED
from . import drawing
from .drawing import Figure, Style, finish_chart, limits, literal, new_canvas
from .wording import bracket, code_in_words, ordered, value

if TYPE_CHECKING:
    import pandas

AUDITED = ("Training", "Evaluation", "Tau", "Judge's tau", "Ruined rows", "Taken for better")
LARGER = ("is better", "has the larger gap")  # which is no merit
KL = "kl"
TESTED = ("changes", "interactions")
MOST = 6  # charts of an axis: the scores that are trusted most, then KL and length


def study_page(study: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """The contents of the templates; out: the folder of the page, from which it links to those of the runs, if any."""
    metric = headline_of(study)
    looks = drawing.styles(_names(study))
    return {
        "study": study,
        "sides": _sides(study),
        "code": code_in_words(study),
        "facts": _facts(study),
        "axes": [_axis(study, field, metric, looks) for field in study["axes"]],
        "beside": _beside(study, metric) if study.get("beside_the_first") else None,
        "frontiers": [_frontier(study, part, looks) for part in study["frontiers"] if _has_strengths(study, part)],
        "variance": [_variance(row) for row in study["variance"] if row["metric"] == metric],
        "runs": [
            {**run, "link": _link(out, run["run_dir"]) if out else None, "audit": _audit(run)} for run in study["runs"]
        ],
        "audited": AUDITED,
        "level": AT_EQUAL_KL,
        "headline": title(metric) if metric else "",
        "looks": looks,
    }


def _sides(study: Mapping[str, Any]) -> dict[str, list[str]]:
    """What was to count as yes and as no, in words."""
    if not (design := study.get("design")):
        return {}
    return {side: [said_of(said, study["axes"]) for said in design[part]] for side, part in SIDES.items()}


def _names(study: Mapping[str, Any]) -> list[str]:
    """Everything that has a colour: the series of each axis, the methods of frontiers."""
    names = [series_name(row, field, study) for field, axis in study["axes"].items() for row in axis["curves"]]
    return list(dict.fromkeys([*names, *(name for part in study["frontiers"] for name in part["methods"])]))


def _facts(study: Mapping[str, Any]) -> list[str]:
    runs, seeds = len(study["runs"]), study["seeds"]
    return [
        ", ".join(study["methods"]),
        f"{runs} run{'s' * (runs != 1)} on {study['benchmark']}",
        f"{seeds} seed{'s' * (seeds != 1)}",
        str(study["created"])[:16].replace("T", " "),
        f"study {study['study_id']}",
    ]


def study_frames(study: Mapping[str, Any]) -> "dict[str, pandas.DataFrame]":
    """The tables by name, numbers as they are in study.json: curves, what was tested along axes, and at equal KL."""
    import pandas

    rows: dict[str, list[dict[str, Any]]] = {"curves": [], "tested": [], "equal_kl": []}
    rows["beside_the_first"] = [dict(row) for row in study.get("beside_the_first", ())]
    for field, axis in study["axes"].items():
        others = [name for name in study["axes"] if name != field]
        for part in ("curves", "changes", "interactions", "pairs"):
            for row in axis[part]:
                plain = {name: cell for name, cell in row.items() if name not in ("points", "at")}
                at = {name: place for name, place in zip(others, row["at"], strict=True) if place is not None}
                place = {"axis": field, **{name: study["axes"][name]["values"][n] for name, n in at.items()}}
                if part == "curves":
                    rows["curves"] += [{**place, **plain, **point} for point in row["points"]]
                else:
                    rows["tested"].append({**place, "what": part, **plain})
    for part in study["frontiers"]:
        place = {field: study["axes"][field]["values"][n] for field, n in part["at"].items()}
        for row in part["comparisons"]:
            rows["equal_kl"].append({**place, **{n: v for n, v in row.items() if not isinstance(v, (dict, list))}})
    return {name: pandas.DataFrame(found) for name, found in rows.items() if found}


def _link(out: Path, run: str) -> str:
    """The report of a run, from the page."""
    return Path(os.path.relpath(Path(run) / "report" / "index.html", out)).as_posix()


def _audit(run: Mapping[str, Any]) -> list[str]:
    """The cells of a run's reward models: accuracies on held-out pairs, and the evaluation's beside the truth."""
    if (found := run.get("reward_models")) is None:  # of a study that was made before it was kept
        return [MISSING] * len(AUDITED)
    shares = [
        f"{share(row['mean'])} {bracket(row, 'accuracy')}".strip() if row else MISSING
        for row in (found["accuracy"].get(role) for role in ("training", "evaluation"))
    ]
    return [
        *shares,
        number(found["tau"]),
        number(found.get("tau_of_judge")),
        *(MISSING if found[n] is None else str(found[n]) for n in ("ruined", "missed")),
    ]


def _axis(study: Mapping[str, Any], field: str, metric: str | None, looks: Mapping[str, Style]) -> dict[str, Any]:
    """Chart and tables of one axis: by the headline, by what the design's statements are about, and the KL."""
    axis = study["axes"][field]
    statements = [said for part in SIDES.values() for said in (study.get("design") or {}).get(part, ())]
    wanted = dict.fromkeys([metric, *(said["by"] for said in statements), KL])
    tables = [_table(study, field, name) for name in wanted if name]
    return {
        "field": field,
        "heads": [text_of(v) for v in axis["values"]],
        "figure": _curves(study, field, looks),
        "tables": [table for table in tables if table["cells"]],
    }


def _table(study: Mapping[str, Any], field: str, metric: str) -> dict[str, Any]:
    """One score over an axis: means of each series by value, and what was tested of them."""
    axis, named = study["axes"][field], named_before(study)
    rows = {part: [row for row in axis[part] if row["metric"] == metric] for part in ("curves", *TESTED)}
    changes, interactions = ([row for row in rows[part] if not same(row)] for part in TESTED)
    return {
        "metric": metric,
        "title": title(metric),
        "cells": {
            series_name(row, field, study): {text_of(point["value"]): _cell(point, metric) for point in row["points"]}
            for row in rows["curves"]
        },
        "changes": [_tested(row, series_name(row, field, study), named) for row in changes],
        "interactions": [
            _tested(row, ", ".join([f"{row['a']} less {row['b']}", *others(row, field, study)]), named)
            for row in interactions
        ],
    }


def _beside(study: Mapping[str, Any], metric: str | None) -> dict[str, Any]:
    """Of a study without axes the differences of each method to the first: by the headline, in KL and in length."""
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in study["beside_the_first"]:
        rows.setdefault(row["a"], {})[row["metric"]] = row
    shown = [name for name in (metric, *BESIDE) if name and any(name in found for found in rows.values())]
    named = named_before(study)
    cells = {
        name: [
            text
            for m in shown
            for text in ((_signed(found[m], m), _p(found[m], named)) if m in found else (MISSING, MISSING))
        ]
        for name, found in rows.items()
    }
    heads = [text for m in shown for text in (title(m), "Adjusted p")]
    return {"first": study["beside_the_first"][0]["b"], "heads": heads, "cells": cells}


def _tested(row: Mapping[str, Any], name: str, named: Mapping[int, float]) -> dict[str, Any]:
    """A change or an interaction, under a name, with its values, its estimate and its p as text.

    named: the p of the tests that the question names, by the row's id.
    """
    ends = {end: text_of(row[end]) for end in ("from", "to")}
    return {**row, **ends, "name": name, "text": _signed(row, row["metric"]), "p": _p(row, named)}


def _p(row: Mapping[str, Any], named: Mapping[int, float]) -> str:
    own = f" (as named before: {p_value(named[id(row)])})" if id(row) in named else ""
    return f"{p_value(row['p_adjusted'])}{own}"


def _cell(cell: Mapping[str, Any], metric: str | None) -> str:
    return f"{value(cell['mean'], metric or '')} {bracket(cell, metric or '')}".strip()


def _signed(row: Mapping[str, Any], metric: str) -> str:
    ends = [value(row[end], metric, sign=True) for end in ("difference", "low", "high")]
    return f"{ends[0]} [{ends[1]}, {ends[2]}]"


def _curves(study: Mapping[str, Any], field: str, looks: Mapping[str, Style]) -> Figure:
    """A chart a score: its mean over the axis with the band of its 95% interval."""
    axis = study["axes"][field]
    numbers = all(measured(v) for v in axis["values"])
    shown = [m for m in ordered({row["metric"] for row in axis["curves"]}) if m.count(".") <= 1]
    charts = []
    for metric in shown[:MOST]:
        canvas, plot = new_canvas(3.2)
        spoken = []
        for row in (row for row in axis["curves"] if row["metric"] == metric):
            name = series_name(row, field, study)
            look, points = looks[name], [p for p in row["points"] if measured(p["mean"])]
            xs = [p["value"] if numbers else axis["values"].index(p["value"]) for p in points]
            order = sorted(range(len(xs)), key=xs.__getitem__)
            xs, points = [xs[i] for i in order], [points[i] for i in order]
            low, high = zip(*(limits(p) for p in points), strict=True) if points else ((), ())
            plot.fill_between(xs, low, high, color=look.colour, alpha=0.15, linewidth=0)
            means = [p["mean"] for p in points]
            plot.plot(xs, means, look.marker, linestyle="-", color=look.colour, linewidth=1.6, label=literal(name))
            spoken.append(f"{name}: " + ", ".join(f"{text_of(p['value'])} {value(p['mean'], metric)}" for p in points))
        if metric.startswith("win_rate."):
            plot.axhline(0.5, color=looks["sft"].colour, linewidth=1, linestyle=drawing.DASHED)
        if not numbers:
            plot.set_xticks(range(len(axis["values"])), [literal(text_of(v)) for v in axis["values"]])
        plot.set_xlabel(field)
        charts.append(
            finish_chart(canvas, f"axis-{field}-{metric}", title(metric), f"{title(metric)}. {'; '.join(spoken)}")
        )
    return Figure(
        "Curves",
        "Mark: mean over prompts and seeds; band: its 95% interval at that value alone. Whether two curves change "
        "alike is tested below, and not by whether their bands meet.",
        charts,
    )


def _has_strengths(study: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """False for rows of one method that no axis crosses: they differ in one thing and another."""
    return bool(study["axes"]) or len(part["methods"]) > 1


def _frontier(study: Mapping[str, Any], part: Mapping[str, Any], looks: Mapping[str, Style]) -> dict[str, Any]:
    """Charts of score over SFT's against sqrt(KL), and the difference at equal KL."""
    metrics = {metric for row in part["methods"].values() for point in row["points"] for metric in point["scores"]}
    charts = []
    for metric in ordered(metrics):
        canvas, plot = new_canvas(3.2)
        plot.axhline(0, color=looks["sft"].colour, linewidth=1)
        spoken = []
        for name, row in part["methods"].items():
            points = [(p["distance"], p["scores"][metric]) for p in row["points"] if metric in p["scores"]]
            look, xs = looks[name], [d for d, _ in points]
            for d, cell in points:
                plot.plot([d, d], limits(cell), color=look.colour, linewidth=1.2, alpha=0.6)
            means = [cell["mean"] for _, cell in points]
            plot.plot(xs, means, look.marker, linestyle="-", color=look.colour, linewidth=1.6, label=literal(name))
            spoken.append(f"{name}: " + ", ".join(f"{m:+.2f} at {d:.2f}" for d, m in zip(xs, means, strict=True)))
        plot.set_xlabel("Square root of the KL to SFT (nats)")
        name = f"{title(metric)} over SFT" if metric != GAP else "Training reward less true reward (sd of SFT)"
        places = "-".join(str(place) for place in part["at"].values())
        charts.append(finish_chart(canvas, f"frontier-{metric}-{places}", name, f"{name}. {'; '.join(spoken)}"))
    named = named_before(study)
    rows = [row for row in part["comparisons"] if row["kl"] and row["metric"] in (*TRUSTED, GAP)]
    return {
        "at": ", ".join(values_at(part["at"], study)),
        "methods": [*part["methods"]],
        "figure": Figure(
            "Scores against distance from SFT",
            "A mark is a row of the method, its line the interpolation between rows that comparisons at equal KL use.",
            charts,
        ),
        "rows": [
            {
                "name": f"{row['a']} less {row['b']}",
                "metric": "Training reward less true reward" if row["metric"] == GAP else title(row["metric"]),
                "kl": f"{row['kl'][0]:.2g} to {row['kl'][1]:.2g}",
                "text": _signed(row, row["metric"]),
                "area": _signed(row["area"], "reward"),
                "p": _p(row, named),
                "verdict": row["verdict"].replace(*LARGER) if row["metric"] == GAP else row["verdict"],
            }
            for row in rows
        ],
    }


def _variance(row: Mapping[str, Any]) -> dict[str, Any]:
    parts: Sequence[Mapping[str, Any]] = row["parts"]
    return {
        "name": row["method"],
        "parts": [
            {
                "name": CALLED[part["source"]],
                "sd": f"{100 * part['sd']:.1f}",
                "share": share(part["share"]),
                "saved": share(part["saved"]),
            }
            for part in parts
        ],
    }
