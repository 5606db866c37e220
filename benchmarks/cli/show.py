"""The commands that only read: list, show, compare."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import GateError, InputError, Stopped
from .terminal import console, interval_plot, narrower, sparkline, table

if TYPE_CHECKING:
    from rich.console import Console

IN_TERMINAL = ("reward.gold", "kl", "length", "seconds")  # beside the win rates; the report has every figure
CURVES = ("loss", "reward", "kl", "kl_estimate", "implicit_accuracy", "entropy")  # of a training log, where it has them


def register(app: typer.Typer) -> None:
    """Add the commands to the `bench` command."""
    app.command("list")(list_)
    app.command()(reads_runs(show))
    app.command()(reads_runs(compare))


def reads_runs(command: Callable[..., None]) -> Callable[..., None]:
    """A command that reads folders of runs, which may come from elsewhere: what it cannot use there is one sentence.

    The hashes of a run's records find damage; whoever wrote something else there can hash as well.
    """

    @wraps(command)
    def told(**given: Any) -> None:
        try:
            command(**given)
        except (InputError, GateError, Stopped, OSError, typer.Exit):
            raise
        except Exception as error:
            places = [place for value in given.values() for place in (value if isinstance(value, list) else [value])]
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(
                f"{', '.join(str(place) for place in places if isinstance(place, Path))}: the records are not what "
                f"alignment-bench writes ({said}); give the command that made the run again, or tell us, if nobody "
                f"has changed them"
            ) from error

    return told


def list_(
    method: Annotated[str | None, typer.Argument(metavar="METHOD", help="Show this method and its settings.")] = None,
) -> None:
    """Show methods with what each needs, what speaks for it and its paper; evaluators and benchmarks.

    Example: bench list dpo
    """
    from ..definition.plugins import available, describe
    from ..definition.proof import proof_of
    from ..definition.spec import describe_suite, suites
    from ..studies.file import published, read_file

    to = console()
    if method:
        show_method(method, to)
        return
    found = {name: describe(entry) for name, entry in available("methods").items()}
    heads: tuple[str, ...] = ("method", "needs", "proof", "paper", "what it does")
    rows: list[tuple[str, ...]] = [
        (name, ", ".join(d.needs), proof_of(name).word, d.paper, d.line) for name, d in found.items()
    ]
    if to.width < 120:  # names, needs and proof stay on one line, and words have room
        heads, rows = heads[:3] + heads[4:], [row[:3] + row[4:] for row in rows]
    to.print(table(heads, rows, whole=heads[:3]))
    to.print(
        "proof: a published distance to a known optimum, TRL's own loss and gradient, or tests of our own alone. "
        "`bench list METHOD` has settings and details.\n"
    )
    rows = [(name, describe(entry).line) for name, entry in available("evaluators").items()]
    to.print(table(("evaluator", "what it yields"), rows))
    rows = [(name, describe_suite(name)) for name in suites()]
    to.print(table(("benchmark", "what it is"), rows))
    designs = {name: read_file(name)[0].design for name in published()}
    to.print(table(("study", "what it asks"), [(name, d.question) for name, d in designs.items() if d]))


def show_method(name: str, to: "Console") -> None:
    """A method's page: what it is, its paper, what speaks for it, its settings. InputError for an unknown name."""
    from inspect import cleandoc

    from ..definition.plugins import available, check_methods, describe, load
    from ..definition.proof import proof_of, seeds_of
    from ..definition.schema import settings_schema

    check_methods([name])
    cls, found = load("methods", name), describe(available("methods")[name])
    to.print(f"{name}: {cleandoc(cls.__doc__ or '')}\n")
    if found.paper:
        to.print(f"Paper: {found.paper}")
    to.print(f"Needs: {', '.join(found.needs) or 'nothing but the SFT checkpoint'}")
    for line in (*proof_of(name).lines(), *seeds_of(name)):
        to.print(line)
    tuned = getattr(cls, "space", {})
    fields = settings_schema("methods", name)[0]["properties"]
    rows = [
        (field, _default(kind), allowed(kind), kind["description"] + _tuned(tuned.get(field)))
        for field, kind in fields.items()
    ]
    heads = ("setting", "default", "range", "what it is")
    to.print(table(heads, rows, whole=heads[:1]))


