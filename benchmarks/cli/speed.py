"""`bench speed`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError, nearest

WORKS = ("dpo", "dpo_default", "orpo", "reward_model", "sft", "generation", "rloo", "ppo", "ppo_own_critic")


def speed(
    work: Annotated[str, typer.Option(help=f"What to measure, by comma: {', '.join(WORKS)}.")] = ",".join(WORKS),
    runs: Annotated[int, typer.Option(help="Runs of each side, in turn; figures are their medians.", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Optimizer steps per run, at least 10.", min=10)] = 12,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for speed.json and its page; what it holds of this machine is kept."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON alone on stdout.")] = False,
) -> None:
    """Time our trainers and sampler beside TRL's and transformers': same pairs, model and mathematics, in one run.

    Example: bench speed --work dpo,sft
    """
    names = [name.strip() for name in work.split(",") if name.strip()]
    for name in names:
        if name not in WORKS:
            raise InputError(f"--work {name} is not known; {nearest(name, WORKS)}")
    try:
        import trl  # noqa: F401
    except ImportError:
        raise InputError("bench speed runs TRL beside us and it is not installed; pip install trl") from None
    from ...runtime.quiet import quiet

    quiet()
    from ...results.integrity import write_json
    from ...results.store import read_json
    from ..selfcheck.speed import measure
    from ..selfcheck.speed_page import page

    found = measure(
        names, runs, steps, lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True)
    )
    if out:
        path = out / "speed.json"
        last = read_json(path) if path.exists() else {}
        same = all(last.get(name) == found[name] for name in ("machine", "packages", "steps"))
        before = last["work"] if same else {}
        found["work"] = {name: row for name in WORKS if (row := {**before, **found["work"]}.get(name))}
        write_json(path, found)
        (out / "speed.md").write_text(page(found))
    if as_json:
        print(json.dumps(found, indent=2))
