"""The tables of a run as data: CSV and Parquet."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.costs import LOOKING, RESPONSE
from ..analysis.elsewhere import TRAINED_HERE, elsewhere
from ..results.integrity import own_folder, replacing
from .reading import Material

if TYPE_CHECKING:
    import pandas

# Spreadsheets take a cell that begins so for a formula (OWASP, CSV injection).
FORMULA = re.compile(r"^[=+\-@\t\r]")


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
