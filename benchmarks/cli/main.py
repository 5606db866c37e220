"""The `bench` command. torch is imported only by commands that need it, so that --help answers at once."""

import errno
import json
import os
import platform
import signal
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from ...errors import GateError, InputError, Stopped, one_of
from ...results.integrity import DISK
from ...runtime import launch
from ...runtime.quiet import hearing, quiet
from . import preferences as cli_preferences
from . import show as cli_show
from .audit_data import audit_data
from .audit_judge import audit_judge, read_price
from .audit_reward import audit_reward
from .cache import cache
from .doctor import doctor
from .export import export
from .gpus import plan
from .live import watching
from .plan import print_plan
from .power import power
from .rounds import carry_on
from .site import site
from .speed import speed
from .study import carry_out, study
from .terminal import streams
from .training import (
    AtOnce,
    CellCpus,
    CellGpus,
    CellTimeout,
    CheckpointEvery,
    Columns,
    ContinueFrom,
    Device,
    Engine,
    Gate,
    LabelledBy,
    NewPairs,
    NoSFT,
    RayAddress,
    Root,
    TrustRemoteCode,
    given_policies,
    named,
)
from .tune import tune
from .watch import watch

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Compare alignment methods from one SFT checkpoint on one preference set.",
    epilog="Examples:  bench run --method ppo,dpo   |   bench run -m ppo,dpo,orpo --seeds 3 --json   |   bench list",
)
INTERRUPTED = 130


