"""Options that the commands which train have in common, and what they take from them."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError
from ...runtime.device import check_device

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps or auto.", callback=check_device)]
Gate = Annotated[str, typer.Option(help="What a failed gate does: warn, fail or ignore.")]
Engine = Annotated[str, typer.Option(help="Train cells one after another (local) or side by side (ray).")]
RayAddress = Annotated[
    str | None, typer.Option(help="Ray cluster whose machines see --root; by default one started here.")
]
CellCpus = Annotated[int, typer.Option(help="CPU cores of a cell on Ray.", min=1)]
AtOnce = Annotated[
    int | None, typer.Option(help="Cells trained side by side; by default two on a CPU with two cores.", min=1)
]
CellTimeout = Annotated[float | None, typer.Option(help="Seconds that the training of one cell may take.", min=1)]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model; never run without this.")
]
Root = Annotated[Path, typer.Option("--root", help="Folder of the cache and of new runs.")]


def named(method: str) -> tuple[str, ...]:
    """The methods of --method, each once; InputError where it names none."""
    names = tuple(dict.fromkeys(name.strip() for name in method.split(",") if name.strip()))
    if not names:
        raise InputError("--method names no method; give for example --method ppo,dpo")
    return names
