"""`bench cache`: what lies in the cache, and how to free space."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError
from .terminal import console, size, table

cache = typer.Typer(
    no_args_is_help=True,
    help="Show what lies in the cache, and free what no run refers to.\n\nExample: bench cache ls",
)
Root = Annotated[Path, typer.Option("--root", help="Folder of the cache and of runs.")]


@cache.command("ls")
def ls(root: Root = Path("results")) -> None:
    """Show stages by kind: how many, how large, and what no run refers to.

    Example: bench cache ls --root results
    """
    from ...results.cache import look

    found = look(_store(root))
    rows = []
    for kind in sorted({item.kind for item in found.items}):
        items = [item for item in found.items if item.kind == kind]
        free = [item for item in items if not item.kept]
        rows.append([kind, str(len(items)), size(sum(i.size for i in items)), str(len(free)), _frees(free)])
    heads = ("stage", "folders", "size", "no run refers to", "frees")
    to = console()
    to.print(table(heads, rows, title=str(root / "cache"), right=heads[1:]))
    to.print(f"judges' verdicts: {size(found.verdicts)}, paid for and never deleted")
    _say_runs(to, found)


@cache.command("gc")
def gc(
    root: Root = Path("results"),
    older_than: Annotated[
        float, typer.Option(help="Only what no run has used for this many days; what a run at work uses stays.", min=0)
    ] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; otherwise only say what would go.")] = False,
) -> None:
    """Free what no run refers to. Runs are those below the root, and those that lay elsewhere when they were made.

    Example: bench cache gc --older-than 7 --yes
    """
    from ...results.cache import look, remove

    found = look(_store(root))
    items = found.removable(timedelta(days=older_than))
    to = console()
    for item in items:
        to.print(f"{item.kind:<14} {item.used:%Y-%m-%d %H:%M}  {size(item.frees):>9}  {item.path}", soft_wrap=True)
    _say_runs(to, found)
    young = sum(not item.kept for item in found.items) - len(items)
    if young:
        to.print(f"{young} more were used within {older_than:g} days and are left alone")
    if not yes:
        to.print(f"{len(items)} folders would be deleted and free {_frees(items)}; add --yes to delete them")
        return
    freed, busy = remove(items)
    to.print(f"{len(items) - len(busy)} folders deleted, {size(freed)} freed")
    for path in busy:
        to.print(f"left alone, a run is at work on it: {path}", soft_wrap=True)


def _store(root: Path):
    from ...results.store import Store

    if not (root / "cache").is_dir():
        raise InputError(f"{root} holds no cache; give the folder that `bench run --root` was given (default: results)")
    return Store(root)


def _frees(items) -> str:
    return size(sum(item.frees for item in items))


def _say_runs(to, found) -> None:
    to.print(f"{len(found.runs)} runs were checked for what they refer to")
    for path in found.missing:
        to.print(f"no longer there, so nothing is kept for it: {path}", soft_wrap=True)
    for path in found.unseen:
        to.print(f"you may not read it, so no stage is free, for it may refer to it: {path}", soft_wrap=True)
