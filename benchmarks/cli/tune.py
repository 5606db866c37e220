"""`bench tune`: every method at its best under an equal number of trials."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import one_of
from .live import watching
from .plan import how_long
from .show import complete_benchmark, complete_methods, print_summary
from .terminal import console, table
from .training import (
    AtOnce,
    CellCpus,
    CellGpus,
    CellTimeout,
    CheckpointEvery,
    Columns,
    Device,
    Engine,
    Gate,
    NoSFT,
    RayAddress,
    Root,
    TrustRemoteCode,
    named,
)

if TYPE_CHECKING:
    from ..studies.tune import Tuned, Tuning


def tune(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="Methods by comma: NAME or NAME:FIELD=VALUE:...",
            autocompletion=complete_methods,
        ),
    ],
    benchmark: Annotated[
        str,
        typer.Option(
            "--benchmark", "-b", help="A shipped benchmark or a YAML file.", autocompletion=complete_benchmark
        ),
    ] = "quick",
    trials: Annotated[int, typer.Option(help="Trials of each method, 2 or more.")] = 12,
    tune_flops: Annotated[
        float | None, typer.Option(help="Training FLOPs of each method's trials, in place of their number.", min=0)
    ] = None,
    optimizer: Annotated[str, typer.Option(help="halton (quasi-random) or tpe.")] = "halton",
    halving: Annotated[
        bool,
        typer.Option("--halving", help="Begin trials with a part of the budget; misleads where they over-optimize."),
    ] = False,
    search_seed: Annotated[int, typer.Option(help="Seed of the search.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(help="Fresh training runs of each winner, seeds 0, 1, ...", min=1)] = 3,
    shared: Annotated[
        bool, typer.Option("--shared", help="Train the benchmark's own settings with the winners' seeds as well.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Base model: hub id or local folder.")] = None,
    preferences: Annotated[str | None, typer.Option(help="Preference pairs: hub id, local folder or file.")] = None,
    columns: Columns = None,
    no_sft: NoSFT = False,
    reward_model: Annotated[
        str | None, typer.Option(help="Evaluate the winners with this reward model; no trial sees it.")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="Judge the winners: a local causal LM or openai:MODEL; repeat for a panel.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the benchmark, dotted: select.at_most_kl=2."),
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
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; by default one of its own below ROOT/studies.")
    ] = None,
    root: Root = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan and what it may take.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print tune.json alone on stdout.")] = False,
) -> None:
    """Give every method the same number of trials, pick by a rule fixed before, and compare the winners.

    Trials answer prompts of their own and are scored by a reward model of their own. Example: bench tune -m ppo,dpo
    """
    from ...preferences.columns import parse_columns
    from ...runtime import launch
    from ...runtime.quiet import quiet
    from ..definition.options import Options, chosen_spec
    from ..definition.plugins import check_methods
    from ..request import ENGINES, GATES

    device = launch.start(device)
    names = named(method)
    checked_gate, checked_engine = one_of("--gate", gate, GATES), one_of("--engine", engine, ENGINES)
    options = Options(
        model=model,
        preferences=preferences,
        columns=parse_columns(columns),
        no_sft=no_sft,
        reward_model=reward_model,
        judge=judge or (),
        judge_url=judge_url,
        settings=settings or (),
    )
    spec = chosen_spec(benchmark, names, options)
    check_methods(names)
    quiet()

    from ..request import Request
    from ..studies.search import OPTIMIZERS
    from ..studies.tune import Tuning
    from ..studies.tune import tune as run

    request = Request(
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
        trust_remote_code=trust_remote_code,
    )
    tuning = Tuning(
        request,
        trials,
        one_of("--optimizer", optimizer, OPTIMIZERS),
        search_seed,
        tune_flops,
        halving=halving,
        shared=shared,
    )
    to = console(stderr=not dry_run)
    for line in plan_lines(tuning):
        to.print(line, soft_wrap=True)
    if dry_run:
        return
    with watching() as watcher:
        request = replace(request, say=watcher.say, watch=watcher.watch)
        found = run(replace(tuning, request=request))
    if as_json:
        print(json.dumps(found.record, indent=2))
    else:
        print()
        _print(found)
        print_summary(found.outcome.run, found.outcome.summary)
    if found.outcome.failures:
        raise typer.Exit(1)


def plan_lines(tuning: "Tuning") -> list[str]:
    """What is going to be tried, by which rule, and what it may take."""
    from ...analysis.tuning import rule_in_words
    from ..plan import plan

    spec = tuning.request.spec
    each = f"{tuning.trials} trials each" if tuning.flops is None else f"{tuning.flops:g} training FLOPs each"
    seeds = f"{tuning.request.seeds} fresh seed{'s' * (tuning.request.seeds != 1)}"
    lines = [
        f"{spec.name}: {each} ({tuning.optimizer}) and the benchmark's own settings; picked by "
        f"{rule_in_words(tuning.rule)}; then {seeds} of each winner"
    ]
    for space in tuning.spaces:
        ranges = (f"{field} {r.low:.3g} to {r.high:.3g} ({r.scale})" for field, r in space.ranges.items())
        lines.append(f"  {space.row.label}: {', '.join(ranges)}")
    if tuning.halving:
        budgets = ", ".join(f"{budget:,}" for budget in tuning.budgets)
        lines.append(
            f"  successive halving over budgets of {budgets}: where training on makes a method worse, settings that "
            f"are good early are bad late, so fewer trials at the full budget are the safer way to spend as much"
        )
    own = {space.row.label: space.shared for space in tuning.spaces}
    trials, winners = tuning.trial_request(tuning.first(), tuning.budgets[0]), tuning.winners_request(own, None)
    both = [plan(trials), plan(winners, further=True)]
    for name, found in zip(("trials", "winners"), both, strict=True):
        long = how_long(found.seconds[0], found.to_do)
        lines.append(f"{name}: {len(found.to_do)} of {len(found.steps)} stages to do, {long}")
        lines += [f"judge: {found.judging}; verdicts on disk are not paid for again"] if found.judging else []
    return lines


def _print(found: "Tuned") -> None:
    """Each method's pick beside the benchmark's own settings, and what every scorer would have picked."""
    to = console()
    record = found.record
    asked = record["contract"]["criteria"]
    heads = ("method", "", "settings", "KL", *asked)
    rows: list[list[str]] = []
    for label, row in record["methods"].items():
        by_number = {trial["number"]: trial for trial in row["trials"]}
        rows.append([label, "own", *_cells(row["shared"], asked)])
        picks: dict[int, list[str]] = {}
        if row["picked"] is not None:
            picks[row["picked"]] = ["picked"]
        for criterion, numbers in row["picks"].items():
            for number, how in ((numbers["alone"], "alone"), (numbers["within"], "within the limit")):
                if number is not None:
                    picks.setdefault(number, []).append(f"{criterion} {how}")
        rows += [["", ", ".join(who), *_cells(by_number[number], asked)] for number, who in picks.items()]
    to.print(table(heads, rows, title=f"{record['benchmark']}: the picks, on the tuning prompts", right=heads[3:]))
    for label, row in record["methods"].items():
        for said in row["warnings"]:
            to.print(f"{label}: {said}", soft_wrap=True)
    to.print(f"study: {found.folder / 'report' / 'index.html'}", soft_wrap=True)


def _cells(trial: dict[str, Any], asked: list[str]) -> list[str]:
    settings = ", ".join(f"{field} {value:g}" for field, value in trial["settings"].items())
    kl = "–" if trial["kl"] is None else f"{trial['kl']:.2f}"
    scores = [trial["scores"].get(name) for name in asked]
    return [settings, kl, *("–" if score is None else f"{100 * score:.1f}%" for score in scores)]
