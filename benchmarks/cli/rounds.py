"""`bench run --continue-from RUN`: the next round of sampling, labels and training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ...errors import InputError, one_of
from ...runtime import processes
from .live import watching
from .show import print_summary
from .terminal import console

if TYPE_CHECKING:
    from ..request import Request


def carry_on(
    request: "Request", parent: Path, labelled_by: str, pairs: int | None, dry_run: bool, as_json: bool
) -> None:
    """Say what the round is and, unless that is all, make it and print what it and all rounds so far show. Exit code 1
    where a cell failed."""
    from ...results.integrity import read_record
    from ...results.run_folder import STUDY
    from ..studies.rounds import LABELLED_BY, plan_round, run_round

    if processes.size() > 1:
        raise InputError("a round samples and labels in one process; launch one")
    found = plan_round(request, parent, one_of("--labeller", labelled_by, LABELLED_BY), pairs)
    prompts = len(found.made.pipeline.prompts)
    rows, to = ", ".join(found.made.methods), console(stderr=not dry_run)
    to.print(
        f"round {found.number} of {request.spec.name}: the policies of {found.parent.path} "
        f"({', '.join(found.policies)}) answer {min(pairs or prompts, prompts):,} of {prompts:,} training prompts, two "
        f"responses each, labelled by {labelled_by}; then {rows} from SFT on old and new pairs",
        soft_wrap=True,
    )
    if dry_run:
        to.print("nothing was trained, asked or written; omit --dry-run to begin")
        return
    with watching() as watcher:
        made = run_round(replace(found, request=replace(found.request, say=watcher.say, watch=watcher.watch)))
    if made is None:
        return
    outcome, folder = made
    if as_json:
        print(json.dumps(outcome.summary, indent=2))
    else:
        print()
        print_summary(outcome.run, outcome.summary)
        for line in read_record(folder / STUDY)["verdict"]:
            console().print(line, soft_wrap=True)
    if outcome.failures:
        raise typer.Exit(1)
