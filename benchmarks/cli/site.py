"""`bench site`: a static site of runs, studies and tunings."""

from pathlib import Path
from typing import Annotated

import typer

from .show import reads_runs


@reads_runs
def site(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, studies and tunings, or above them; files of published ones."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("site"),
) -> None:
    """Write a static site of runs, studies and tunings: tables that filter, each number with its report and contract.

    Example: bench site results/runs results/studies --out site
    """
    from ...reports.site import build
    from ..studies.outcomes import changed

    for path in build(sources, out, changed):
        print(path)