def _version(asked: bool) -> None:
    if asked:
        print(f"alignment-bench {version('alignment-bench')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def bench(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options that stand before a command."""


@app.command()
def run(
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="Methods by comma, each NAME or NAME:FIELD=VALUE:...; see `bench list`.",
            autocompletion=cli_show.complete_methods,
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL", help="A policy trained elsewhere as a further row: hub id or folder; may be repeated."
        ),
    ] = None,
    benchmark: Annotated[
        str,
        typer.Option(
            "--benchmark",
            "-b",
            help="A shipped benchmark or a YAML file.",
            autocompletion=cli_show.complete_benchmark,
        ),
    ] = "quick",
    size: Annotated[
        str | None, typer.Option(help="A size of the benchmark: smoke, small or full of hh; see `bench list hh`.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Training runs per method, seeds 0, 1, ...", min=1)] = 1,
    model: Annotated[str | None, typer.Option(help="Base model: hub id or local folder.")] = None,
    preferences: Annotated[
        str | None, typer.Option(help="Preference pairs: hub id, local folder or file (JSONL, JSON, Parquet, CSV).")
    ] = None,
    columns: Columns = None,
    no_sft: NoSFT = False,
    reward_model: Annotated[
        str | None, typer.Option(help="Evaluate with this reward model: a sequence classifier, hub id or folder.")
    ] = None,
    external_pairs: Annotated[
        str | None, typer.Option(help="Test the reward models on these labelled pairs too; none is trained on.")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Judge as well: a local causal LM (folder or hub id) or openai:MODEL; repeat for a panel."),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of the judge; the key comes from OPENAI_API_KEY.")
    ] = None,
    judge_until_decided: Annotated[
        bool, typer.Option("--judge-until-decided", help="Stop judging a policy once it is decided against SFT.")
    ] = False,
    judge_limit: Annotated[int | None, typer.Option(help="Judge at most this many prompts.", min=1)] = None,
    judge_pairs: Annotated[
        int | None, typer.Option(help="Judge rows against each other on this many prompts a pair; 0 for none.", min=0)
    ] = None,
    judge_price: Annotated[
        str | None, typer.Option(help="The endpoint's price, dollars per million tokens: IN,OUT.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the benchmark, dotted: methods.dpo.beta=0.05."),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=V1,V2,...", help="A study along a field: dpo.beta, labels.flip, budget; repeat to cross."
        ),
    ] = None,
    continue_from: ContinueFrom = None,
    labeller: LabelledBy = "simulated",
    new_pairs: NewPairs = None,
    tracker: Annotated[
        str | None, typer.Option(help="Also send logs and scores to: tensorboard, wandb, trackio or mlflow.")
    ] = None,
    device: Device = "auto",
    gate: Gate = "warn",
    engine: Engine = "local",
    ray_address: RayAddress = None,
    cell_cpus: CellCpus = 1,
    cell_gpus: CellGpus = 1,
    at_once: AtOnce = None,
    cell_timeout: CellTimeout = None,
    checkpoint_every: CheckpointEvery = None,
    trust_remote_code: TrustRemoteCode = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another process makes the same run.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of this run; by default one of its own below ROOT/runs.")
    ] = None,
    root: Root = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the plan: what is on disk, and what the rest may take.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json (or the plan) alone on stdout.")] = False,
) -> None:
    """Train methods from the same SFT checkpoint, score them, and write a report.

    Example: bench run --method ppo,dpo,orpo --seeds 3
    """
    from ...preferences.columns import parse_columns
    from ..definition.options import Options, chosen_spec
    from ..definition.plugins import check_methods
    from ..request import ENGINES, GATES

    device = launch.start(device)
    names = named(method) if method is not None else ()
    checked_gate, checked_engine = one_of("--gate", gate, GATES), one_of("--engine", engine, ENGINES)
    options = Options(
        model=model,
        preferences=preferences,
        columns=parse_columns(columns),
        no_sft=no_sft,
        external_pairs=external_pairs,
        reward_model=reward_model,
        judge=judge or (),
        judge_url=judge_url,
        judge_until_decided=judge_until_decided,
        judge_limit=judge_limit,
        judge_pairs=judge_pairs,
        judge_price=read_price(judge_price),
        policies=given_policies(policy or ()),
        tracker=tracker,
        size=size,
        settings=settings or (),
    )
    spec = chosen_spec(benchmark, names, options)
    check_methods(names)
    if size:
        from ..definition.sizes import sentence

        rows = len({name.partition(":")[0] for name in names} | set(spec.policies))
        print(sentence(spec, size, seeds, rows), file=sys.stderr)
    quiet()

    from .. import harness

    request = harness.Request(
        spec,
        names,
        seeds,
        root,
        out,
        device,
        checked_gate,
        engine=checked_engine,
        ray_address=ray_address,
        cell_cpus=cell_cpus,
        cell_gpus=cell_gpus,
        at_once=at_once,
        cell_timeout=cell_timeout,
        checkpoint_every=checkpoint_every,
        wait=wait,
        trust_remote_code=trust_remote_code,
    )
    if vary:
        from ..studies.axes import varied

        if out:
            raise InputError("--out is the folder of one run, and --vary makes several; leave it out")
        if continue_from:
            raise InputError("--vary makes runs that begin, and --continue-from goes on with one; give one of the two")
        carry_out(varied(spec, names, seeds, vary), request, dry_run, as_json)
        return
    if continue_from:
        carry_on(request, continue_from, labeller, new_pairs, dry_run, as_json)
        return
    if new_pairs:
        raise InputError("--new-pairs goes with --continue-from RUN")
    if dry_run:
        print_plan(request, as_json)
        return
    with watching() as watcher:
        outcome = harness.run(replace(request, say=watcher.say, watch=watcher.watch))
    if as_json:
        print(json.dumps(outcome.summary, indent=2))
    else:
        print()
        cli_show.print_summary(outcome.run, outcome.summary)
    if outcome.failures:
        raise typer.Exit(1)


app.command()(tune)
app.command()(export)
app.command()(watch)
app.command()(site)
app.command("audit-judge")(audit_judge)
app.command("audit-reward")(audit_reward)


