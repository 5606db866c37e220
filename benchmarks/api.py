"""The Python API: what the commands run, show, compare, report and export do, with results as pandas frames."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.run_differences import changes
from ..analysis.verdict import verdict
from ..errors import InputError, nearest, one_of
from ..results.run_folder import Run, find_run
from .definition.options import Options, chosen_spec

if TYPE_CHECKING:
    import pandas

    from ..results.outputs import Format
    from .request import Gate, Request
    from .studies.rounds import LabelledBy
    from .studies.search import Optimizer


class Results:
    """A run on disk as pandas frames; nothing here trains."""

    def __init__(self, run: Run, failures: Mapping[str, str] | None = None):
        self._run = run
        self.failures = dict(failures or {})
        """Cells that failed in the call that returned this, with the reason."""

    def __repr__(self) -> str:
        return f"Results of {self.path}\n" + "\n".join(self.verdict)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._run.path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return self._run.summary

    @property
    def contract(self) -> dict[str, Any]:
        """All that rows of one table share."""
        return self._run.record["contract"]

    @property
    def verdict(self) -> list[str]:
        """The run's verdict, in sentences."""
        return verdict(self.summary)

    @cached_property
    def scores(self) -> "pandas.DataFrame":
        """A row a value: method, seed, metric, prompt_id, value (NaN where the evaluator could not tell)."""
        return self._run.scores()

    @cached_property
    def table(self) -> "pandas.DataFrame":
        """A row for each method and metric: mean with its 95% interval low to high, and n values."""
        import pandas

        rows = [
            {"method": method, "metric": metric, **{key: cell[key] for key in ("mean", "low", "high", "n")}}
            for method, row in self.summary["methods"].items()
            for metric, cell in row["metrics"].items()
        ]
        return pandas.DataFrame(rows)

    @cached_property
    def comparisons(self) -> "pandas.DataFrame":
        """A row a comparison of two methods: a, b, metric, difference, low, high, p, p_adjusted, verdict, ..."""
        import pandas

        return pandas.DataFrame(self.summary["comparisons"])

    @cached_property
    def costs(self) -> "pandas.DataFrame":
        """A row a cell that was trained: method, seed, seconds, flops, trained_tokens, ..."""
        import pandas

        cells = [{"method": cell.method, "seed": cell.seed, **cell.cost()} for cell in self._run.cells() if cell.cost()]
        return pandas.DataFrame(cells)

    @cached_property
    def metrics(self) -> "pandas.DataFrame":
        """A row a step of each training log: method, seed, step, examples, seconds, loss, ..."""
        import pandas

        cells = self._run.cells()
        return pandas.DataFrame([{"method": c.method, "seed": c.seed, **row} for c in cells for row in c.metrics()])

    @cached_property
    def generations(self) -> "pandas.DataFrame":
        """A row a response: method, seed, prompt_id, prompt (chat messages), response, length, finished, kl."""
        import pandas

        rows = [
            {"method": cell.method, "seed": cell.seed, **dataclasses.asdict(generation)}
            for cell in self._run.cells()
            for generation in cell.generations()
        ]
        return pandas.DataFrame(rows)

    def compare(self, other: "Results") -> "pandas.DataFrame":
        """The other run minus this one, metric by metric, with 95% intervals; see `bench compare`."""
        import pandas

        return pandas.DataFrame([dataclasses.asdict(change) for change in changes(self._run, other._run)])

    def export(self, format: "Format", out: str | Path | None = None) -> list[Path]:
        """Write the responses as files of AlpacaEval (alpaca_eval) or Arena-Hard-Auto (arena); see `bench export`."""
        from ..results.outputs import FORMATS
        from .export import export

        return export(self._run, one_of("format", format, FORMATS), Path(out) if out else self.path / "export")

    def export_policy(
        self, row: str, to: str | Path, *, seed: int = 0, merge: bool = False, push: str | None = None
    ) -> Path:
        """Write a trained policy to a new folder that transformers (or peft) loads; see `bench export --policy`."""
        from .export_policy import export_policy

        export_policy(self._run, row, seed, Path(to), merge=merge, push=push)
        return Path(to)

    def report(self, out: str | Path | None = None) -> list[Path]:
        """Write the report, by default into the run's folder; the paths of its files."""
        from ..reports.render import render

        return render([self._run], Path(out) if out else None)


def load_run(path: str | Path) -> Results:
    """The run in a folder. InputError if there is none or more than one, or it is not finished."""
    return Results(find_run(Path(path), finished=True))


