"""Everything that the templates show of one run."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis import pathology
from ..analysis.data_account import account
from ..analysis.elsewhere import MARK, elsewhere, marked
from ..analysis.findings import Answer, Findings, answers, findings
from ..analysis.grids import SFT
from ..analysis.metric_names import title
from ..analysis.subject import rows_used, subject
from ..analysis.tuning import untuned
from . import curves, drawing, figures
from .along import reward_along
from .leaderboard import cell, groups, matrices
from .policies import base_bits_of, snippet
from .reading import Material
from .reliability import reliability
from .samples import samples
from .text_plot import block, rates_and_costs
from .wording import JUDGE_MEASURES, PEOPLE_KAPPAS, PEOPLE_SHARES, flat, is_headline, ordered, split

MOST_COMPARISONS = 2_000  # on a page, some 430 bytes each in both tables; they grow with the square of the rows
NO_FINDINGS = Findings("No verdict: this run has not been summarized.", [], [], [], [], [])


def _snippet(record: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """Lines of Python that load the first policy; empty where none was trained here."""
    return snippet(found[0]["folder"], found[0]["base"], base_bits_of(record)) if found else ""


def page(
    material: Material, looks: Mapping[str, drawing.Style] | None = None, with_figures: bool = True
) -> dict[str, Any]:
    """The contents of HTML and Markdown templates; looks: those of a page with several runs, which has no figures."""
    record, summary, methods = material.record, material.summary, material.methods
    looks = looks or drawing.styles(material.names)
    said = findings(summary) if summary else NO_FINDINGS
    if so_far := summary.get("unfinished"):
        said = Findings(f"No verdict yet: {so_far}.", [], [], [], [], [])
    gates = summary.get("gates", [])
    failed = [gate for gate in gates if not gate.get("passed")]
    heads = {confound.partition(";")[0] for confound in said.confounds}  # an older run words the rest otherwise
    chosen = samples(material.cells, looks)
    environment = dict(record.get("environment") or {})
    columns = groups(summary)
    shown = [m for m in looks if m in methods]
    flags = pathology.flags(summary, material.logs) if summary else []
    warnings = [w for w in _others(summary.get("warnings", []), failed) if w.partition(";")[0] not in heads]
    plotted, scale, plot = rates_and_costs(summary) if summary else ("", (), [])
    stamps = summary.get("stamps") or []
    first, *told = answers(said, [*flags, *warnings], told_before=bool(stamps or failed or said.confounds))
    used = account(record.get("data") or {})
    compared = _compared(summary)
    return {
        "subject": subject(summary or record),
        "record": record,
        "summary": summary,
        "missing": material.missing,
        "findings": said,
        "recommendation": split(said.recommendation),
        "answers": {"first": first.question, "others": [*told, Answer("On which data", used)]},
        "text_plot": {"title": plotted, "lines": block([scale, *plot]) if plot else []},
        "failed": failed,
        "stamps": stamps,
        "methods": methods,
        "looks": looks,
        "shown": shown,
        "marks": _marks(summary, methods),
        "policies": material.policies,
        "snippet": _snippet(record, material.policies),
        "facts": _facts(record, summary),
        "groups": columns,
        "cells": {m: {c.key: cell(summary, m, c.key) for g in columns for c in g.columns} for m in shown},
        "matrices": matrices(summary, shown) if len(compared) == len(summary.get("comparisons", [])) else [],
        "figures": drawn(material, looks) if with_figures else {},
        "signs": pathology.signs(summary, material.logs) if summary else {},
        "pathologies": pathology.PATHOLOGIES,
        "comparisons": by_metric(compared, methods),
        "left_out": len(summary.get("comparisons", [])) - len(compared),
        "gates": gates,
        "samples": chosen,
        "judge_measures": list(JUDGE_MEASURES.items()),
        "people_shares": list(PEOPLE_SHARES.items()),
        "people_kappas": list(PEOPLE_KAPPAS.items()),
        "data": record.get("data") or {},
        "contract": flat(record.get("contract") or {}),
        "packages": environment.pop("packages", None) or {},
        "environment": flat(environment),
        "seeds": material.seeds,
    }


def drawn(material: Material, looks: Mapping[str, drawing.Style]) -> dict[str, list[drawing.Figure]]:
    """The figures by the part of the page that they stand in."""
    summary, methods, logs = material.summary, material.methods, material.logs
    names = {m: title(m) for m in ordered({m for row in methods.values() for m in row["metrics"]}) if is_headline(m)}
    means: dict[str, list[dict[str, float | None]]] = {}
    for made in material.cells:
        means.setdefault(made.method, []).append({m: _mean(v.values()) for m, v in made.scores.items()})
    first, costs = figures.opening(figures.quality_against_cost(summary, looks))
    parts = {
        "first": [first],
        "results": [
            figures.win_rates(methods, looks, names),
            costs,
            figures.frontier(methods, means, looks, names),
            figures.gold_against_proxy(summary, looks),
            reward_along(summary.get("overoptimization") or {}, looks),
            figures.length(summary, methods, looks),
            curves.training(logs, looks),
        ],
        "signals": [curves.signals(logs, looks)],
        "further": [curves.further(logs, looks)],
        "reward_models": [reliability(summary.get("reward_models") or {})],
        "judges": [figures.judges((summary.get("judges") or {}).get("audit") or {})],
    }
    return {part: [figure for figure in found if figure] for part, found in parts.items()}


def _compared(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The comparisons that the page shows: all, or those with SFT where all would make it too large."""
    rows = summary.get("comparisons", [])
    return rows if len(rows) <= MOST_COMPARISONS else [row for row in rows if row["b"] == SFT]


def by_metric(rows: Sequence[Mapping[str, Any]], methods: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Comparisons by metric, in the order of the leaderboard."""
    metrics = ordered({m for row in methods.values() for m in row["metrics"]} | {r["metric"] for r in rows})
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: metrics.index(r["metric"])):
        found.setdefault(row["metric"], []).append(row)
    return found


def _others(sentences: Sequence[str], failed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warnings without those that repeat a failed gate, which has a place of its own."""
    return [said for said in sentences if not any(gate.get("text") and gate["text"] in said for gate in failed)]


def _marks(summary: Mapping[str, Any], methods: Mapping[str, Any]) -> dict[str, str]:
    """What stands beside a row's name in tables: that it was not tuned like the others, or not trained here."""
    return dict.fromkeys(untuned(summary) if summary else [], "not tuned") | dict.fromkeys(elsewhere(methods), MARK)


def _facts(record: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """The line below the title: what was compared, on how much, when."""
    methods = summary.get("methods") or {}
    rows = [m for m in methods if m != "sft"]
    seeds = max((methods[m].get("seeds") or 0 for m in rows), default=0)
    facts = [", ".join(marked(m, methods) for m in rows)] if rows else []
    facts += [f"{seeds} seed{'s' * (seeds != 1)}"] if seeds else []
    facts += [used] if (used := rows_used(summary)) else []
    facts += [f"benchmark {record['benchmark']}"] if record.get("benchmark") else []
    facts += [str(record["created"])[:16].replace("T", " ")] if record.get("created") else []
    return [*facts, f"run {record.get('run_id', 'without an id')}"]


def _mean(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