@app.command()
@cli_show.reads_runs
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or studies, or a folder that holds some.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default into each run's folder.")] = None,
    formats: Annotated[
        str, typer.Option("--format", help="By comma: html, md, latex, csv, parquet, json, svg, pdf; or all.")
    ] = "html,md",
) -> None:
    """Write the report of runs from what is on disk; trains nothing. Several runs get an overview of what differs.

    Example: bench report results/runs/quick --out report --format html,latex,pdf
    """
    from ...reports.render import FORMATS, render, render_study
    from ...reports.tuning import find_tunings, render_tuning
    from ...results.integrity import read_record
    from ...results.run_folder import STUDY, find_runs

    chosen = FORMATS if formats == "all" else tuple(name.strip() for name in formats.split(",") if name.strip())
    studies = [folder for folder in runs if (folder / STUDY).is_file()]
    tunings, found = [tuning for folder in runs for tuning in find_tunings(folder)], []
    for folder in (folder for folder in runs if folder not in studies):
        with suppress(InputError) if find_tunings(folder) else nullcontext():  # a tuning's folder may hold no run
            found += find_runs(folder)
    unfinished = {run.path: cli_show.so_far(run) for run in found if not run.is_finished}
    written = render(found, out, chosen, unfinished) if found else []
    alone = not found and len(studies) + len(tunings) == 1
    for folder in (*studies, *tunings):
        place = out / folder.name if out and not alone else out
        if folder in studies:
            written += render_study(folder, read_record(folder / STUDY), place, chosen)
        else:
            written += render_tuning(folder, place, chosen)
    for path in dict.fromkeys(p.parent if p.parent.name in ("figures", "tables") else p for p in written):
        print(path)


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="A method; see `bench list`.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A hyperparameter, FIELD=VALUE; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training and of the sampled comparisons.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON alone on stdout.")] = False,
) -> None:
    """Test a method on a world whose optimum is known, and whether it keeps the interface's promises.

    Example: bench check dpo
    """
    from ..definition.plugins import check_methods, parse_setting

    overrides = dict(parse_setting(setting) for setting in settings or [])
    check_methods((method,))
    quiet()

    from ...errors import TrainingError
    from ..selfcheck.check import check as run_check

    try:
        found = run_check(method, overrides, seed, say=lambda line: print(line, file=sys.stderr))
    except TrainingError as error:
        _end(f"{method}: {error}", 1)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print("\n".join(found.lines()))
    if not found.passed:
        raise typer.Exit(1)


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method, as in --method, or of the evaluator.")],
    kind: Annotated[
        Literal["pairwise", "online", "evaluator"],
        typer.Option(help="What it starts as: DPO, which learns from pairs; REINFORCE, which samples; an evaluator."),
    ] = "pairwise",
    parent: Annotated[Path, typer.Option(help="Folder in which the package is made.")] = Path("."),
) -> None:
    """Write a small installable package for a method or evaluator of your own: code, test, entry point, README.

    Example: bench new-method my_dpo
    """
    from .scaffold import new_method as write

    files = write(name, parent, kind)
    print("\n".join(map(str, files)))
    then = "pytest" if kind == "evaluator" else f"bench check {name}"
    print(f"next: pip install -e {files[0].parent}, then {then}")


app.command("audit-data")(audit_data)
app.command()(plan)
app.command()(power)
app.command()(speed)
app.command()(study)


cli_show.register(app)
app.command()(doctor)
app.add_typer(cache, name="cache")
cli_preferences.register(app)


def _end(message: str, code: int) -> NoReturn:
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's end takes a moment, and once more changes nothing
    print(f"bench: {message}", file=sys.stderr)
    sys.exit(code)


def main() -> NoReturn:
    """Run the command: exit code 0 ok, 1 a cell or gate failed, 2 bad input, 130 interrupted."""
    with streams():
        _main()


def _main() -> NoReturn:
    try:
        with hearing():
            code = app(prog_name="bench", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain at its end
        sys.exit(1)
    except InputError as error:
        _end(str(error), 2)
    except Stopped as stopped:
        _end(str(stopped), INTERRUPTED)
    except GateError as error:
        _end(str(error), 1)
    except MemoryError:
        _end("the memory is full; give fewer rows or a smaller model, or a machine that has more", 2)
    except OSError as error:
        if error.errno not in DISK:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = error.filename or "no room for a file"
            _end(f"the disk is full ({what}); make room, and give the command again", 2)
        _end(f"{error.filename or 'a file'}: {error.strerror}; fix that, and give the command again", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's own have it: an unknown option, a missing argument
            raise
        if said := error.format_message().rstrip("."):
            context = getattr(error, "ctx", None)
            where = " ".join(sys.argv[1:2]) if context and context.parent else ""
            _end(f"{said}; see bench {where} --help".replace("  ", " "), 2)
        sys.exit(2)  # no arguments: the help was shown
    if code == INTERRUPTED:  # Typer's, for Ctrl-C
        _end("interrupted; finished stages are kept, the same command goes on from there", INTERRUPTED)
    sys.exit(code or 0)
