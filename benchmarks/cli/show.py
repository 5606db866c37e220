"""The commands that only read: list, show, compare."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import GateError, InputError, Stopped, nearest
from .terminal import console, narrower, say, sparkline, table

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
    method: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show this method and its settings, or this benchmark and its sizes."),
    ] = None,
) -> None:
    """Show methods with what each needs, what speaks for it and its paper; evaluators and benchmarks.

    Example: bench list dpo
    """
    from ..definition.plugins import available, describe
    from ..definition.proof import proof_of, unfinished
    from ..definition.spec import describe_suite, suites
    from ..studies.file import published, read_file

    to = console()
    if method in suites():
        show_benchmark(method, to)
        return
    if method and method not in (known := available("methods")):
        raise InputError(f"there is no method or benchmark {method!r}; {nearest(method, [*known, *suites()])}")
    if method:
        show_method(method, to)
        return
    found = {name: describe(entry) for name, entry in available("methods").items()}
    heads: tuple[str, ...] = ("method", "needs", "proof", "unfinished", "paper", "what it does")
    rows: list[tuple[str, ...]] = [
        (name, ", ".join(d.needs), proof_of(name).word, unfinished(name), d.paper, d.line) for name, d in found.items()
    ]
    if wide := to.width >= 120:
        more = " unfinished: trainings of published runs that diverged or failed, empty where no published run has it."
    else:  # names, needs and proof stay on one line, and words have room
        heads, rows = heads[:3] + heads[5:], [row[:3] + row[5:] for row in rows]
    to.print(table(heads, rows, whole=heads[: 4 if wide else 3]))
    to.print(
        "proof: a published distance to a known optimum, TRL's own loss and gradient, or tests of our own alone."
        f"{more if wide else ''} `bench list METHOD` has settings and details.\n"
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
    from ..definition.proof import proof_of, seed_lines
    from ..definition.schema import settings_schema

    check_methods([name])
    cls, found = load("methods", name), describe(available("methods")[name])
    to.print(f"{name}: {cleandoc(cls.__doc__ or '')}\n")
    if found.paper:
        to.print(f"Paper: {found.paper}")
    to.print(f"Needs: {', '.join(found.needs) or 'nothing but the SFT checkpoint'}")
    for line in (*proof_of(name).lines(), *seed_lines(name)):
        to.print(line)
    tuned = getattr(cls, "space", {})
    fields = settings_schema("methods", name)[0]["properties"]
    rows = [
        (field, _default(kind), allowed(kind), kind["description"] + _tuned(tuned.get(field)))
        for field, kind in fields.items()
    ]
    heads = ("setting", "default", "range", "what it is")
    to.print(table(heads, rows, whole=heads[:1]))


def show_benchmark(name: str, to: "Console") -> None:
    """A benchmark's page: what it is, and its sizes with what each can show."""
    from ..definition.sizes import METHODS, SEEDS, sizes
    from ..definition.spec import describe_suite

    say(to, f"{name}: {describe_suite(name)}\n")
    if not (found := sizes(name)):
        say(to, "It has one size; `--set FIELD=VALUE` changes it, and `bench run --dry-run` says what it can show.")
        return
    heads = ("size", "optimizer steps", "prompts", *(f"{n} seed{'s' * (n > 1)}" for n in SEEDS))
    rows = [
        (
            size.name, f"{size.steps:,}" if size.steps else "?", f"{size.prompts:,}",
            *("none" if gap == float("inf") else f"{100 * gap:.0f} points" for gap in size.shown.values()),
        )
        for size in found
    ]  # fmt: skip
    to.print(table(heads, rows, right=heads[1:], whole=heads[:1]))
    for size in found:
        say(to, f"{size.name}: {size.description}")
    to.print()
    say(
        to,
        f"By seeds: the difference between win rates that {METHODS} methods' comparisons show with 80% power, as "
        f"far as runs vary like those of `quick`; with one seed, between policies and not between methods; none: not "
        f"even the largest is shown. Steps: of a method that learns from pairs; one that samples may take others.",
    )


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
    print_opening(found, summary)
    if found.is_finished and progress and progress.state != DONE:  # it is being added to
        to.print(f"since then: {progress.sentence()}\n", soft_wrap=True)
    width = 41 if to.width >= 100 else 25  # of a drawing
    logs = {f"{cell.method} seed {cell.seed}": cell.metrics() for cell in found.cells()}
    logs |= progress.logs() if progress else {}
    curves = [row for label, log in logs.items() for row in _curves(label, log, width)]
    if curves:
        heads = ("training", "signal", "first to last step", "from", "to")
        to.print(table(heads, curves, right=heads[3:], whole=heads[2:]))
    print_figures(found, summary)


def so_far(run: Any) -> dict[str, Any]:
    """The summary of a run that is not finished; see summing_up.py, whose imports take a second."""
    from .. import summing_up

    return summing_up.so_far(run)


def print_summary(run: Any, summary: Mapping[str, Any]) -> None:
    """All that is printed when a run has ended: its first screen, the headline figures, and where the rest is."""
    print_opening(run, summary)
    print_figures(run, summary)


def print_opening(run: Any, summary: Mapping[str, Any]) -> None:
    """The first screen: what was compared on what; which, how sure, at what cost, where it breaks."""
    from ...analysis.findings import answers, findings
    from ...analysis.subject import data_of, rows_used, subject
    from ...reports.text_plot import rates_and_costs

    to = console()
    if "data" not in summary:  # an older run
        summary = {**summary, "data": data_of(run.record)}
    say(to, subject(summary))
    facts = [rows_used(summary), f"benchmark {summary['benchmark']}", f"run {summary['run_id']}"]
    say(to, ", ".join([*filter(None, facts), f"made {run.record['created']}"]))
    to.print(f"{run.path}\n", soft_wrap=True)
    title, scale, rows = rates_and_costs(summary, 41 if to.width >= 100 else 25)
    if rows:
        say(to, title)
        to.print(table(scale, rows, right=scale[2:], whole=scale[1:]))
    if unfinished := summary.get("unfinished"):
        say(to, f"no verdict yet: {unfinished}\n")
        return
    found = replace(findings(summary), limits=[])  # the page has them
    for answer in answers(found, [*found.confounds, *summary["warnings"]]):
        said = answer.sentences or [answer.otherwise]
        for sentence in [answer.question, *dict.fromkeys(said)] if any(said) else ():
            say(to, sentence, *(() if sentence is answer.question else ("    ", "  - ")))
    to.print()


def print_figures(run: Any, summary: Mapping[str, Any]) -> None:
    """The table of the headline figures, where the policies are, and where the report is."""
    from ...analysis.summary import table as figures

    to = console()
    if summary["methods"]:
        frame = figures(summary)
        columns = [c for c in map(str, frame) if c.startswith("win_rate.") or c in IN_TERMINAL]
        say(to, "Means with 95% intervals; seconds: those of a training")
        for part in narrower("", frame[columns], to.width):
            to.print(part)
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
