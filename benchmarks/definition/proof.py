"""What speaks for a method of ours: published distances to known optima, losses beside TRL's, seeds that finished.

Everything is read from results/published/, so that no list of it stands anywhere else.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...results.progress import CELL
from .plugins import available, inherited, is_ours

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
OPTIMUM, PARITY = "optimum.json", "parity.json"  # by selfcheck/optimum_table.py and selfcheck/parity.py
EQUAL = 1e-4  # largest relative difference of loss and gradient from TRL's
IS_TRL, OWN, UNKNOWN = "is TRL", "own tests", "not ours"


@dataclass(frozen=True)
class Proof:
    """What is published of one method; None where nothing is."""

    optimum: dict[str, Any] | None
    """Its row of the known optimum, if all of its seeds came as near as is required."""
    parity: dict[str, Any] | None
    """Its row of losses beside TRL's, if they are equal."""
    alone: str
    """What it is called where neither is there."""

    @property
    def word(self) -> str:
        found = [name for name, row in (("optimum", self.optimum), ("TRL", self.parity)) if row]
        return ", ".join(found) or self.alone

    def lines(self) -> list[str]:
        """For the page of the method."""
        said = []
        if self.optimum:
            worst = max(seed["kl_to_optimum"] for seed in self.optimum["seeds"])
            count = len(self.optimum["seeds"])
            seeds = f"each of {count} seeds" if count > 1 else "one seed"
            said.append(f"Known optimum: within {worst:.4f} nats of KL in {seeds} ({self.optimum['required']} wanted).")
        if self.parity:
            said.append(
                f"TRL {self.parity['trl']} ({self.parity['of']}): the same loss and gradient of the same log-probs, to "
                f"{self.parity['difference']:.0e}."
            )
        alone = {
            IS_TRL: "It is TRL's own trainer.",
            OWN: "Neither a known optimum nor TRL speaks for it: it is tested by numbers derived by hand.",
            UNKNOWN: "A plugin, of which nothing is published here; see `bench check`.",
        }
        return said or [alone[self.alone]]


def proof_of(name: str) -> Proof:
    """What is published of a method."""
    entry = available("methods")[name]
    if not is_ours(entry.module):
        return Proof(None, None, UNKNOWN)
    optimum, parity = (_read(file).get(name) for file in (OPTIMUM, PARITY))
    if optimum and not (
        optimum["required"] and all(s["kl_to_optimum"] <= optimum["required"] for s in optimum["seeds"])
    ):
        optimum = None
    if parity and parity["difference"] > EQUAL:
        parity = None
    is_trl = any(node.name == "TRLMethod" for _, node in inherited(entry.module, entry.attr))
    return Proof(optimum, parity, IS_TRL if is_trl else OWN)


@dataclass(frozen=True)
class Seeds:
    """Trainings of a method in one published run or study."""

    asked: int
    finished: int
    where: str
    """The benchmark, and the published file's name."""


def seeds_of(name: str) -> list[Seeds]:
    """How many seeds of a method were trained in each published outcome, and how many came to an end.

    One that diverged did not: a run has no cell of it, a study's runs say its name among their failures.
    """
    found = []
    for file in sorted((*PUBLISHED.glob("*.json"), *PUBLISHED.glob("studies/*.json"))):
        asked, finished, outcome = 0, 0, _read(str(file.relative_to(PUBLISHED)))
        if file.parent == PUBLISHED and isinstance(rows := outcome.get("methods"), dict) and "sft" in rows:
            for row in rows_of(name, rows):
                asked += rows["sft"]["seeds"]
                finished += rows[row]["seeds"]
        elif file.parent != PUBLISHED:
            for run, row in itertools.product(outcome["runs"], rows_of(name, outcome["methods"])):
                asked += outcome["seeds"]
                finished += outcome["seeds"] - sum(label.startswith(f"{row}{CELL}") for label in run["failures"])
        if asked:
            found.append(Seeds(asked, finished, f"{outcome['benchmark']}, {file.stem}"))
    return found


def rows_of(name: str, rows: Iterable[str]) -> list[str]:
    """Those rows that are a method's, with whatever settings."""
    return [row for row in rows if row.partition(":")[0] == name]


def unfinished(name: str) -> str:
    """For a table: how many of a method's published trainings came to no end; empty where none was published."""
    found = seeds_of(name)
    asked = sum(seeds.asked for seeds in found)
    return f"{asked - sum(seeds.finished for seeds in found)} of {asked}" if asked else ""


def seed_lines(name: str) -> list[str]:
    """For the page of the method."""
    said = [f"{seeds.finished} of {seeds.asked} trainings finished ({seeds.where})." for seeds in seeds_of(name)]
    return said or ["How many of its seeds finish is not known: no published run has it."]


@lru_cache
def _read(file: str) -> dict[str, Any]:
    """A published file; empty where it is not there, as in an installation that left it out."""
    path = PUBLISHED / file
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
