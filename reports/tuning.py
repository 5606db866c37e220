"""The page of a tuning: what every trial found, what each scorer would have picked, and what the winners did."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.metric_names import title
from ..analysis.quantities import cost, measured, number, seconds, share
from ..analysis.selection import CALLED
from ..analysis.tuning import rule_in_words
from ..errors import InputError
from ..results.integrity import DamageError, make_folder, own_folder, read_record
from ..results.run_folder import TUNE
from . import drawing
from .render import write_formats
from .wording import code_in_words

if TYPE_CHECKING:
    import pandas

HEIGHT = 2.6  # inches of a chart
LINES = {"selection_reward_model": "-", "judge": drawing.DASHED, "gold": "-.", "labels": ":"}


def find_tunings(path: Path) -> list[Path]:
    """The folders of tunings at or below a folder."""
    return [path] if (path / TUNE).exists() else sorted(found.parent for found in path.glob(f"**/{TUNE}"))


def render_tuning(folder: Path, out: Path | None = None, formats: Sequence[str] = ("html", "md")) -> list[Path]:
    """Write the page of a tuning, by default into its folder; the paths. InputError where its record is damaged."""
    try:
        record = read_record(folder / TUNE)
    except DamageError as damage:
        raise InputError(f"{damage}; give the bench tune command again, which writes it anew from the cache") from None
    place = make_folder(Path(out)) if out else own_folder(folder / "report")
    shown = page(record)
    return write_formats(place, "tuning", shown, shown["figures"], lambda: frames(record), formats)


def frames(record: Mapping[str, Any]) -> "dict[str, pandas.DataFrame]":
    """The tables by name, numbers as they are in tune.json: every trial, and the winners."""
    import pandas

    trials = [
        {
            "method": label,
            **{name: trial.get(name) for name in ("number", "budget", "kl", "failed")},
            "picked": trial.get("number") == row["picked"],
            **{f"settings.{field}": value for field, value in trial["settings"].items()},
            **{f"scores.{criterion}": score for criterion, score in trial["scores"].items()},
            **{f"cost.{name}": spent for name, spent in trial["cost"].items()},
        }
        for label, row in record["methods"].items()
        for trial in row["trials"]
    ]
    winners = [
        {"method": label, "seeds": row["seeds"], "metric": metric, **cell}
        for label, row in (record.get("winners") or {}).items()
        for metric, cell in row["metrics"].items()
    ]
    found = {"trials": trials, "winners": winners}
    return {name: pandas.DataFrame(rows) for name, rows in found.items() if rows}


def page(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show."""
    contract, methods = record["contract"], record["methods"]
    asked, looks = contract["criteria"], drawing.styles(methods)
    spent = record["spent"]
    training = f"{seconds(spent['seconds'])} and {cost(spent['flops'], 'flops')} of training"
    figures = [_by_kl(record, looks), _by_setting(record, looks), _curve(record, looks)]
    return {
        "record": record,
        "looks": looks,
        "shown": list(methods),
        "code": code_in_words(record),
        "rule": rule_in_words(contract["rule"]),
        "called": [_name(criterion) for criterion in asked],
        "warnings": [f"{label}: {said}" for label, row in methods.items() for said in row["warnings"]],
        "picks": {label: _picks(row, asked) for label, row in methods.items()},
        "sensitivity": [(label, *_sensitivity(row, asked)) for label, row in methods.items()],
        "trials": {label: [_trial(t, asked) for t in row["trials"]] for label, row in methods.items()},
        "winners": _winners(record),
        "spaces": {label: _ranges(row["space"]) for label, row in methods.items()},
        "spent": f"{spent['trials']} trials, {training}",
        "figures": [figure for figure in figures if figure],
    }


def _name(criterion: str) -> str:
    return CALLED[criterion].removeprefix("the ").capitalize()


