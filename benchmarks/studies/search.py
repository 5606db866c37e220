"""The settings that tuning tries: a method's search space, and the optimizer that goes through it."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...errors import InputError, nearest
from ...results.records import Range
from ..context import settings_of
from ..definition.rows import Row, method_row
from ..definition.spec import BenchmarkSpec

if TYPE_CHECKING:
    import optuna

Optimizer = Literal["halton", "tpe"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
Settings = dict[str, float]
DIGITS = 3  # of a setting that is tried, so that a row's label can name it
DRAWS = 20  # for each trial, until its settings are new


@dataclass(frozen=True)
class Space:
    """What is tuned of one row: its ranges by field, with ends that are values, and the benchmark's own settings."""

    row: Row
    ranges: dict[str, Range]
    shared: Settings
    """The benchmark's own values of the same fields."""

    def item(self, settings: Mapping[str, float]) -> str:
        """A trial as `--method` takes it; its row's label."""
        return ":".join([self.row.label, *(f"{field}={value:g}" for field, value in settings.items())])


def space_of(spec: BenchmarkSpec, item: str) -> Space:
    """The search space of a method as people ask for it; fields that they typed stay as typed.

    InputError for a method without one, and for a range of what is no number among its fields.
    """
    row = method_row(spec, item)
    given = spec.space.get(row.name, {})
    values = settings_of(row.method)
    typed = {part.partition("=")[0] for part in item.split(":")[1:]}
    found = {**getattr(type(row.method), "space", {}), **given}
    ranges: dict[str, Range] = {}
    for field, limits in found.items():
        where = f"{spec.place('space', row.name, field)}, space.{row.name}.{field}" if field in given else item
        if field not in values:
            raise InputError(f"{where}: {row.name} has no field {field!r}; {nearest(field, values)}")
        value = values[field]
        if isinstance(value, bool) or not isinstance(value, int | float) or (limits.factor and value <= 0):
            raise InputError(f"{where}: {field} is {value!r}, and only numbers can be tuned (above 0 by a factor)")
        if field not in typed:
            ranges[field] = limits.around(value)
    if not ranges:
        raise InputError(
            f"{item} has no search space, so it cannot be tuned; leave it out, or give the benchmark one: "
            f"space: {{{row.name}: {{FIELD: {{low: LOW, high: HIGH, scale: log}}}}}}"
        )
    return Space(row, ranges, {field: values[field] for field in ranges})


class Search:
    """The search through one space: `ask` for settings, and `tell` what came of them.

    halton: Halton's sequence, scrambled by the seed (Owen 2017, arXiv:1706.02808): it fills the space evenly, whatever
    it is told. tpe: the tree-structured Parzen estimator (Bergstra et al. 2011), which goes by what it was told. Both
    are optuna's; the same seed and answers give the same questions, so a search that was stopped is simply run again.
    """

    def __init__(self, space: Space, optimizer: Optimizer, trials: int, seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.asked = space, list[Settings]()
        self.distributions = {field: _distribution(space, field) for field in space.ranges}
        self.study = optuna.create_study(sampler=_sampler(optimizer, trials, seed), direction="maximize")
        self.open: dict[tuple[float, ...], optuna.trial.Trial] = {}
        if optimizer == "halton":  # its first point counts from the second trial on
            middle = {field: d.low for field, d in self.distributions.items()}
            done = optuna.trial.create_trial(params=middle, distributions=self.distributions, value=0.0)
            self.study.add_trial(done)

    def ask(self, count: int) -> Iterator[Settings]:
        """So many settings that were not asked before; fewer where the space has no more."""
        for _ in range(count):
            for _ in range(DRAWS):
                trial = self.study.ask(self.distributions)
                settings = {field: _rounded(trial.params[field]) for field in self.space.ranges}
                if settings not in self.asked:
                    self.asked.append(settings)
                    self.open[tuple(settings.values())] = trial
                    yield settings
                    break

    def tell(self, settings: Settings, value: float | None, excess: float) -> None:
        """The score of a trial (None: it failed), and by how much it is beyond the rule's limit, at most 0 within."""
        from optuna.trial import TrialState

        trial = self.open.pop(tuple(settings.values()))
        trial.set_constraint("kl", excess)
        if value is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, value)


def _sampler(optimizer: Optimizer, trials: int, seed: int) -> "optuna.samplers.BaseSampler":
    import optuna

    if optimizer == "tpe":
        return optuna.samplers.TPESampler(n_startup_trials=max(2, trials // 3), seed=seed)
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning):
        warnings.simplefilter("ignore")
        return optuna.samplers.QMCSampler(qmc_type="halton", scramble=True, seed=seed)


def _distribution(space: Space, field: str) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    limits, log = space.ranges[field], space.ranges[field].scale == "log"
    if isinstance(space.shared[field], int):
        return IntDistribution(round(limits.low), round(limits.high), log=log)
    return FloatDistribution(limits.low, limits.high, log=log)


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def as_json(space: Space) -> dict[str, Any]:
    """The ranges of a space, for the record of a study."""
    return {field: dataclasses.asdict(limits) for field, limits in space.ranges.items()}
