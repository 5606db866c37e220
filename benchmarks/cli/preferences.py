"""The commands that make preference data: collect, label, convert."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from ...errors import InputError, nearest, one_of
from .training import Columns, Device


def register(app: typer.Typer) -> None:
    """Add the commands to the `bench` command."""
    for command in (collect, label, convert):
        app.command()(command)


def collect(
    out: Annotated[Path, typer.Option("--out", help="Folder of the collection; the same again goes on with it.")],
    model: Annotated[
        str | None, typer.Option(help="SFT model or adapter: local folder or hub id; by default the benchmark's SFT.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Rows with a field `prompt`: file, folder or hub id; by default the benchmark's.")
    ] = None,
    columns: Columns = None,
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="Where model or prompts come from.")] = "quick",
    k: Annotated[int, typer.Option("-k", help="Candidates per prompt, 2 or more.")] = 4,
    temperature: Annotated[str, typer.Option(help="Temperatures above 0, by comma, used in turn.")] = "1.0",
    top_p: Annotated[float, typer.Option(help="Nucleus sampling: above 0 up to 1; 1 samples purely.")] = 1.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest response in tokens; by default the benchmark's, else 256.", min=1)
    ] = None,
    rule: Annotated[
        str, typer.Option(help="Pairs: all, random, most_different, best_random (by a reward).")
    ] = "random",
    reward_model: Annotated[
        str | None, typer.Option(help="Reward of --rule best_random and --margin: folder of a reward model.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="The same as a function, package.module:function.")] = None,
    margin: Annotated[float, typer.Option(help="Least difference of a pair's rewards, from 0 on; 0 keeps all.")] = 0.0,
    stop: Annotated[
        str, typer.Option(help="End of a response: eos (the model's own), or sentence (the first one's, if before).")
    ] = "eos",
    drop_unfinished: Annotated[
        bool, typer.Option("--drop-unfinished", help="Drop responses that did not end, and count them.")
    ] = False,
    template: Annotated[
        str, typer.Option(help="Prompts of --model: chat (its template), or text (bare, for a base model).")
    ] = "chat",
    limit: Annotated[int | None, typer.Option(help="Only this many prompts, the first ones.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling and of the pairs.")] = 0,
    sampler: Annotated[str, typer.Option(help="Sampler of the responses: torch (this package) or vllm.")] = "torch",
    device: Device = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model; never run without this.")
    ] = False,
    root: Annotated[Path, typer.Option("--root", help="Folder of the benchmark's cache.")] = Path("results"),
) -> None:
    """Sample responses from an SFT model and form the pairs that are to be labelled.

    Example: bench collect --model my-sft --prompts prompts.jsonl -k 4 --temperature 0.7,1.0 --out collected
    """
    from ...runtime.quiet import quiet

    quiet()
    from ...evaluators.reward_function import reward_of
    from ...models.chat import Template
    from ...models.find import find_model
    from ...models.model_files import allow_remote_code
    from ...models.policy import Policy
    from ...models.reward_model import RewardModel
    from ...models.trial import try_model
    from ...models.tuning import Tuning
    from ...preferences.collect import Sampling, read_prompts
    from ...preferences.collect import collect as run
    from ...results.integrity import digest
    from ...results.records import Reward
    from .. import harness
    from ..context import function_code
    from ..definition.spec import load_spec

    allow_remote_code(trust_remote_code)
    # checked before SFT trains
    ending = {"stop": cast(Any, stop), "drop_unfinished": drop_unfinished, "margin": margin}
    settings = Sampling(k, _numbers(temperature), top_p, max_new_tokens or 256, seed, cast(Any, rule), **ending)
    one_of("--template", template, get_args(Template))
    if template != "chat" and not model:
        raise InputError(f"--template {template} is for --model, and the benchmark's SFT has its own; give --model")
    if sampler == "vllm":
        from ...models.sampler_vllm import check_temperatures

        check_temperatures({"--temperature": min(settings.temperatures)})
    if reward and reward_model:
        raise InputError("--reward and --reward-model are both the reward; give one of the two")
    settings.check_reward(bool(reward or reward_model))
    by_function = reward_of(reward, "--reward") if reward else None
    scorer = find_model(reward_model, "--reward-model") if reward_model else None
    checkpoint = find_model(model, "--model", cast(Any, template)) if model else None
    width = (checkpoint or find_model(load_spec(benchmark).model, "--model")).width
    tuning = Tuning(device=device, sampler=cast(Any, sampler)).resolve(width)  # which checks it
    if checkpoint:
        try_model(checkpoint, tuning, f"--model {model}", trainable=False)
    rows, dropped = read_prompts(prompts) if prompts else ([], {})
    name, source = model, prompts
    if not (model and prompts):
        spec = load_spec(benchmark)
        made = harness.Harness(harness.Request(spec, (), 1, root, device=device, trust_remote_code=trust_remote_code))
        if not prompts:
            training = made.corpus.prompts(made.corpus.training, spec.max_response_tokens)
            rows = [(prompt.messages, spec.preferences) for prompt in training.prompts]
            source = f"{spec.name}: prompts of the training pairs"
        if not model:
            name, checkpoint = f"{spec.name}-sft" if spec.sft else spec.model, made.make_sft()
        if max_new_tokens is None:
            settings = replace(settings, max_new_tokens=spec.max_response_tokens)
    assert name and checkpoint  # given, or the benchmark's
    rows = rows[:limit]
    about = {
        "model": name,
        "model_hash": checkpoint.key,
        "prompts": source,
        "prompts_hash": digest([list(messages) for messages, _ in rows]),
        "prompts_dropped": dropped,
        "reward_model_hash": scorer.key if scorer else None,
        **({"reward": [reward, function_code(reward)]} if reward else {}),
        "sampler": sampler,
    }

    def open_reward() -> Reward:
        if by_function:
            return by_function
        assert scorer  # the one or the other is given
        return RewardModel.open(scorer.path, tuning)

    counts = run(
        Policy.open(checkpoint, tuning, trainable=False),
        f"{Path(name).name}@{checkpoint.key[:12]}",
        rows,
        settings,
        out,
        about,
        open_reward if scorer or reward else None,
    )
    print(", ".join(f"{what}: {number}" for what, number in counts.items() if number))
    print(f"next: bench label {out}")


def label(
    directory: Annotated[
        Path, typer.Argument(help="A folder that `bench collect` wrote; or a run, whose responses people compare.")
    ],
    labeller: Annotated[str, typer.Option(help="people, simulated, reward_model or judge.")] = "people",
    name: Annotated[
        list[str] | None, typer.Option(help="Name of a labeller; several people: give it several times.")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="People: labels per item, by different people; by default 1, of a run 2.", min=1),
    ] = None,
    overlap_share: Annotated[
        float | None,
        typer.Option(help="People: share of the items with so many labels; by default 1, of a run 0.2.", min=0, max=1),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Run: how many pairs to label; by default 200, or all.", min=1)
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Run: rows to compare, by comma; by default all.")
    ] = None,
    host: Annotated[str, typer.Option(help="People: address to serve on; beyond this machine with --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="People: port to serve on.", min=0, max=65535)] = 8000,
    token: Annotated[str | None, typer.Option(help="People: what the page asks for on other addresses.")] = None,
    reward: Annotated[str | None, typer.Option(help="Simulated: the true reward, as package.module:function.")] = None,
    sharpness: Annotated[float, typer.Option(help="Simulated: larger is less noise, above 0.")] = 4.0,
    bias: Annotated[
        list[str] | None,
        typer.Option(help="Simulated: length, position, politeness or inattention, NAME=VALUE; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Simulated: seed of the person; run: of the pairs' order and sides.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Folder of the reward model; judge: folder, hub id or openai:MODEL.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="Judge: OpenAI-compatible endpoint.")] = None,
    judge_prompt: Annotated[str, typer.Option(help="Judge: file of evaluators/prompts with the question.")] = (
        "pairwise"
    ),
    device: Device = "auto",
) -> None:
    """Label the pairs of a collection: people in a browser, or a simulation, a reward model or a judge.

    Of a run, people compare its responses with SFT's and with each other, blind, and its summary and report take their
    labels in: win_rate.people, and with a scorer corrected by them where that is more precise.

    Example: bench label collected --labeller simulated --reward package.module:function --name ann --bias length=0.1
    """
    from ...preferences.labels import ITEMS, check_name

    kinds = ("people", "simulated", "reward_model", "judge")
    if labeller not in kinds:
        raise InputError(f"--labeller {labeller} is not known; {nearest(labeller, kinds)}")
    names = [check_name(given) for given in name or []]
    is_run = not (directory / ITEMS).exists() and any(directory.glob("**/run.json"))
    if (pairs or method) and not is_run:
        raise InputError(f"--pairs and --method choose among a run's pairs, and {directory} is no run; omit them")
    if is_run and labeller != "people":
        raise InputError(f"{directory} is a run, whose pairs people label; omit --labeller {labeller}")
    if labeller == "people":
        from ...preferences.serve import serve

        page = partial(serve, names=names, host=host, port=port, token=token)
        if is_run:
            share = 0.2 if overlap_share is None else overlap_share
            page = partial(page, overlap=overlap or (1 if len(names) == 1 else 2), overlap_share=share)
            _label_run(directory, page, pairs, _listed(method), seed)
        else:
            page(directory, overlap=overlap or 1, overlap_share=1.0 if overlap_share is None else overlap_share)
        return
    if len(names) > 1:
        raise InputError(f"--labeller {labeller} labels under one --name; give the command once for each")
    if labeller != "simulated" and not model:
        raise InputError(f"--labeller {labeller} needs a model; give it with --model")
    _check_biases(bias or [], labeller)
    from ...runtime.quiet import quiet

    quiet()
    from ...evaluators.judge import OPENAI, Judge
    from ...models.find import find_model
    from ...models.tuning import Tuning
    from ...preferences.labellers import JudgeLabeller, Labeller, RewardModelLabeller, SimulatedPerson, label_all

    who = names[0] if names else labeller
    worker: Labeller
    named = model or ""  # given where it is needed
    if labeller == "simulated":
        if not reward:
            raise InputError("--labeller simulated needs the true reward; give --reward package.module:function")
        worker = SimulatedPerson(who, reward, sharpness, seed=seed, **_biases(bias or []))
    elif labeller == "reward_model":
        found = find_model(named, "--model")
        worker = RewardModelLabeller(who, str(found.path), Tuning(device=device).resolve(found.width))
    else:
        if not named.startswith(OPENAI):
            named = str(find_model(named, "--model").path)
        worker = JudgeLabeller(who, Judge(named, judge_url, judge_prompt, device=device))
    answers = label_all(directory, worker, who)
    print(f"{who}: " + ", ".join(f"{answer} {number}" for answer, number in answers.most_common()))
    print(f"next: bench run --method dpo --preferences {directory / 'labels'}")


def convert(
    source: Annotated[str, typer.Argument(help="File, folder or hub id, in any shape listed above.")],
    out: Annotated[str, typer.Argument(help="File (.jsonl, .json, .csv, .parquet), new folder, or hub:OWNER/NAME.")],
    to: Annotated[str | None, typer.Option("--to", help="Shape of the rows; by default pairs, for a CSV text.")] = None,
    split: Annotated[str, typer.Option(help="Split of a hub data set or folder, read and pushed.")] = "train",
    public: Annotated[bool, typer.Option("--public", help="Make a pushed data set public.")] = False,
    columns: Columns = None,
) -> None:
    """Convert preferences to another shape and format; what does not fit is counted.

    Shapes: pairs (prompt, chosen, rejected as messages); implicit (chosen and rejected with the prompt in them); text
    (prompt, chosen, rejected as text); hh (transcripts); unpaired (prompt, completion, label: true or false);
    ties (prompt, response_a, response_b, label: a, b or tie); alpacaeval (instruction, output_1, output_2,
    preference); scored (prompt, completions with response and overall_score). The source's shape is seen in its rows;
    Nectar's, HelpSteer's, ShareGPT's and LLaMA-Factory's are read too. A tie is no pair, and is counted.

    Example: bench convert collected/labels pairs.parquet
    """
    from ...preferences.columns import parse_columns
    from ...preferences.export import convert as run

    done = run(source, out, to, split=split, private=not public, columns=parse_columns(columns))
    print(f"{done.read} rows read, {done.comparisons} comparisons in them, {done.written} rows written to {out}")
    for reason, number in done.dropped.items():
        print(f"dropped: {number} ({reason})")


def _label_run(directory: Path, page: Callable[[Path], None], pairs: int | None, rows: list[str], seed: int) -> None:
    """Serve a run's pairs until that is stopped, then take the labels into its summary and report."""
    from ...preferences.run_pairs import plan
    from ...results.run_folder import find_run
    from ..summing_up import take_in_labels

    run = find_run(directory, finished=True)
    page(plan(run, pairs=pairs, methods=rows, seed=seed))
    if people := take_in_labels(run)["people"]:
        print(f"{people['labels']} labels of {people['pairs']} pairs are in {run.report_path / 'index.html'}")


def _listed(text: str | None) -> list[str]:
    return [name for part in (text or "").split(",") if (name := part.strip())]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--temperature {text} is not a list of numbers; give for example 0.7,1.0") from None


def _check_biases(given: list[str], labeller: str) -> None:
    if given and labeller != "simulated":
        raise InputError(f"--bias goes with --labeller simulated, not with {labeller}")
    _biases(given)


def _biases(given: list[str]) -> dict[str, float]:
    known = ("length", "position", "politeness", "inattention")
    found = {}
    for setting in given:
        name, _, value = setting.partition("=")
        if name not in known:
            raise InputError(f"--bias {setting}: there is no bias {name!r}; {nearest(name, known)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--bias {setting}: give {name}=NUMBER, for example {name}=0.1") from None
    return found
