"""Methods by runs: what tells several runs apart, and the win rates of each against its own SFT."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.choice import choose
from ..analysis.grids import SFT
from ..analysis.quantities import measured
from ..analysis.subject import contract, short, where
from ..analysis.verdict import headline, leading, tested
from .reading import Material


@dataclass(frozen=True)
class Across:
    """Several runs in one table; those that are not summarized are left out."""

    runs: list[Material]
    heads: list[str]
    """What tells each run apart: its model, its data, or both, and its id where neither does."""
    rows: list[tuple[str, list[dict[str, Any]]]]
    """Method -> a cell a run: a win rate of summary.json, with `best` where it is shown to be; empty where none is."""


def across(materials: Sequence[Material]) -> Across:
    """The win rates of several runs, by the scorer that stands first in each."""
    known = [m for m in materials if m.summary]
    names = dict.fromkeys(name for m in known for name in m.methods if name != SFT)
    rows: list[tuple[str, list[dict[str, Any]]]] = [(name, []) for name in names]
    for material in known:
        metric, best = leading(material.summary), shown_best(material.summary)
        for name, cells in rows:
            found = material.methods.get(name, {"metrics": {}})["metrics"].get(metric) or {}
            cells.append({**found, "best": name == best} if measured(found.get("mean")) else {})
    return Across(known, _heads([m.summary for m in known], [*map(run_id, known)]), rows)


def shown_best(summary: Mapping[str, Any]) -> str | None:
    """The row that is shown to be better than SFT and than every other row by the scorer that stands first."""
    if not summary.get("comparisons") or not (metrics := headline(summary)):
        return None
    return choose(tested(summary, metrics[0])).use


def _heads(summaries: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[str]:
    """What tells runs apart: their models, their data, or both; and their ids where neither does."""
    models = [short(str(contract(summary).get("model", "?"))) for summary in summaries]
    data = [short(str((s.get("data") or {}).get("source") or s.get("benchmark"))) for s in summaries]
    heads = models if len(set(data)) == 1 else data if len(set(models)) == 1 else [*map(where, summaries)]
    if len(set(heads)) < len(heads):
        heads = [f"{head} {own}" for head, own in zip(heads, ids, strict=True)]
    return heads


def run_id(material: Material) -> str:
    return str(material.record.get("run_id", "without an id"))
