"""summary.json: what a run found, from its scores and costs; and the table of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from .findings import few_seeds
from .frontier import frontier
from .metric_names import title
from .overoptimization import overoptimization
from .resampling import bootstrap_interval, permutation_p
from .sequential import UNTIL_DECIDED
from .statistics import compare, holm, interval, minimum_detectable
from .verdict import LEVEL, NO_DIFFERENCE, SFT, by_preference, failed_gates, listed
from .win_rates import head_to_head, length_control, ratings, until_decided

if TYPE_CHECKING:
    import pandas


MINIMUM_PROMPTS = 30
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
) -> dict[str, Any]:
    """The content of summary.json: plain data, None where a number does not exist.

    `scores` has the columns method, seed, metric, prompt_id and value, the value NaN where an evaluator could not
    tell. `costs` has one dict a seed for each method. A metric's `n` counts values;
    `coverage` is their share, there only where some are missing. Intervals are 95%; a comparison's verdict goes by
    Holm's p within its metric, so its interval (not adjusted) may exclude 0 while the verdict is "no significant
    difference". `along` has the scores of checkpoints along training, see `overoptimization`.
    """
    grids = _grids(scores)
    methods = [SFT, *(m for m in dict.fromkeys([*scores["method"], *costs]) if m != SFT)]
    seeds = {m: int(scores.loc[scores["method"] == m, "seed"].nunique()) for m in methods}
    rows = {
        method: {
            "seeds": seeds[method],
            "metrics": {metric: _cell(method, metric, grid) for (m, metric), grid in grids.items() if m == method},
            "cost": _mean_costs(costs.get(method, [])),
        }
        for method in methods
    }
    found = {
        "run_id": run_id,
        "run_dir": run_dir,
        "benchmark": benchmark,
        "contract": contract,
        "methods": rows,
        "comparisons": _comparisons(grids, methods),
        "head_to_head": head_to_head(grids, methods),
        "ratings": ratings(grids, methods),
        "length_controlled": length_control(grids, methods),
        "overoptimization": overoptimization(along) if along is not None else {},
        "frontier": frontier(scores, along),
        "gates": gates,
        "warnings": [*warnings, *_cautions(grids, rows), *failed_gates(gates)],
    }
    return plain(found)


def table(summary: Mapping[str, Any]) -> pandas.DataFrame:
    """Text such as "0.71 [0.66, 0.76]": a row a method, a column a metric, then a column a cost."""
    import pandas

    methods = summary["methods"]
    metrics = sorted({metric for row in methods.values() for metric in row["metrics"]})
    costs = list(dict.fromkeys(key for row in methods.values() for key in row["cost"]))
    cells = {
        name: [_estimate(row["metrics"].get(metric)) for metric in metrics]
        + [_number(row["cost"].get(key)) for key in costs]
        for name, row in methods.items()
    }
    return pandas.DataFrame.from_dict(cells, orient="index", columns=[*metrics, *costs])


def _grids(scores: pandas.DataFrame) -> dict[tuple[str, str], pandas.DataFrame]:
    """One table per method and metric, metrics sorted: a row a seed, a column a prompt, NaN for a missing value."""
    values = scores.assign(value=scores["value"].astype(float))
    return {
        (str(method), str(metric)): part.pivot(index="seed", columns="prompt_id", values="value")
        for (metric, method), part in values.groupby(["metric", "method"], sort=True)
    }


def _bounds(metric: str) -> tuple[float, float] | None:
    """Shares (win rates, EOS rate) lie between 0 and 1; nothing is assumed about other metrics."""
    return (0.0, 1.0) if metric.startswith("win_rate.") or metric.endswith("_rate") else None


def _cell(method: str, metric: str, grid: pandas.DataFrame) -> dict[str, Any]:
    # SFT against itself is one half by definition: there is nothing uncertain about that.
    bounds = None if method == SFT and metric.startswith("win_rate.") else _bounds(metric)
    if metric == UNTIL_DECIDED and method != SFT:
        found, _ = until_decided(grid)
    else:
        found = interval(grid.to_numpy(), bounds=bounds)
    cell = {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
    # where judging stopped early the prompts that were not asked are no gap
    return cell | ({"coverage": found.n / grid.size} if found.n < grid.size and metric != UNTIL_DECIDED else {})


def _mean_costs(costs: list[dict[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for cost in costs for key in cost)
    return {key: float(np.mean([cost[key] for cost in costs if key in cost])) for key in keys}


def _comparisons(grids: Mapping[tuple[str, str], pandas.DataFrame], methods: list[str]) -> list[dict[str, Any]]:
    """Every method against SFT, then every pair, on each win rate, with Holm's correction within a metric."""
    found = []
    for metric in by_preference({metric for _, metric in grids if metric.startswith("win_rate.")}):
        scored = [m for m in methods if m != SFT and (m, metric) in grids]
        rows = [_compare(grids, metric, a, SFT) for a in scored]
        if metric != UNTIL_DECIDED:  # judged on different prompts, and stopped by what they showed
            rows += [_compare(grids, metric, a, b) for a, b in combinations(scored, 2)]
        tested = [row for row in rows if isfinite(row["p"])]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = p
            if p < LEVEL:
                row["verdict"] = f"{row['a'] if row['difference'] > 0 else row['b']} is better"
        for row in rows:
            row["detectable"] = _detectable(grids, row, LEVEL / max(len(tested), 1))
        found += rows
    return found


def _compare(grids: Mapping[tuple[str, str], pandas.DataFrame], metric: str, a: str, b: str) -> dict[str, Any]:
    """a - b on the seeds and prompts that both have; a win rate against SFT is compared with one half.

    Beside the interval: the bootstrap's, and p of a permutation test, which is about these trained policies only.
    """
    row = {"a": a, "b": b, "metric": metric}
    if metric == UNTIL_DECIDED:
        rate, p = until_decided(grids[a, metric])
        values = {"difference": rate.mean - 0.5, "low": rate.low - 0.5, "high": rate.high - 0.5, "p": p}
        more: dict[str, Any] = {}
    else:
        ours, theirs = _paired(grids, metric, a, b)
        found = compare(ours, theirs, bounds=(-0.5, 0.5) if b == SFT else (-1.0, 1.0))
        values = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
        drawn = bootstrap_interval(ours - theirs)
        more = {
            "bootstrap": {"low": drawn.low, "high": drawn.high},
            "p_permutation": permutation_p(ours - theirs),
        }
    return {**row, **values, "p_adjusted": nan, "verdict": NO_DIFFERENCE, **more}


def _paired(
    grids: Mapping[tuple[str, str], pandas.DataFrame], metric: str, a: str, b: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a and b on the seeds and prompts that both have; one half for SFT."""
    ours = grids[a, metric]
    if b == SFT:
        return ours.to_numpy(), np.full(ours.shape, 0.5)
    ours, theirs = ours.align(grids[b, metric], join="inner")
    return ours.to_numpy(), theirs.to_numpy()


def _detectable(grids: Mapping[tuple[str, str], pandas.DataFrame], row: Mapping[str, Any], alpha: float) -> float:
    """The smallest true difference that a run of this size shows with 80% power, at the strictest of Holm's levels."""
    if row["metric"] == UNTIL_DECIDED:
        return nan
    return minimum_detectable(*_paired(grids, row["metric"], row["a"], row["b"]), alpha)


def _cautions(grids: Mapping[tuple[str, str], pandas.DataFrame], rows: Mapping[str, Any]) -> list[str]:
    """Reasons why the intervals or the scores are weaker than they look."""
    cautions = few_seeds(rows)
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