def _settings(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{field} {value:g}" for field, value in settings.items())


def _trial(trial: Mapping[str, Any], asked: Sequence[str]) -> list[str]:
    """Settings, KL and scores of a trial with their intervals over prompts, or why it has none."""
    limits = trial.get("intervals") or {}
    scores = [share(trial["scores"].get(name)) + _limits(limits.get(name, ()), share) for name in asked]
    return [_settings(trial["settings"]), number(trial["kl"]), *scores, trial["failed"] or ""]


def _limits(ends: Sequence[float | None], write: Callable[[float | None], str]) -> str:
    """The interval of a number, after it; nothing where none was measured."""
    return f" [{', '.join(map(write, ends))}]" if ends and measured(ends[0]) else ""


def _picks(row: Mapping[str, Any], asked: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The rule's pick, the benchmark's own settings, and what each scorer would have picked."""
    by_number = {trial["number"]: trial for trial in row["trials"]}
    found = [
        ("Tuned, by the rule", by_number.get(row["picked"])),
        ("Shared settings of the benchmark", row["shared"]),
    ]
    for criterion, numbers in row["picks"].items():
        alone, within = (by_number.get(numbers[how]) for how in ("alone", "within"))
        if alone is within or within is None:
            found.append((f"{_name(criterion)}, with a limit or without" if within else _name(criterion), alone))
        else:
            found += [(f"{_name(criterion)} alone", alone), (f"{_name(criterion)} within the limit", within)]
    return [(who, _trial(trial, asked)[:-1]) for who, trial in found if trial]


def _sensitivity(row: Mapping[str, Any], asked: Sequence[str]) -> list[str]:
    """By scorer: best, median and worst setting, and how many beat SFT."""
    cells = []
    for criterion in asked:
        found = row["sensitivity"].get(criterion)
        spread = " / ".join(share(found[key]) for key in ("best", "median", "worst")) if found else "–"
        cells += [spread, share(found["beat_sft"]) if found else "–"]
    return cells


def _ranges(space: Mapping[str, Any]) -> str:
    return "; ".join(f"{field} {r['low']:.3g} to {r['high']:.3g}, {r['scale']}" for field, r in space.items())


def _winners(record: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of the winners' run on held-out prompts; None of a tuning whose winners have not run."""
    rows = record.get("winners") or {}
    metrics = list(dict.fromkeys(m for row in rows.values() for m in row["metrics"] if m.count(".") < 2))
    tuned = set(record["rows"].values())

    def cell(metric: str, found: Mapping[str, Any]) -> str:
        write = number if metric == "kl" else share
        return write(found.get("mean")) + _limits((found.get("low"), found.get("high")), write)

    return {
        "heads": [title(metric) for metric in metrics],
        "rows": [
            (
                name,
                "tuned" if name in tuned else "shared settings, not tuned",
                row["seeds"],
                [cell(m, row["metrics"].get(m) or {}) for m in metrics],
            )
            for name, row in rows.items()
            if name != "sft"
        ],
    }


def _marks(axes: Any, points: Sequence[tuple[float, float, bool, bool]], look: drawing.Style) -> None:
    """Trials as marks: x, y, within the limit (filled), picked (ringed)."""
    for x, y, within, picked in points:
        fill_style = look.colour if within else "none"
        axes.plot([x], [y], look.marker, color=look.colour, markerfacecolor=fill_style, markersize=7)
        if picked:
            axes.plot([x], [y], "o", color=drawing.INK, markerfacecolor="none", markersize=14)


def _points(record: Mapping[str, Any], label: str) -> list[tuple[Mapping[str, Any], float, bool, bool]]:
    """A row's trials with their score by the rule's scorer, whether they are within its limit, and picked."""
    rule, row = record["contract"]["rule"], record["methods"][label]
    limit = rule["at_most_kl"]
    return [
        (
            t,
            t["scores"][rule["by"]],
            limit is None or (measured(t["kl"]) and t["kl"] <= limit),
            t["number"] == row["picked"],
        )
        for t in _full(row)
        if measured(t["scores"].get(rule["by"]))
    ]


def _full(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A row's trials with the whole budget."""
    whole = max((t["budget"] for t in row["trials"]), default=0)
    return [t for t in row["trials"] if t["budget"] == whole]


def _canvas(more: float = 0.0) -> tuple[Any, Any]:
    """A chart of percent of prompts on which SFT is beaten, with a line where SFT stands; more: inches of height."""
    canvas, axes = drawing.new_canvas(HEIGHT + more)
    axes.axhline(50, color=drawing.INK, linewidth=1, linestyle=drawing.DASHED)
    return canvas, axes


def _by_setting(record: Mapping[str, Any], looks: Mapping[str, drawing.Style]) -> drawing.Figure | None:
    """Small multiples: each method's trials along each setting."""
    by = record["contract"]["rule"]["by"]
    charts = []
    for label, row in record["methods"].items():
        points = _points(record, label)
        for field, limits in row["space"].items():
            if not points:
                continue
            canvas, axes = _canvas()
            if limits["scale"] == "log":
                axes.set_xscale("log")
            _marks(axes, [(t["settings"][field], 100 * y, w, p) for t, y, w, p in points], looks[label])
            axes.set_xlabel(field)
            axes.margins(x=0.08, y=0.15)
            text = "; ".join(f"{t['settings'][field]:g}: {share(y)}" for t, y, _, _ in points)
            name = f"{label}: {CALLED[by].removeprefix('the ')} by {field} (%)"
            charts.append(drawing.finish_chart(canvas, f"tuning-{label}-{field}", name, f"{name}. {text}"))
    if not charts:
        return None
    caption = (
        f"Share of tuning prompts on which a trial beats SFT by {CALLED[by]}. Filled: within the limit of the KL; "
        "hollow: beyond it; ringed: picked; dashed: SFT. A pick at the end of a range may have better ones beyond."
    )
    return drawing.Figure("Every trial, setting by setting", caption, charts)


def _by_kl(record: Mapping[str, Any], looks: Mapping[str, drawing.Style]) -> drawing.Figure | None:
    """Each scorer over the KL of the trials, a chart a method: where a proxy parts from the others."""
    asked, limit = record["contract"]["criteria"], record["contract"]["rule"]["at_most_kl"]
    charts = []
    for label, row in record["methods"].items():
        canvas, axes = _canvas(0.4)
        spoken = []
        for criterion, marker in zip(asked, drawing.MARKERS, strict=False):
            found = sorted(
                (t["kl"], 100 * t["scores"][criterion])
                for t in _full(row)
                if measured(t["kl"]) and measured(t["scores"].get(criterion))
            )
            if not found:
                continue
            xs, ys = zip(*found, strict=True)
            axes.plot(
                xs, ys, marker, linestyle=LINES[criterion], color=looks[label].colour, linewidth=1.2, markersize=5,
                label=drawing.literal(_name(criterion)),
            )  # fmt: skip
            spoken.append(f"{criterion}: " + ", ".join(f"KL {x:.2f} {y:.0f}%" for x, y in found))
        if not spoken:
            continue
        if limit is not None:
            axes.axvline(limit, color=drawing.INK, linewidth=1)
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(left=0)
        axes.set_xlabel("KL to SFT (nats per response)")
        axes.legend(frameon=False, labelcolor=drawing.INK, fontsize=drawing.SIZE - 1)
        name = f"{label}: scores by KL (%)"
        charts.append(drawing.finish_chart(canvas, f"tuning-kl-{label}", name, f"{name}. {'; '.join(spoken)}"))
    if not charts:
        return None
    caption = (
        "Each trial by every scorer that was asked. Where a learnt scorer goes on rising and the others fall, it is "
        "being over-optimized: a limit of the KL (upright line) belongs before that point. To find yours, look where "
        "the curves part and set select.at_most_kl there."
    )
    return drawing.Figure("What each scorer says along the KL", caption, charts)


def _curve(record: Mapping[str, Any], looks: Mapping[str, drawing.Style]) -> drawing.Figure | None:
    """The expected score of the pick by the number of trials, a chart a scorer."""
    charts = []
    for criterion in record["contract"]["criteria"]:
        lines = {m: row["expected"][criterion] for m, row in record["methods"].items() if criterion in row["expected"]}
        if not lines:
            continue
        canvas, axes = _canvas()
        for label, values in lines.items():
            look = looks[label]
            axes.plot(
                range(1, len(values) + 1), [100 * v for v in values], color=look.colour, marker=look.marker,
                markersize=5, linewidth=1.6, label=drawing.literal(label),
            )  # fmt: skip
        axes.set_xlabel("Trials")
        axes.xaxis.get_major_locator().set_params(integer=True)
        name = f"{_name(criterion)}, expected after so many trials (%)"
        text = "; ".join(f"{m} {share(v[0])} to {share(v[-1])}" for m, v in lines.items())
        charts.append(drawing.finish_chart(canvas, f"tuning-expected-{criterion}", name, f"{name}. {text}"))
    if not charts:
        return None
    caption = (
        f"The trial that the rule ({rule_in_words(record['contract']['rule'])}) picks of so many, drawn from those of "
        "this search (Dodge et al. 2019), scored on the tuning prompts by each scorer. A line that falls says that "
        "more tuning by this rule makes things worse by that scorer."
    )
    return drawing.Figure("Expected result by the number of trials", caption, charts)
