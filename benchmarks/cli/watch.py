"""`bench watch`: the page of a run at work."""

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a benchmark's: its newest.")],
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes a free one.", min=0, max=65535)] = 8741,
) -> None:
    """Show a run at work in a browser on this machine: cells, curves as they grow, time left, the last samples.

    Example: bench watch results/runs/quick
    """
    from ..watch import serve

    serve(run, port)
