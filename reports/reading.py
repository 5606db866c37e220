"""A run as read from disk, as far as it can be: whatever is missing or damaged is named and the rest is used."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..analysis.subject import data_of
from ..results.records import Generation
from ..results.run_folder import Cell, Run
from .curves import KL_ESTIMATE
from .policies import policies


@dataclass(frozen=True)
class Trained:
    """One cell as read from disk: values by metric and prompt, responses by prompt, and the training log."""

    method: str
    seed: int
    scores: dict[str, dict[str, float | None]]
    generations: dict[str, Generation]
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class Material:
    """A run as a report needs it; `missing` names the parts that could not be read."""

    record: dict[str, Any]
    summary: dict[str, Any]
    cells: list[Trained]
    missing: list[str] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)
    """Where they lie; see policies.py."""

    @property
    def methods(self) -> dict[str, Any]:
        """Rows of the summary by method, in their order."""
        return {name: {"metrics": {}, **row} for name, row in self.summary.get("methods", {}).items()}

    @property
    def names(self) -> list[str]:
        """Every method that appears anywhere, SFT left out, in the order of the run."""
        named = [*(self.record.get("methods") or {}), *self.methods, *(cell.method for cell in self.cells)]
        return [name for name in dict.fromkeys(named) if name != "sft"]

    @property
    def logs(self) -> dict[str, list[Any]]:
        """Method -> per seed the rows of its training log."""
        found: dict[str, list[Any]] = {}
        for cell in self.cells:
            if cell.log:
                found.setdefault(cell.method, []).append(cell.log)
        return found

    @property
    def seeds(self) -> dict[str, list[int]]:
        """Method -> the seeds of its cells on disk."""
        found: dict[str, list[int]] = {}
        for cell in self.cells:
            found.setdefault(cell.method, []).append(cell.seed)
        return found


def read(run: Run, so_far: dict[str, Any] | None = None) -> Material:
    """All that a report shows of a run; so_far: the summary of one that is not finished."""
    missing: list[str] = []
    record = run.record
    summary = so_far or _attempt(lambda: run.summary, missing, "summary.json: the run has not been summarized", {})
    if summary and "data" not in summary:  # an older one
        summary = summary | {"data": data_of(record)}
    found = [*run.cells()] if record.get("methods") else []
    cells = [_read_cell(cell, missing) for cell in found]
    return Material(
        record, summary, cells, missing, _attempt(lambda: policies(found, run.path), missing, "policies", [])
    )


def _read_cell(cell: Cell, missing: list[str]) -> Trained:
    where = f"{cell.method}, seed {cell.seed}"
    frame = _attempt(cell.scores, missing, f"scores of {where}", None)
    scores: dict[str, dict[str, float | None]] = {}
    for metric, prompt, value in (
        () if frame is None else frame[["metric", "prompt_id", "value"]].itertuples(index=False)
    ):
        scores.setdefault(metric, {})[prompt] = None if value is None or math.isnan(value) else float(value)
    generations = _attempt(cell.generations, missing, f"responses of {where}", [])
    log = [_named_as_now(row) for row in _attempt(cell.metrics, missing, f"training log of {where}", [])]
    return Trained(cell.method, cell.seed, scores, {g.prompt_id: g for g in generations}, log)


def _named_as_now(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a log by the names of today: beside a round's reward, older versions called the estimated KL `kl`."""
    if "reward" not in row or KL_ESTIMATE in row:
        return row
    return {KL_ESTIMATE if name == "kl" else name: value for name, value in row.items()}


def _attempt(read: Callable[[], Any], missing: list[str], what: str, otherwise: Any) -> Any:
    """Read a part of the run; a part that is not there or is damaged is noted, not fatal."""
    try:
        return read()
    except FileNotFoundError:
        missing.append(f"{what} (not on disk)")
    except (OSError, ValueError, KeyError, TypeError) as error:
        missing.append(f"{what} (cannot be read: {error})")
    return otherwise
