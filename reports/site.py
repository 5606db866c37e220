"""A static site of runs, studies and tunings, from their records alone: one table a run, filters, links to each report.

Every number leads to the report of its run and its row to the contract that the run's rows share; runs whose contracts
differ share no table. What is not as it was written (a record's hash, a file of a cell, a contract that is not its
run's) is refused with one sentence, and nothing is written.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.findings import findings
from ..analysis.frontier import method_of
from ..analysis.grids import SFT
from ..errors import InputError
from ..results.integrity import CHECK, DamageError, digest, make_folder, read_record, write_text
from ..results.run_folder import RUN, STUDY, TUNE, Run
from .leaderboard import Column, cell, groups
from .page import page
from .reading import Material
from .render import fill
from .study import study_page
from .tuning import page as tuning_page

FEW = ("kl", "length", "cost.seconds")  # beside the win rates; the report has every figure
LEFT_OUT = "responses, training logs and policies, for this page is made of the run's records alone"


@dataclass(frozen=True)
class Entry:
    """A run (its record and summary), a study or a tuning, with its name on the site."""

    name: str
    record: dict[str, Any]
    summary: dict[str, Any] | None = None
    """None for what is no run."""

    @property
    def kind(self) -> str:
        return "runs" if self.summary is not None else "studies" if "study_id" in self.record else "tunings"


def build(
    sources: Sequence[Path], out: Path, changed: Callable[[Mapping[str, Any]], list[str]] = lambda study: []
) -> list[Path]:
    """Write `index.html`, and a page for each run, study and tuning in a folder of their kind; the paths.

    sources: folders of them or that hold some, and files of published ones. changed: the parts of a study's or tuning's
    code that are others today.
    """
    found = _named(entry for source in sources for entry in read_entries(source))
    if not found:
        places = ", ".join(map(str, sources))
        raise InputError(f"{places}: no finished run, no study and no tuning is there; give other folders")
    make_folder(out)
    runs, studies, tunings = ([e for e in found if e.kind == kind] for kind in ("runs", "studies", "tunings"))
    written = [_page(out / "runs" / run.name, "report.html.j2", page(_material(run))) for run in runs]
    written += [_page(out / "studies" / s.name, "study.html.j2", study_page(s.record, None)) for s in studies]
    tuned = [(tuning, tuning_page(tuning.record)) for tuning in tunings]
    written += [_page(out / "tunings" / tuning.name, "tuning.html.j2", contents) for tuning, contents in tuned]
    shown = {
        "runs": [_run(run) for run in runs],
        "studies": [_study(s, changed(s.record)) for s in studies],
        "tunings": [_tuning(tuning, contents, changed(tuning.record)) for tuning, contents in tuned],
    }
    filters = {
        what: sorted({name for parts in shown.values() for part in parts for name in part[what]})
        for what in ("model", "data", "method")
    }
    return [_page(out, "site.html.j2", {**shown, "filters": filters}), *written]


def read_entries(source: Path) -> Iterator[Entry]:
    """The finished runs, studies and tunings at or below a place; DamageError for one that is not as it was written."""
    if source.is_file():
        if found := _published(source):
            yield found
        else:
            raise InputError(f"{source} is not the outcome of a run, a study or a tuning; give another file")
    elif not source.is_dir():
        raise InputError(f"there is no folder or file {source}")
    else:
        runs = [*map(Run, sorted(path.parent for path in source.glob(f"**/{RUN}")))]
        others = sorted([*source.glob(f"**/{STUDY}"), *source.glob(f"**/{TUNE}")])
        for run in (run for run in runs if run.is_finished):
            for one in run.cells():
                one.check()
            yield _checked(Entry(run.path.name, run.record, run.summary), run.path)
        for path in others:
            yield Entry(path.parent.name, read_record(path))
        for path in sorted(source.glob("**/*.json")) if not runs and not others else ():
            if found := _published(path):
                yield found


def _published(path: Path) -> Entry | None:
    """A published outcome; None for a file of another kind."""
    record = read_record(path)
    if not isinstance(record, dict) or not ({"contract", "methods"} <= record.keys() or "study_id" in record):
        return None
    if CHECK not in record:
        raise DamageError(f"{path} does not end with its hash, so that nobody can tell whether it was changed")
    if "study_id" in record or "trial_seed" in record:
        return Entry(path.stem, record)
    return _checked(Entry(path.stem, record, record), path)


def _checked(run: Entry, place: Path) -> Entry:
    """A run whose contract is the one that it is named after."""
    contract, summary = run.record["contract"], run.summary or {}
    if digest(contract)[:12] != run.record["run_id"] or summary.get("contract") != contract:
        raise DamageError(f"{place} is damaged: its contract is not that of run {run.record['run_id']}")
    return run


def _named(entries: Iterable[Entry]) -> list[Entry]:
    """Each with a name of its own, that may be a folder's."""
    found: dict[str, Entry] = {}
    for entry in entries:
        name = first = re.sub(r"[^\w.+-]+", "-", entry.name).strip(".") or "run"
        number = 1
        while name in found:
            number += 1
            name = f"{first}_{number}"
        found[name] = Entry(name, entry.record, entry.summary)
    return list(found.values())


