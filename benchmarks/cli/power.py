"""`bench power`: the differences that so many prompts and seeds show, from how a finished run varied."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .terminal import console, table


def power(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    difference: Annotated[
        float | None,
        typer.Option(help="Difference of win rates to plan for, 0.05 being 5 points; by default the run's margin.",
                     min=0.001, max=0.499),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON alone on stdout.")] = False,
) -> None:  # fmt: skip
    """Say which differences more prompts and seeds would show, from how a run's scores varied; trains nothing.

    Example: bench power results/runs/quick/8827d568e4bc --difference 0.03
    """
    from ...analysis.power import from_run
    from ...results.run_folder import find_run

    found = find_run(run, finished=True)
    designs = from_run(found.scores(), found.summary, difference)
    if as_json:
        print(json.dumps(designs, indent=2))
        return
    to = console()
    for part in designs["comparisons"]:
        heads = ("prompts", *(f"{n} seed{'' if n == 1 else 's'}" for n in part["seeds"]))
        rows = [
            (f"{count:,}", *(_points(size) for size in sizes))
            for count, sizes in zip(part["prompts"], part["detectable"], strict=True)
        ]
        title = f"{part['what']}: points shown with 80% power"
        to.print(table(heads, rows, title=title, right=heads))
        to.print(part["text"], soft_wrap=True)


def _points(size: float | None) -> str:
    return "none" if size is None else f"{100 * size:.1f}"
