"""summary.json: what a run found, from its scores and costs; and the table of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import MARGIN, MINIMUM_PROMPTS, comparisons, trainings
from .comparisons import table as behind
from .costs import mean_costs
from .elsewhere import TRAINED_HERE, is_elsewhere, marked, sentences
from .findings import few_seeds
from .frontier import frontier
from .grids import SFT, Grids, grids_of, is_versus
from .metric_names import title
from .overoptimization import overoptimization
from .power import add_detectable
from .prediction_powered import prediction_powered
from .resampling import bootstrap_interval, permutation_p
from .sequential import UNTIL_DECIDED, until_decided
from .statistics import interval
from .verdict import failed_gates, listed
from .win_rates import equal_length, ratings

if TYPE_CHECKING:
    import pandas


MINIMUM_COVERAGE = 0.9
OF_THE_JUDGE = "judge."  # what judges say of themselves: no value for identical responses, and they are no gap


def summarize(
    *,
    run_id: str,
    run_dir: str,
    benchmark: str,
    contract: dict[str, Any],
    scores: pandas.DataFrame,
    costs: Mapping[str, list[dict[str, float]]],
    gates: list[dict[str, Any]],
    warnings: list[str],
    along: pandas.DataFrame | None = None,
    owners: Mapping[str, str] | None = None,
    margin: float = MARGIN,
    elsewhere: Collection[str] = (),
) -> dict[str, Any]:
    """The content of summary.json: plain data, None where a number does not exist.

    `scores` has the columns method, seed, metric, prompt_id and value, the value NaN where an evaluator could not
    tell. `costs` has one dict a seed for each method, see `mean_costs`. A metric's `n` counts values;
    `coverage` is their share, there only where some are missing. Intervals are 95%; a comparison's verdict goes by
    Holm's p over all comparisons of the headline, so its interval (not adjusted) may exclude 0 while the verdict is
    "not decided". `along` has the scores of checkpoints along training, see `overoptimization`. `owners` names the
    method of each row, `margin` is the difference of win rates that matters in practice; see `comparisons.py`.
    `elsewhere`: rows whose policy was not trained here, of which `seeds` says that each is one training.
    """
    grids = grids_of(scores)
    shown = {key: grid for key, grid in grids.items() if not is_versus(key[1])}  # those are no columns of a table
    methods = [SFT, *(m for m in dict.fromkeys([*scores["method"], *costs]) if m != SFT)]
    seeds = {m: int(scores.loc[scores["method"] == m, "seed"].nunique()) for m in methods}
    seeds |= {m: min(seeds[m], 1) for m in elsewhere if m in seeds}
    rows = {
        method: {
            "seeds": seeds[method],
            **({"method": owners[method]} if owners and method in owners else {}),
            **({TRAINED_HERE: False} if method in elsewhere else {}),
            "metrics": {
                metric: _cell(method, metric, grid, method in elsewhere)
                for (m, metric), grid in shown.items()
                if m == method
            },
            **mean_costs(costs.get(method, [])),
        }
        for method in methods
    }
    found = {
        "run_id": run_id,
        "run_dir": run_dir,
        "benchmark": benchmark,
        "contract": contract,
        "methods": rows,
        "margin": margin,
        "comparisons": _comparisons(grids, methods, owners, margin, elsewhere),
        "ratings": ratings(grids, methods),
        "equal_length": equal_length(grids, methods),
        "prediction_powered": prediction_powered(grids, methods),
        "overoptimization": overoptimization(along) if along is not None else {},
        "frontier": frontier(scores[~scores["method"].isin([*elsewhere])], along),  # of methods
        "gates": gates,
        "warnings": [*warnings, *_cautions(shown, rows), *failed_gates(gates)],
    }
    return plain(found)


def table(summary: Mapping[str, Any]) -> pandas.DataFrame:
    """Text such as "0.71 [0.66, 0.76]": a row a method, a column a metric, then a column a cost."""
    import pandas

    methods = summary["methods"]
    metrics = sorted({metric for row in methods.values() for metric in row["metrics"]})
    costs = list(dict.fromkeys(key for row in methods.values() for key in row["cost"]))
    cells = {
        marked(name, methods): [_estimate(row["metrics"].get(metric)) for metric in metrics]
        + ["unknown" if is_elsewhere(row) else _number(row["cost"].get(key)) for key in costs]
        for name, row in methods.items()
    }
    return pandas.DataFrame.from_dict(cells, orient="index", columns=[*metrics, *costs])


def _bounds(metric: str) -> tuple[float, float] | None:
    """Shares (win rates, EOS rate) lie between 0 and 1; nothing is assumed about other metrics."""
    return (0.0, 1.0) if metric.startswith("win_rate.") or metric.endswith("_rate") else None


def _cell(method: str, metric: str, grid: pandas.DataFrame, is_one_training: bool) -> dict[str, Any]:
    # SFT against itself is one half by definition: there is nothing uncertain about that.
    bounds = None if method == SFT and metric.startswith("win_rate.") else _bounds(metric)
    if metric == UNTIL_DECIDED and method != SFT:
        found, _ = until_decided(grid)
    else:
        values = grid.to_numpy(float)
        found = interval(trainings(values, 1) if is_one_training else values, bounds=bounds)
    known = int(grid.notna().to_numpy().sum())
    cell = {"mean": found.mean, "low": found.low, "high": found.high, "n": known}
    # where judging stopped early the prompts that were not asked are no gap
    return cell | ({"coverage": known / grid.size} if known < grid.size and metric != UNTIL_DECIDED else {})


def _comparisons(
    grids: Grids, methods: list[str], owners: Mapping[str, str] | None, margin: float, elsewhere: Collection[str]
) -> list[dict[str, Any]]:
    rows = comparisons(grids, methods, owners, margin, elsewhere)
    add_detectable(rows, grids)
    return [row | _resampled(grids, row) for row in rows]


def _resampled(grids: Grids, row: Mapping[str, Any]) -> dict[str, Any]:
    """Beside a comparison's interval: the bootstrap's, and p of a permutation test about these policies only."""
    if row["metric"] == UNTIL_DECIDED:
        return {}
    values = behind(grids, row)
    drawn = bootstrap_interval(values)
    return {"bootstrap": {"low": drawn.low, "high": drawn.high}, "p_permutation": permutation_p(values)}


def _cautions(grids: Grids, rows: Mapping[str, Any]) -> list[str]:
    """Reasons why the intervals or the scores are weaker than they look."""
    cautions = [*sentences(rows), *few_seeds(rows)]
    prompts: dict[str, int] = {}
    for (_, metric), grid in grids.items():
        count = int(grid.notna().any().sum())
        prompts[metric] = min(count, prompts.get(metric, count))
    few: dict[int, list[str]] = {}
    for metric, count in prompts.items():
        if count < MINIMUM_PROMPTS and (metric != UNTIL_DECIDED or count < 2) and not metric.startswith(OF_THE_JUDGE):
            few.setdefault(count, []).append(metric)
    cautions += [_few_prompts(count, metrics) for count, metrics in few.items()]
    for name, row in rows.items():
        for metric, cell in row["metrics"].items():
            if not metric.startswith(OF_THE_JUDGE) and cell.get("coverage", 1.0) < MINIMUM_COVERAGE:
                share = f"{cell['coverage']:.0%} of its responses"
                cautions.append(f"{name}: “{title(metric)}” has a value for only {share}; the rest may differ")
    return cautions


def _few_prompts(count: int, metrics: list[str]) -> str:
    prompts = ("No prompt has", "Only one prompt has")[count] if count < 2 else f"Only {count} prompts have"
    values = f"{prompts} a value of {listed([f'“{title(metric)}”' for metric in metrics])}"
    if count < 2:
        return f"{values}: too few for an interval"
    return f"{values}; with fewer than {MINIMUM_PROMPTS} a few unusual prompts decide, so take the intervals as rough"


def _two(value: float, sign: str = "") -> str:
    return f"{round(value, 2) + 0.0:{sign}.2f}"  # never "-0.00"


def _estimate(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    if cell["low"] is None or cell["high"] is None:
        return _two(cell["mean"])
    return f"{_two(cell['mean'])} [{_two(cell['low'])}, {_two(cell['high'])}]"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def plain(value: Any) -> Any:
    """Only what JSON has: numpy numbers become Python's, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value
