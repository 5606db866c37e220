"""The choice that a run supports: which row over which, from what the headline's comparisons show, and nothing else.

A row is recommended over another only where the two were compared directly and the difference is shown. That one row
is shown to beat SFT and another is not says nothing about the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .grids import SFT

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """Rows by what is shown of them; lists are in the order of the table."""

    rows: list[str]
    beat_sft: list[str]
    first: list[str]
    """Rows shown to beat SFT that none is shown to be better than."""
    over: dict[str, list[str]] = field(default_factory=dict)
    """row -> the rows that it is shown to be better than."""
    equal: dict[str, list[str]] = field(default_factory=dict)
    """row -> the rows that it is equal to within the margin, none of the two shown to be better."""

    @property
    def use(self) -> str | None:
        """The row that is shown to beat SFT and every other row; None where there is none."""
        return next((name for name in self.first if len(self.over[name]) == len(self.rows) - 1), None)

    def open(self, name: str) -> list[str]:
        """Rows of which neither is shown to be better than `name` nor worse nor equal."""
        known = {name, *self.over[name], *self.equal[name]}
        return [other for other in self.rows if other not in known and name not in self.over[other]]

    @property
    def is_tie(self) -> bool:
        """True where the first rows are several and each is equal to each other within the margin."""
        return len(self.first) > 1 and all(b in self.equal[a] for a in self.first for b in self.first if a != b)


def choose(rows: Sequence[Row], names: Sequence[str] | None = None) -> Choice:
    """The choice among `names` (all by default) from one metric's comparisons."""
    all_names = list(dict.fromkeys(row["a"] for row in rows))
    among = [name for name in all_names if names is None or name in names]
    over: dict[str, list[str]] = {name: [] for name in among}
    equal: dict[str, list[str]] = {name: [] for name in among}
    beat_sft = [row["a"] for row in rows if row["b"] == SFT and better(row) == row["a"] and row["a"] in over]
    for row in rows:
        a, b = row["a"], row["b"]
        if a not in over or b not in over:
            continue
        if winner := better(row):
            over[winner].append(b if winner == a else a)
        elif row.get("equal"):
            equal[a].append(b)
            equal[b].append(a)
    lost = {name for beaten in over.values() for name in beaten}
    return Choice(among, beat_sft, [name for name in beat_sft if name not in lost], over, equal)


def better(row: Row) -> str | None:
    """The side of a comparison that is shown to be better."""
    return next((row[side] for side in ("a", "b") if row["verdict"] == f"{row[side]} is better"), None)