def allowed(kind: Mapping[str, Any]) -> str:
    """The values that a setting may have, from its schema; empty where any of its type are."""
    if "anyOf" in kind:
        return " or ".join(filter(None, map(allowed, kind["anyOf"])))
    if kind.get("type") == "null":
        return "null"
    if "enum" in kind or "const" in kind:
        return ", ".join(map(str, kind.get("enum", [kind.get("const")])))
    return limits(kind)


def limits(kind: Mapping[str, Any]) -> str:
    """The ends between which a number may lie, from its schema; empty where it has none."""
    ends = (
        ("minimum", "from {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "to {}"),
        ("exclusiveMaximum", "below {}"),
    )
    return " ".join(text.format(f"{kind[end]:g}") for end, text in ends if end in kind)


def _default(kind: Mapping[str, Any]) -> str:
    value = kind.get("default")
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _tuned(limits: Any) -> str:
    """Where `bench tune` looks, after a setting's description."""
    if limits is None:
        return ""
    times = " times the benchmark's own" if limits.factor else ""
    return f" Tuned from {limits.low:g} to {limits.high:g}{times}."


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json alone on stdout.")] = False,
) -> None:
    """Print a run's summary with small plots, of one that is not finished what is done; trains nothing.

    Example: bench show results/runs/quick/8827d568e4bc
    """
    from ...results.progress import DONE
    from ...results.run_folder import find_run

    found = find_run(run)
    summary = found.summary if found.is_finished else so_far(found)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    progress, to = found.progress, console()
    to.print(f"{summary['benchmark']}, run {summary['run_id']}, made {found.record['created']}", soft_wrap=True)
    to.print(f"{found.path}\n", soft_wrap=True)
    if found.is_finished and progress and progress.state != DONE:  # it is being added to
        to.print(f"since then: {progress.sentence()}\n", soft_wrap=True)
    width = 41 if to.width >= 100 else 25  # of a drawing
    for line in win_rates(summary, width):
        to.print(line)
    logs = {f"{cell.method} seed {cell.seed}": cell.metrics() for cell in found.cells()}
    logs |= progress.logs() if progress else {}
    curves = [row for label, log in logs.items() for row in _curves(label, log, width)]
    if curves:
        heads = ("training", "signal", "first to last step", "from", "to")
        to.print(table(heads, curves, right=heads[3:], whole=heads[2:]))
    print_summary(found, summary)


def so_far(run: Any) -> dict[str, Any]:
    """The summary of a run that is not finished; see summing_up.py, whose imports take a second."""
    from .. import summing_up

    return summing_up.so_far(run)


def win_rates(summary: Mapping[str, Any], width: int) -> list[Any]:
    """A table per win rate: each method with its interval drawn between 0 and 1, one half marked."""
    metrics = sorted({m for row in summary["methods"].values() for m in row["metrics"] if m.startswith("win_rate.")})
    drawn = []
    for metric in metrics:
        cells = {name: row["metrics"].get(metric) for name, row in summary["methods"].items()}
        rows = [
            (name, interval_plot(cell["low"], cell["mean"], cell["high"], mark=0.5, width=width), _interval(cell))
            for name, cell in cells.items()
            if cell and cell["mean"] is not None
        ]
        heads = ("", f"0{'against SFT':^{width - 2}}1", "mean")
        drawn.append(table(heads, rows, title=metric, whole=heads[1:]))
    return drawn


def print_summary(run: Any, summary: Mapping[str, Any]) -> None:
    """The table of the headline figures, the verdict, the warnings, and where the report is."""
    from ...analysis.summary import table as figures
    from ...analysis.verdict import verdict

    to, unfinished = console(), summary.get("unfinished")
    if summary["methods"]:
        frame = figures(summary)
        columns = [c for c in map(str, frame) if c.startswith("win_rate.") or c in IN_TERMINAL]
        for part in narrower("", frame[columns], to.width):
            to.print(part)
    said = [f"no verdict yet: {unfinished}"] if unfinished else verdict(summary)
    for line in [*said, *(f"warning: {w}" for w in summary["warnings"] if w not in said)]:
        to.print(line, soft_wrap=True)
    for line in policies(run):
        to.print(line, soft_wrap=True)
    if run.is_finished:
        to.print(f"\nreport: {run.report_path / 'index.html'}", soft_wrap=True)
    else:
        to.print(f"\nso far as a page: bench report {run.path}; at work: bench watch {run.path}", soft_wrap=True)


