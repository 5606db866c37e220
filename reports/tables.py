"""The tables of a run as data: CSV, Parquet and LaTeX."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.costs import LOOKING, RESPONSE
from ..analysis.elsewhere import TRAINED_HERE, elsewhere, marked
from ..analysis.metric_names import evaluator
from ..analysis.quantities import p_value
from ..results.integrity import own_folder, replacing
from .leaderboard import cell, groups, meetings
from .reading import Material
from .wording import bracket, value

if TYPE_CHECKING:
    import pandas

# Spreadsheets take a cell that begins so for a formula (OWASP, CSV injection).
FORMULA = re.compile(r"^[=+\-@\t\r]")
WIDEST = 5  # columns of a LaTeX table beside the method


def frames(material: Material) -> "dict[str, pandas.DataFrame]":
    """Every table by name, numbers as they are in summary.json: one row a value, so that all methods fit."""
    import pandas

    summary = material.summary
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("results", "costs", "ratings")}
    for method, row in material.methods.items():
        for metric, found in row["metrics"].items():
            rows["results"].append({"method": method, "seeds": row.get("seeds"), "metric": metric, **found})
        for prefix, part in (("", "cost"), (RESPONSE, "inference"), (LOOKING, "looking")):
            spent = row.get(part) or {}
            rows["costs"] += [{"method": method, "cost": f"{prefix}{k}", "mean": v} for k, v in spent.items()]
    for name, found in (summary.get("ratings") or {}).items():
        rows["ratings"] += [{"evaluator": name, "method": method, **row} for method, row in found.items()]
    rows["comparisons"] = [
        {key: value for key, value in row.items() if not isinstance(value, dict)}
        for row in summary.get("comparisons", [])
    ]
    rows["changes"] = [
        {"metric": metric, "method": method, **row}
        for metric, found in (summary.get("changes") or {}).items()
        for method, row in found.items()
    ]
    if away := elsewhere(material.methods):
        for found in (row for name in rows for row in rows[name] if "method" in row):
            found[TRAINED_HERE] = found["method"] not in away
    return {name: pandas.DataFrame(found) for name, found in rows.items() if found}


def write(frames: "Mapping[str, pandas.DataFrame]", folder: Path, format: str) -> list[Path]:
    """Write every table as FOLDER/NAME.csv or .parquet; returns the paths."""
    own_folder(folder)
    written = []
    for name, frame in frames.items():
        path = folder / f"{name}.{format}"
        with replacing(path) as stream:
            if format == "csv":
                frame.map(neutral).rename(columns=neutral).to_csv(stream, index=False)
            else:
                frame.to_parquet(stream, index=False)
        written.append(path)
    return written


def neutral(found: Any) -> Any:
    """Text that no spreadsheet takes for a formula: an apostrophe in front where it begins like one; numbers as is."""
    return f"'{found}" if isinstance(found, str) and FORMULA.match(found) else found


def latex(material: Material) -> str:
    """Tables of the leaderboard, a family of columns each, and of the comparisons; they need the package booktabs."""
    import pandas

    summary = material.summary
    parts = ["% Tables of alignment-bench. In the preamble: \\usepackage{booktabs}\n"]
    for group in groups(summary):
        heads = ["Method", *(column.head or group.title for column in group.columns)]
        rows = [
            [
                marked(method, material.methods),
                *(_joined(cell(summary, method, column.key)) for column in group.columns),
            ]
            for method in material.methods
        ]
        for start in range(1, len(heads), WIDEST):
            part = [0, *range(start, min(start + WIDEST, len(heads)))]
            frame = pandas.DataFrame([[row[i] for i in part] for row in rows], columns=[heads[i] for i in part])
            caption = f"{group.title}. Means with 95\\% intervals." if "ost" not in group.title else f"{group.title}."
            parts.append(_table(frame, caption))
    rows = [
        [evaluator(row["metric"].removeprefix("win_rate.")), *(marked(row[side], material.methods) for side in "ab")]
        + [f"{value(row['mean'], 'win_rate')} {bracket(row, 'win_rate')}".strip(), p_value(row["p_adjusted"])]
        for row in meetings(summary)
    ]
    if rows:
        heads = ["By", "Row", "Against", "Wins", "Adjusted p"]
        parts.append(_table(pandas.DataFrame(rows, columns=heads), "Head to head, ties half."))
    return "\n".join(parts)


def _joined(found: Any) -> str:
    return f"{found.text} {found.interval}".strip()


def _table(frame: "pandas.DataFrame", caption: str) -> str:
    """One table with booktabs' rules; text escaped, the minus sign as mathematics, for pdfTeX has no glyph for it."""
    text = (
        frame.style.hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
        .to_latex(hrules=True, position="t", position_float="centering", caption=caption)
    )
    return text.replace("−", "$-$")