def _material(run: Entry) -> Material:
    """A run as its report needs it. A published outcome has the methods' figures where a record has their settings."""
    record = {name: part for name, part in run.record.items() if name != "methods" or run.record is not run.summary}
    return Material(record, run.summary or {}, [], [LEFT_OUT])


def _page(folder: Path, template: str, shown: dict[str, Any]) -> Path:
    return write_text(make_folder(folder) / "index.html", fill(template, shown))


def _run(run: Entry) -> dict[str, Any]:
    """A run's part of the index."""
    summary = run.summary or {}
    contract, methods = run.record["contract"], summary["methods"]
    columns = _columns(summary)
    data = run.record.get("data") or {}
    seeds = sorted({row["seeds"] for row in methods.values()})
    return {
        "name": run.name,
        "link": f"runs/{run.name}/index.html",
        "id": run.record["run_id"],
        "benchmark": summary["benchmark"],
        "model": [str(contract.get("model", "unknown"))],
        "data": [str(data.get("source", "unknown"))],
        "method": [name for name in dict.fromkeys(method_of(label) for label in methods) if name != SFT],
        "seeds": f"{seeds[0]} seed{'s' * (seeds != [1])}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds",
        "said": findings(summary).recommendation,
        "columns": columns,
        "rows": [
            {"label": label, "method": method_of(label), "cells": [cell(summary, label, c.key) for c in columns]}
            for label in methods
        ],
    }


def _columns(summary: Mapping[str, Any]) -> list[Column]:
    """The win rates, and a few other figures."""
    there = [column for group in groups(summary) for column in group.columns]
    rates = [column for column in there if column.key.startswith("win_rate.")]
    return [*rates, *(column for key in FEW for column in there if column.key == key)]


def _study(study: Entry, changed: list[str]) -> dict[str, Any]:
    """A study's part of the index."""
    record = study.record
    design = record.get("design") or {}
    return {
        "name": study.name,
        "link": f"studies/{study.name}/index.html",
        "title": design.get("question") or record["name"],
        "model": [str(record.get("model", "unknown"))],
        "data": [str(record.get("preferences", "unknown"))],
        "method": list(dict.fromkeys(method_of(item) for item in record["methods"])),
        "said": (record.get("answer") or {}).get("sentences") or record["verdict"][:1],
        "made": str(record["created"])[:10],
        "changed": changed,
    }


def _tuning(tuning: Entry, shown: Mapping[str, Any], changed: list[str]) -> dict[str, Any]:
    """A tuning's part of the index; shown: the contents of its page."""
    record, contract = tuning.record, tuning.record["contract"]
    return {
        "name": tuning.name,
        "link": f"tunings/{tuning.name}/index.html",
        "title": f"{record['benchmark']}: {contract['trials']} trials each ({contract['optimizer']})",
        "model": [str(record.get("model", "unknown"))],
        "data": [str(record.get("preferences", "unknown"))],
        "method": list(dict.fromkeys(method_of(label) for label in record["methods"])),
        "said": [f"Picked by {shown['rule']}. Spent: {shown['spent']}.", *shown["warnings"]],
        "made": str(record["created"])[:10],
        "changed": changed,
    }
