"""The options of a run beside its methods: a benchmark's fields, its reward model and its judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError
from .spec import BenchmarkSpec, load_spec

LEVEL = 0.05  # of the verdict that --judge-until-decided must allow
REWARD_MODEL, JUDGE = "reward_model", "judge"  # the evaluators whose settings these options write


def option_of(evaluator: str) -> str:
    """The source of an evaluator's model, for errors: an option of the command line, or a field of the YAML."""
    known = {REWARD_MODEL: "--reward-model", JUDGE: "--judge"}
    return known.get(evaluator, f"evaluators.{evaluator}.model")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Overrides of a benchmark's file, by the names of `bench run`'s options."""

    model: str | None = None
    """Base model: hub id or local folder."""
    preferences: str | None = None
    """Preference pairs: hub id, local folder or file."""
    columns: Mapping[str, str] | None = None
    """Names of the preferences' columns by ours, {"prompt": "question"}."""
    no_sft: bool = False
    """Train no SFT: every method starts from the model as it is."""
    external_pairs: str | None = None
    """Labelled pairs on which the reward models are tested as well."""
    reward_model: str | None = None
    """Evaluate with this reward model."""
    judge: Sequence[str] = ()
    """Local causal LMs or openai:MODEL; several are a panel."""
    judge_url: str | None = None
    """OpenAI-compatible endpoint of the judge."""
    judge_until_decided: bool = False
    """Stop judging a policy once it is decided against SFT."""
    judge_limit: int | None = None
    """Judge at most this many prompts."""
    judge_pairs: int | None = None
    """Prompts on which a judge compares every two rows directly; 0 compares with SFT alone."""
    judge_price: tuple[float, float] | None = None
    """Dollars per million tokens in and out."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """Policies that were trained elsewhere, as further rows: by name a hub id or local folder."""
    tracker: str | None = None
    """tensorboard, wandb, trackio or mlflow."""
    size: str | None = None
    """A size that the benchmark's file names, such as smoke, small or full; settings go over it."""
    settings: Sequence[str] = ()
    """FIELD=VALUE, the field dotted: methods.dpo.beta=0.05."""


def chosen_spec(benchmark: str, methods: Sequence[str], options: Options) -> BenchmarkSpec:
    """A benchmark by name or path with the options over it. InputError for an option that lacks what it goes with."""
    if options.judge_url and not any(name.startswith("openai:") for name in options.judge):
        raise InputError("--judge-url goes with --judge openai:MODEL")
    top = {name: getattr(options, name) for name in ("model", "preferences", "external_pairs", "tracker")}
    top["columns"] = dict(options.columns) if options.columns else None
    spec = load_spec(benchmark, top, options.settings, options.size)
    if options.no_sft:
        spec = spec.with_fields({"sft": None}, "--no-sft")
    if options.policies:
        spec = spec.with_fields({"policies": dict(options.policies)}, "--policy")
    if not methods and not spec.policies:
        raise InputError(
            "nothing to compare: give methods with --method ppo,dpo, or policies with --policy NAME=FOLDER"
        )
    if options.reward_model:
        spec = _evaluator(spec, REWARD_MODEL, model=options.reward_model)
    if options.judge:
        kept = {k: v for k, v in spec.evaluators.get(JUDGE, {}).items() if k not in ("model", "url", "prompt")}
        url = {"url": options.judge_url} if options.judge_url else {}
        judge = kept | {"model": tuple(options.judge)} | url
        spec = spec.model_copy(update={"evaluators": {**spec.evaluators, JUDGE: judge}})
    given = {"limit": options.judge_limit, "price": options.judge_price, "versus": options.judge_pairs}
    if given := {name: value for name, value in given.items() if value is not None}:
        if JUDGE not in spec.evaluators:
            raise InputError("--judge-limit, --judge-pairs and --judge-price go with a judge; give --judge")
        spec = _evaluator(spec, JUDGE, **given)
    if options.judge_until_decided:
        if JUDGE not in spec.evaluators:
            raise InputError(f"--judge-until-decided needs a judge, and {spec.name} has none; give one with --judge")
        # the level of the strictest comparison after correction for as many methods, so that "decided" is a verdict
        spec = _evaluator(spec, JUDGE, until_decided=LEVEL / (len(methods) + len(spec.policies)))
    return spec


def _evaluator(spec: BenchmarkSpec, name: str, **settings: Any) -> BenchmarkSpec:
    changed = {**spec.evaluators.get(name, {}), **settings}
    return spec.model_copy(update={"evaluators": {**spec.evaluators, name: changed}})
