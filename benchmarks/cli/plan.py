"""`bench run --dry-run`: the plan as a table or as JSON."""

import json
import os
from itertools import groupby
from typing import TYPE_CHECKING

from ...analysis.data_account import account
from .terminal import console, count, duration, size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..plan import Plan, Planned
    from ..request import Request


def print_plan(request: "Request", as_json: bool) -> None:
    """Say what a run would do, and do nothing."""
    from ..plan import plan

    found = plan(request)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    to = console()
    first, *rest = account(found.data)
    to.print(f"{request.spec.name}: {first}", soft_wrap=True)
    for line in rest:
        to.print(f"  {line}", soft_wrap=True)
    heads = ("stage", "state", "time", "memory", "tokens", "basis")
    to.print(table(heads, _rows(found), title=f"{request.spec.name}: the plan", right=heads[2:5]))
    for line in _totals(found):
        to.print(line, soft_wrap=True)


def _rows(found: "Plan") -> list[list[str]]:
    """A row a stage; a cell's scores that are alike share one."""
    rows = []
    for _, group in groupby(found.steps, _alike):
        alike = list(group)
        first, guess, later = alike[0].step, alike[0].estimate, alike[0] in found.to_do
        label = first.label
        if first.is_score:
            label = f"{first.cell_label}, scores: {', '.join(s.step.name for s in alike)}"
        known = [s.estimate.seconds for s in alike if s.estimate.seconds is not None]
        seconds = sum(known) if len(known) == len(alike) else None
        memory = size(guess.memory_mb * 2**20) if guess.memory_mb else ""
        basis = "; ".join(dict.fromkeys(s.estimate.basis for s in alike))
        rows.append([label, alike[0].state, duration(seconds) if later else "", memory, count(guess.tokens), basis])
    return [*rows, *([name, "", duration(part.seconds), "", "", part.basis] for name, part in found.beside.items())]


def _alike(planned: "Planned") -> object:
    """Equal for scores of a cell that share a row of the table."""
    step = planned.step
    return (step.cell, planned.state, planned.estimate.seconds is None) if step.is_score else step.key


def how_long(seconds: float, to_do: "Sequence[Planned]") -> str:
    """The time of what is to do, what else the machine is at, and of what in it nothing is known."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    beside = f", and longer beside what else runs now (load {load:.0f} on {cores} cores)" if load > cores else ""
    unknown = [planned.step.name for planned in to_do if planned.estimate.seconds is None]
    names = ", ".join(dict.fromkeys(unknown))
    more = f"; of {len(unknown)} of these nothing is known yet ({names})" if unknown else ""
    return f"about {duration(seconds)}{beside}{more}"


def _totals(found: "Plan") -> list[str]:
    lines = [f"{len(found.to_do)} of {len(found.steps)} stages to do, {how_long(found.seconds[0], found.to_do)}"]
    peak = max((step.estimate.memory_mb or 0 for step in found.to_do), default=0)
    tokens = sum(step.estimate.tokens or 0 for step in found.to_do)
    if peak:
        lines.append(f"peak memory: about {size(peak * 2**20)}; tokens trained on or sampled: {count(tokens)}")
    if found.is_rough:
        lines.append(
            "nothing like some of it has run here yet: for that a few rows were timed just now, which is rough"
        )
    if found.judging:
        lines.append(f"judge: {found.judging}; verdicts on disk are not paid for again")
    lines += [f"warning: {warning}" for warning in found.warnings]
    lines += [*found.can_show, *(f"note: {note}" for note in found.notes)]
    return [*lines, "nothing was trained, asked or written; omit --dry-run to begin"]
