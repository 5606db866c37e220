"""`bench study` and `bench run --vary`: methods along an axis."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError, one_of
from ...runtime import launch, processes
from ...runtime.quiet import quiet
from .live import watching
from .plan import how_long
from .terminal import console, table
from .training import (
    CellCpus,
    CellGpus,
    CellTimeout,
    CheckpointEvery,
    Device,
    Engine,
    Gate,
    RayAddress,
    Root,
    TrustRemoteCode,
)

if TYPE_CHECKING:
    from ..request import Request
    from ..studies.axes import Study


def complete_study(typed: str) -> list[str]:
    """For the shell: names of shipped studies."""
    from ..studies.file import published

    return [name for name in published() if name.startswith(typed)]


def study(
    name: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A shipped study or a YAML file.", autocompletion=complete_study),
    ] = None,
    device: Device = "auto",
    gate: Gate = "warn",
    engine: Engine = "local",
    ray_address: RayAddress = None,
    cell_cpus: CellCpus = 1,
    cell_gpus: CellGpus = 1,
    cell_timeout: CellTimeout = None,
    checkpoint_every: CheckpointEvery = None,
    trust_remote_code: TrustRemoteCode = False,
    root: Root = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan and what it may take.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Only list the shipped studies and their outcomes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print study.json (or the plan) alone on stdout.")] = False,
) -> None:
    """Compare methods along axes: label noise, data size, beta, budget, seeds of the reward model, model.

    Example: bench study label_noise
    """
    from ..request import ENGINES, GATES, Request
    from ..studies.axes import read_study

    if list_:
        print_list(as_json)
        return
    if name is None:
        raise InputError("bench study needs a study: a name that `bench study --list` shows, or a YAML file")
    device = launch.start(device)
    checked_gate, checked_engine = one_of("--gate", gate, GATES), one_of("--engine", engine, ENGINES)
    found = read_study(name)
    quiet()
    base = Request(
        found.spec,
        found.methods,
        found.seeds,
        root,
        device=device,
        gate=checked_gate,
        engine=checked_engine,
        ray_address=ray_address,
        cell_cpus=cell_cpus,
        cell_gpus=cell_gpus,
        cell_timeout=cell_timeout,
        checkpoint_every=checkpoint_every,
        trust_remote_code=trust_remote_code,
    )
    carry_out(found, base, dry_run, as_json)


def print_list(as_json: bool) -> None:
    """The shipped studies: what each asks, what it takes, what it answered and whether its code is today's."""
    from ..studies.outcomes import listed

    found = listed()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    heads = ("study", "hours", "question", "answer")
    rows = [(row["name"], f"{row['hours']:g}", row["question"], row["state"]) for row in found]
    console().print(table(heads, rows, right=heads[1:2], whole=heads[:2]))


def carry_out(found: "Study", base: "Request", dry_run: bool, as_json: bool) -> None:
    """Print the plan of a study and, unless that is all, make it and print what it shows. Exit code 1 where a cell
    failed."""
    from ...results.integrity import read_record
    from ...results.run_folder import STUDY
    from ..studies import study as studies

    if processes.size() > 1:
        raise InputError("a study goes from run to run in one process; launch one, or give its runs one by one")
    planned = studies.plan_study(found, base, keep=not dry_run)
    if dry_run and as_json:
        print(json.dumps(_as_json(found, planned), indent=2))
        return
    to = console(stderr=not dry_run)
    heads = ("run", "rows", "seeds", "stages to do")
    rows = [
        (studies.told_of(run, found) or "all rows", ", ".join(run.labels), str(found.seeds), str(len(made.to_do)))
        for run, made in planned.runs
    ]
    to.print(table(heads, rows, title=f"{found.name}: {len(rows)} runs", right=heads[2:]))
    to.print(_cost(planned), soft_wrap=True)
    if dry_run:
        to.print("nothing was trained, asked or written; omit --dry-run to begin")
        return
    with watching() as watcher:
        folder = studies.run_study(found, replace(base, say=watcher.say, watch=watcher.watch))
    result = read_record(folder / STUDY)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        out, said = console(), (result.get("answer") or {}).get("sentences", [])
        for line in [*said, *result["verdict"], *(f"warning: {said}" for said in result["warnings"])]:
            out.print(line, soft_wrap=True)
        out.print(f"\nreport: {folder / 'report' / 'index.html'}", soft_wrap=True)
    if any(run["failures"] for run in result["runs"]):
        raise typer.Exit(1)


def _cost(planned: Any) -> str:
    return f"{len(planned.to_do)} different stages to do, {how_long(planned.seconds[0], planned.to_do)}"


def _as_json(found: "Study", planned: Any) -> dict[str, Any]:
    from ..studies.study import told_of

    seconds, unknown = planned.seconds
    runs = [{"told": told_of(run, found), "rows": list(run.labels), **made.as_json()} for run, made in planned.runs]
    return {
        "name": found.name,
        "runs": runs,
        "seconds": seconds,
        "stages": len(planned.to_do),
        "seconds_unknown": unknown,
    }
