"""What speaks for a method of ours: published distances to known optima, losses beside TRL's, seeds that finished.

Everything is read from results/published/, so that no list of it stands anywhere else.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

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


def seeds_of(name: str) -> list[str]:
    """How many seeds of a method finished in each published run of several: one that diverged has no cell."""
    said = []
    for path in sorted(PUBLISHED.glob("*.json")):
        found = _read(path.name)
        rows = found.get("methods") if isinstance(found.get("methods"), dict) else None
        if rows and name in rows and "sft" in rows and (asked := rows["sft"]["seeds"]) > 1:
            said.append(f"{found['benchmark']}: {rows[name]['seeds']} of {asked} seeds finished ({path.stem})")
    return said


@lru_cache
def _read(file: str) -> dict[str, Any]:
    """A published file; empty where it is not there, as in an installation that left it out."""
    path = PUBLISHED / file
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
