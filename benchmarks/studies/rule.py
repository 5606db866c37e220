"""The rule of a tuning: whether a benchmark can be tuned by it, and the benchmark as its trials see it."""

from collections.abc import Sequence

from ...analysis.selection import CRITERIA, LEARNT, OF_THE_BENCHMARK, SCORERS
from ...errors import InputError
from ...evaluators.base import traits_of
from ..definition.plugins import load
from ..definition.spec import LAST, BenchmarkSpec
from ..stages.along import DISTANCE
from ..stages.pipeline import SELECTION


def check_rule(spec: BenchmarkSpec) -> None:
    """InputError for a rule that misleads and is not forced, and for what the benchmark lacks to be tuned by it."""
    rule = spec.select
    missing = [name for name in (SELECTION.scorer, SELECTION.prompts) if name not in spec.splits.shares]
    if missing:
        raise InputError(
            f"{spec.place('splits')}: benchmark {spec.name} has nothing to tune on, for its splits give "
            f"{' and '.join(missing)} no share; give for example --set splits.selection=0.2 --set splits.tuning=0.1"
        )
    if rule.by in LEARNT and rule.limit is None and not rule.force:
        raise InputError(
            f"{spec.place('select')}: select: by {rule.by} alone picks the trial that over-optimizes it most; give "
            f"at_most_kl a number of nats, or force: true"
        )
    for criterion in criteria(spec):
        if criterion in OF_THE_BENCHMARK and SCORERS[criterion] not in spec.evaluators:
            raise InputError(
                f"{spec.place('select')}: select goes by {criterion}, and benchmark {spec.name} has no evaluator "
                f"{SCORERS[criterion]}; add it under evaluators, or go by selection_reward_model"
            )


def criteria(spec: BenchmarkSpec) -> list[str]:
    """The scorers that are asked of the trials, in the order of `CRITERIA`: the rule's, those beside it, and the
    selection reward model, which is there in any case."""
    wanted = {next(iter(CRITERIA)), spec.select.by, *spec.select.beside}
    return [name for name in CRITERIA if name in wanted]


def trial_spec(spec: BenchmarkSpec, asked: Sequence[str]) -> BenchmarkSpec:
    """The benchmark with the scorers of its trials alone: no reward model of the user's, for that one evaluates."""
    evaluators = {}
    for name in [*(SCORERS[criterion] for criterion in asked), DISTANCE]:
        settings = spec.evaluators.get(name, {})
        own = traits_of(load("evaluators", name)).needs_reward_model
        evaluators[name] = {k: v for k, v in settings.items() if not (own and k == "model")}
    along = spec.evaluation.along if spec.evaluation.checkpoint.by != LAST else 0
    evaluation = spec.evaluation.model_copy(update={"along": along})
    return spec.model_copy(update={"evaluators": evaluators, "evaluation": evaluation, "tracker": None})