def run(benchmark: str = "quick", methods: str | Sequence[str] = ("ppo", "dpo"), **options: Any) -> Results:
    """Train methods from the same SFT checkpoint, score them and write a report, as `bench run` does.

    benchmark: name or path. methods: NAME or NAME:FIELD=VALUE:..., in a list or by comma. options: `seeds`, `root`,
    `out`, `device`, `gate`, `at_once`, `trust_remote_code` as the command has them; `settings`, fields of the benchmark
    by dotted name, {"methods.dpo.beta": 0.05}; and those of `Options` (model, preferences, judge, tracker, ...). What
    is on disk below root already is not done again. InputError for bad input, before anything trains.
    """
    from ..runtime.quiet import quiet
    from .cli.live import watching

    quiet()
    from . import harness

    request = _request(benchmark, methods, **options)
    with watching() as watcher:
        outcome = harness.run(dataclasses.replace(request, say=watcher.say, watch=watcher.watch))
    return Results(outcome.run, outcome.failures)


def tune(
    benchmark: str = "quick",
    methods: str | Sequence[str] = ("ppo", "dpo"),
    *,
    trials: int = 12,
    optimizer: "Optimizer" = "halton",
    search_seed: int = 0,
    tune_flops: float | None = None,
    halving: bool = False,
    shared: bool = False,
    **options: Any,
) -> tuple[Results, dict[str, Any]]:
    """Give every method the same number of trials and compare the winners, as `bench tune` does.

    The winners' run, and the tuning's record (tune.json). options: those of `run`; `seeds` are the winners', and `out`
    is the study's folder.
    """
    from ..runtime.quiet import quiet
    from .cli.live import watching

    quiet()
    from .studies import tune as studies

    request = _request(benchmark, methods, **options)
    with watching() as watcher:
        request = dataclasses.replace(request, say=watcher.say, watch=watcher.watch)
        asked = studies.Tuning(request, trials, optimizer, search_seed, tune_flops, halving, shared)
        found = studies.tune(asked)
    return Results(found.outcome.run, found.outcome.failures), found.record


def next_round(
    run: str | Path,
    benchmark: str = "quick",
    methods: str | Sequence[str] = ("ppo", "dpo"),
    *,
    labeller: "LabelledBy" = "simulated",
    new_pairs: int | None = None,
    **options: Any,
) -> Results | None:
    """Go on from a finished run: new pairs of its policies, labelled, and training on old and new, as
    `bench run --continue-from RUN` does.

    options: those of `run`. None where people are to label: the items then wait in the round's folder, and the same
    call goes on when they are done.
    """
    from ..runtime.quiet import quiet
    from .cli.live import watching

    quiet()
    from .studies import rounds

    by = one_of("labeller", labeller, rounds.LABELLED_BY)
    with watching() as watcher:
        request = _request(benchmark, methods, **options)
        request = dataclasses.replace(request, say=watcher.say, watch=watcher.watch)
        made = rounds.run_round(rounds.plan_round(request, Path(run), by, new_pairs))
    return Results(made[0].run, made[0].failures) if made else None


def plan(benchmark: str = "quick", methods: str | Sequence[str] = ("ppo", "dpo"), **options: Any) -> "pandas.DataFrame":
    """The stages of `run` with the same arguments, a row each: stage, state, basis, seconds, memory_mb, tokens."""
    import pandas

    from ..runtime.quiet import quiet

    quiet()
    from . import plan as planning

    return pandas.DataFrame(planning.plan(_request(benchmark, methods, **options)).as_json()["steps"])


def _request(
    benchmark: str,
    methods: str | Sequence[str],
    *,
    seeds: int = 1,
    settings: Mapping[str, Any] | None = None,
    root: str | Path = "results",
    out: str | Path | None = None,
    device: str = "auto",
    gate: "Gate" = "warn",
    at_once: int | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> "Request":
    from .request import GATES, Request

    known = [field.name for field in dataclasses.fields(Options)]
    for name in options:
        if name not in known:
            raise InputError(f"run has no option {name!r}; {nearest(name, known)}")
    names = tuple(methods.split(",")) if isinstance(methods, str) else tuple(methods)
    given = Options(**options, settings=[f"{field}={json.dumps(value)}" for field, value in (settings or {}).items()])
    spec = chosen_spec(benchmark, names, given)
    folder, checked = Path(out) if out else None, one_of("gate", gate, GATES)
    place = (Path(root), folder, device)
    return Request(spec, names, seeds, *place, checked, at_once=at_once, trust_remote_code=trust_remote_code)