def policies(run: Any) -> list[str]:
    """Where each row's policies lie, and how one is taken away."""
    from ...results.store import POLICY

    found: dict[str, list[int]] = {}
    for cell in run.cells():
        if (cell.path / POLICY).is_dir():
            found.setdefault(cell.method, []).append(cell.seed)
    lines = []
    for name, seeds in found.items():
        which = str(seeds[0]) if len(seeds) == 1 else f"{{{','.join(map(str, seeds))}}}"
        lines.append(f"{name}'s {'policy' if len(seeds) == 1 else 'policies'}: {run.path}/{name}/seed-{which}/{POLICY}")
    return [*lines, f"take one away: bench export {run.path} --policy {next(iter(found))} --to FOLDER"] if lines else []


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON alone on stdout.")] = False,
) -> None:
    """Say what differs between two runs: contracts, surroundings, and results (B minus A) with 95% intervals.

    Example: bench compare results/runs/quick/8827d568e4bc results/runs/quick/d36e7de7d16e
    """
    import dataclasses

    from ...analysis.run_differences import cautions, changes, excludes_zero, settings
    from ...analysis.summary import plain
    from ...results.run_folder import find_run

    first, second = (find_run(path, finished=True) for path in (a, b))
    differ, found, careful = settings(first, second), changes(first, second), cautions(first, second)
    if as_json:
        value = {**differ, "cautions": careful, "changes": [dataclasses.asdict(c) for c in found]}
        print(json.dumps(plain(value), indent=2, allow_nan=False))
        return
    to = console()
    rows: list[tuple[str, ...]] = [
        (f"{part}: {name}", _short(x), _short(y)) for part, d in differ.items() for name, (x, y) in d.items()
    ]
    if rows:
        to.print(table(("what differs", "A", "B"), rows))
    else:
        to.print("the same contract, settings and machine")
    rows = [
        (
            ("* " if excludes_zero(c) else "  ") + c.metric,
            c.method,
            f"{c.a:.3g}",
            f"{c.b:.3g}",
            f"{c.difference:+.3g}",
            "–" if c.low != c.low else f"[{c.low:+.3g}, {c.high:+.3g}]",
            str(c.prompts) if c.prompts else "not paired",
        )
        for c in found
    ]
    heads = ("metric", "method", "A", "B", "B - A", "95% interval", "prompts")
    if rows:
        to.print(table(heads, rows, right=heads[2:]))
        to.print("* the interval leaves out 0; with so many figures some do by chance, for nothing is corrected here")
    else:
        to.print("no method was scored in both runs")
    for line in careful:
        to.print(f"mind: {line}", soft_wrap=True)


def _curves(label: str, log: Sequence[Mapping[str, Any]], width: int) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in CURVES:
        values = [float(row[name]) for row in log if isinstance(row.get(name), (int, float))]
        if len(values) > 1:
            rows.append(
                ("" if rows else label, name, sparkline(values, width), f"{values[0]:.3g}", f"{values[-1]:.3g}")
            )
    return rows


def _interval(cell: Mapping[str, Any]) -> str:
    if cell["low"] is None or cell["high"] is None:
        return f"{cell['mean']:.3f}"
    return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."


def complete_methods(typed: str) -> list[str]:
    """For the shell: names of methods after the last comma."""
    from ..definition.plugins import available

    before, comma, last = typed.rpartition(",")
    return [f"{before}{comma}{name}" for name in available("methods") if name.startswith(last)]


def complete_benchmark(typed: str) -> list[str]:
    """For the shell: names of shipped benchmarks."""
    from ..definition.spec import suites

    return [name for name in suites() if name.startswith(typed)]
