"""Options that the commands which train have in common, and what they take from them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError
from ...runtime.device import check_device

NoSFT = Annotated[bool, typer.Option("--no-sft", help="Train no SFT: every method starts from the model as it is.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps or auto.", callback=check_device)]
Gate = Annotated[str, typer.Option(help="What a failed gate does: warn, fail or ignore.")]
Engine = Annotated[str, typer.Option(help="Train cells one after another (local) or side by side (ray).")]
RayAddress = Annotated[
    str | None, typer.Option(help="Ray cluster whose machines see --root; by default one started here.")
]
CellCpus = Annotated[int, typer.Option(help="CPU cores of a cell on Ray.", min=1)]
CellGpus = Annotated[int, typer.Option(help="GPUs of a cell on Ray, each with a process of its own.", min=1)]
AtOnce = Annotated[
    int | None, typer.Option(help="Cells trained side by side; by default two on a CPU with two cores.", min=1)
]
CellTimeout = Annotated[float | None, typer.Option(help="Seconds that the training of one cell may take.", min=1)]
CheckpointEvery = Annotated[
    float | None,
    typer.Option(help="Seconds between step checkpoints; by default 120, or as many as cost 3% of the time.", min=0),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model; never run without this.")
]
Columns = Annotated[
    str | None,
    typer.Option(help="Columns of the preferences that have other names, by comma: prompt=question,..."),
]
ContinueFrom = Annotated[
    Path | None,
    typer.Option("--continue-from", metavar="RUN", help="Next round: its policies answer, labels, all trained anew."),
]
LabelledBy = Annotated[
    str, typer.Option("--labeller", help="With --continue-from: simulated (true reward), judge or people.")
]
NewPairs = Annotated[
    int | None,
    typer.Option("--new-pairs", help="With --continue-from: pairs to label; by default one a training prompt.", min=1),
]
Root = Annotated[Path, typer.Option("--root", help="Folder of the cache and of new runs.")]


def given_policies(items: Iterable[str]) -> dict[str, str]:
    """The policies of --policy by name; InputError for one without a name or a place, or a name that is given twice."""
    found: dict[str, str] = {}
    for item in items:
        name, _, place = item.partition("=")
        if not name or not place:
            raise InputError(f"--policy {item} is not NAME=MODEL; give for example --policy theirs=./their-model")
        if found.setdefault(name, place) != place:
            raise InputError(f"--policy {name} is given twice, as {found[name]} and {place}; give each another name")
    return found


def named(method: str) -> tuple[str, ...]:
    """The methods of --method, each once; InputError where it names none."""
    names = tuple(dict.fromkeys(name.strip() for name in method.split(",") if name.strip()))
    if not names:
        raise InputError("--method names no method; give for example --method ppo,dpo")
    return names
