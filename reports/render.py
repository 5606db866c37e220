"""The report of runs from what is on disk: a self-contained HTML page, Markdown, tables and figures as files.

Nothing is trained or scored here. Whatever is missing on disk is named on the page and the rest is shown. All text that
comes from data passes through the templates' autoescape; only the drawings of `drawing.py` and the page's own scripts
are inserted as markup, and the page's policy lets no other script run.
"""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..analysis import metric_names, quantities
from ..errors import InputError, nearest
from ..results.integrity import make_folder, own_folder, write_json, write_text
from ..results.run_folder import Run
from . import drawing, latex, tables, wording
from .across import across
from .contracts import differences
from .page import page
from .reading import Material, read
from .study import study_frames, study_page

TEMPLATES = Path(__file__).with_name("templates")
SCRIPTS = ("report.js", "samples.js")
OTHER_SCRIPTS = {"site.html.j2": ("report.js", "site.js")}
FORMATS = ("html", "md", "latex", "csv", "parquet", "json", "svg", "pdf")


def render(
    runs: Sequence[Run],
    out: Path | None = None,
    formats: Sequence[str] = ("html", "md"),
    unfinished: Mapping[Path, dict[str, Any]] | None = None,
) -> list[Path]:
    """Write the report of each run and return the paths; InputError for an unknown format.

    html: `index.html`; md: `report.md`; latex: `tables.tex`; csv, parquet: a file a table in `tables/`; json:
    `report.json`; svg, pdf: every drawing in `figures/`. Without `out` a report lies in the run's own folder. Several
    runs have, beside a report each, an overview that says what differs between their contracts: with `out` it lies
    there and the reports in folders below, named by their run ids; without, in `report/` of the folder they share.
    unfinished: by folder the summaries of runs that have none on disk.
    """
    check_formats(formats)
    materials = [read(run, (unfinished or {}).get(run.path)) for run in runs]
    out = Path(out) if out is not None else None
    folders = _folders(runs, out)
    written: list[Path] = []
    if out is not None:
        make_folder(out)  # which its user chose, a link or not
    if len(runs) > 1:
        overview = _overview_folder(runs, out)
        written += _write_overview(materials, folders, overview if out else own_folder(overview), formats)
    for material, folder in zip(materials, folders, strict=True):
        written += _write_report(material, folder if folder == out else own_folder(folder), formats)
    return written


def check_formats(formats: Sequence[str]) -> None:
    """InputError for a format that is not known."""
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"--format {name} is not known; {nearest(name, FORMATS)}")


def render_study(
    folder: Path, study: Mapping[str, Any], out: Path | None = None, formats: Sequence[str] = ("html", "md")
) -> list[Path]:
    """Write the page of a study, by default into `report/` of its folder, tables and drawings beside it; the paths."""
    place = make_folder(Path(out)) if out else own_folder(folder / "report")
    shown = study_page(study, place)
    figures = [part["figure"] for part in (*shown["axes"], *shown["frontiers"])]
    return write_formats(place, "study", shown, figures, lambda: study_frames(study), formats)


def write_formats(
    folder: Path,
    template: str,
    shown: dict[str, Any],
    figures: Iterable[drawing.Figure],
    frames: Callable[[], Mapping[str, Any]],
    formats: Sequence[str],
) -> list[Path]:
    """Write a page by its templates, its tables and its drawings, as far as they are asked for; the paths.

    shown: for the templates. frames: the tables by name.
    """
    check_formats(formats)
    written = [
        write_text(folder / file, fill(f"{template}.{name}.j2", shown))
        for name, file in (("html", "index.html"), ("md", "report.md"))
        if name in formats
    ]
    for name in ("csv", "parquet"):
        if name in formats:
            written += tables.write(frames(), folder / "tables", name)
    charts = [chart for figure in figures for chart in figure.charts]
    for name in ("svg", "pdf"):
        if name in formats:
            own_folder(folder / "figures")
            for chart in charts:
                drawing.save(chart, folder / "figures" / f"{chart.key}.{name}")
                written.append(folder / "figures" / f"{chart.key}.{name}")
    return written


def _overview_folder(runs: Sequence[Run], out: Path | None) -> Path:
    if out is not None:
        return out
    shared = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    if shared == Path(shared.anchor):
        raise InputError("these runs share no folder for their overview; give one with --out")
    return shared / "report"


def _write_overview(
    materials: Sequence[Material], folders: Sequence[Path], folder: Path, formats: Sequence[str]
) -> list[Path]:
    """One page for several runs: what differs, then each run's verdict and leaderboard."""
    looks = drawing.styles([name for material in materials for name in material.names])
    runs = [
        {
            "label": f"{material.record.get('benchmark', 'run')} {material.record.get('run_id', '')}".strip(),
            "link": Path(os.path.relpath(place / "index.html", folder)).as_posix(),
            "page": page(material, looks, with_figures=False),
        }
        for material, place in zip(materials, folders, strict=True)
    ]
    shown = {
        "runs": runs,
        "differs": differences([material.record for material in materials]),
        "across": across(materials),
    }
    pages = (("html", "overview.html.j2", "index.html"), ("md", "overview.md.j2", "report.md"))
    written = [write_text(folder / file, fill(template, shown)) for name, template, file in pages if name in formats]
    if "latex" in formats:
        written.append(write_text(folder / "tables.tex", latex.table_of_runs(materials)))
    return written


def _folders(runs: Sequence[Run], out: Path | None) -> list[Path]:
    if out is None:
        return [run.report_path for run in runs]
    if len(runs) == 1:
        return [out]
    folders: list[Path] = []
    for run in runs:
        name = re.sub(r"[^\w.+-]+", "-", str(run.record.get("run_id") or run.path.name)).strip(".")
        taken = sum(folder.name.rpartition("_")[0] == name or folder.name == name for folder in folders)
        folders.append(out / (f"{name}_{taken + 1}" if taken else name))
    return folders


def _write_report(material: Material, folder: Path, formats: Sequence[str]) -> list[Path]:
    shown = page(material, with_figures=not {"html", "svg", "pdf"}.isdisjoint(formats))
    figures = [figure for part in shown["figures"].values() for figure in part]
    written = write_formats(folder, "report", shown, figures, lambda: tables.frames(material), formats)
    if "latex" in formats:
        written.append(write_text(folder / "tables.tex", latex.table(material)))
    if "json" in formats:
        write_json(folder / "report.json", {"run": material.record, "summary": material.summary})
        written.append(folder / "report.json")
    return written


def fill(template: str, shown: dict[str, Any]) -> str:
    environment = _environment(template)
    if ".html" in template:
        scripts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in OTHER_SCRIPTS.get(template, SCRIPTS)]
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
        shown = {**shown, "scripts": scripts, "allowed": " ".join(f"'sha256-{digest}'" for digest in hashes)}
    return environment.get_template(template).render(shown)


def _environment(template: str) -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=".html" in template,
        undefined=jinja2.ChainableUndefined,  # a field that the disk does not have is shown as missing
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "value": wording.value,
        "bracket": wording.bracket,
        "cost": quantities.cost,
        "p_value": quantities.p_value,
        "md": wording.markdown,
        "title_of": metric_names.title,
        "evaluator": metric_names.evaluator,
        "precise": lambda v: quantities.number(v, 3) if quantities.measured(v) else quantities.MISSING,
        "count": lambda v: f"{v:,}" if isinstance(v, int) else v,
    }
    return environment
