"""Differences that a comparison of so many prompts and seeds can show, before a run and after it.

The variation between training runs is known badly from the three of one row, so it is pooled over the rows of a run,
and what follows from it has an interval (chi-squared limits of its variance). A win rate at a distance d from even
varies less than one near it, by 1 - 4 d^2. No size is named of a design that shows only differences above 40 points (a
win rate of 90%). How often what is said is false, by simulation: results/published/claims.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, inf, isfinite, isnan, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln, nctdtrinc
from scipy.stats import chi2

from ..errors import InputError
from .comparisons import LEVEL, table
from .grids import Grids, grids_of
from .sequential import UNTIL_DECIDED
from .statistics import Grid, analyse

if TYPE_CHECKING:
    import pandas

POWER = 0.8
MOST = 0.4  # a difference above which none is named: a win rate of 90%
LIMITS = (0.99, 0.01)  # of chi-squared: by simulation 95% limits miss the size in up to 10% of runs, these in 5%
# Before a run: wins of single responses vary like coins, half of it by prompt. Between training runs of a method the
# win rates of `quick` spread by 1.7, 4.7 and 7.2 points (standard deviations of three methods); the middle one.
COIN, SEED_SD = 0.25, 0.047
SEEDS = (1, 2, 3, 5, 8, 12)
MOST_PROMPTS = 100_000


@dataclass(frozen=True)
class Spread:
    """Variances of one response's win less one half: between training runs, between prompts, and the rest."""

    seed: float
    prompt: float
    rest: float

    def grid(self, seeds: int, prompts: int) -> Grid:
        """The expected table of a design."""
        n, alike = seeds * prompts, self.prompt + self.rest
        if seeds == 1:
            return Grid(0.0, 0.0, alike / prompts, 1, prompts, n, apart=alike / prompts)
        by_seed = (self.seed + self.rest / prompts) / seeds
        return Grid(0.0, by_seed, self.prompt / prompts, seeds, prompts, n, self.rest, (self.seed + alike) / n)


ASSUMED = Spread(SEED_SD**2, COIN / 2, COIN / 2)


def detectable(grid: Grid, alpha: float = LEVEL, power: float = POWER) -> float:
    """The smallest true mean that a table of such variances shows at level alpha with this power; inf above MOST.

    grid: of wins less one half, with the variances that they have near even. From the noncentral t distribution, with
    Satterthwaite's degrees of freedom and its bias of the standard error taken out; NaN with fewer than two prompts.
    """
    variance = grid.seed_variance + grid.prompt_variance
    if grid.prompts < 2 or not isfinite(variance) or variance == 0:
        return nan
    parts = grid.seed_variance**2 / max(grid.seeds - 1, 1) + grid.prompt_variance**2 / (grid.prompts - 1)
    freedom = variance**2 / parts
    variance = max(variance, grid.apart)  # runs that agree by chance vary by no less
    quantile = sqrt(grid.squared_half_width(alpha) / variance)
    bias = sqrt(2 / freedom) * exp(gammaln((freedom + 1) / 2) - gammaln(freedom / 2))
    error = sqrt(variance) / bias
    limit, beyond = quantile * error, (float(nctdtrinc(freedom, 1 - power, quantile)) - quantile) * error
    # d = limit + beyond * sqrt(1 - 4 d^2): what is shown is held against even, and varies less far from it
    inside = 1 + 4 * (beyond**2 - limit**2)
    found = (limit + beyond * sqrt(inside)) / (1 + 4 * beyond**2) if inside >= 0 else inf
    return found if found <= MOST else inf


def needed_prompts(difference: float, spread: Spread, seeds: int, alpha: float = LEVEL) -> int | None:
    """The prompts with which a design of so many seeds shows a difference; None where no number of them does."""
    if detectable(spread.grid(seeds, MOST_PROMPTS), alpha) > difference:
        return None
    low, high = 2, MOST_PROMPTS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(spread.grid(seeds, middle), alpha) <= difference else (middle + 1, high)
    return low


@dataclass(frozen=True)
class Pooled:
    """What the comparisons of a run have in common."""

    spread: Spread
    between: float
    """The mean square of the training runs' means, at least that of runs alike; NaN with one seed."""
    freedom: int
    """Degrees of freedom of `between`."""


def pooled(rows: Sequence[Mapping[str, Any]], grids: Grids) -> dict[str, Pooled]:
    """Per basis ("sft", "direct") the variances of its comparisons, weighted by what each knows of training runs.

    Every row's training runs count once: the degrees of freedom are those of the rows, however many pairs they form,
    and of rows that are compared with each other one is used up by their mean.
    """
    found = {}
    for basis in ("sft", "direct"):
        of_basis = [row for row in rows if row["basis"] == basis and isfinite(row["p"])]
        tables = [(_near_even(analyse(table(grids, row))), row["seeds"] - 1) for row in of_basis]
        if not tables:
            continue
        freedom = {name: row["seeds"] - 1 for row in of_basis for name in (row["a"], row["b"]) if row["seeds"] > 1}
        for name in ("sft", *(row["a"] for row in rows if row["b"] == "sft" and row["seeds"] == 1)):
            freedom.pop(name, None)
        total = sum(weight for _, weight in tables)
        between = seed = nan
        if total:
            drawn = sum(grid.rest / grid.prompts * weight for grid, weight in tables) / total
            between = max(sum(grid.seed_variance * grid.seeds * weight for grid, weight in tables) / total, drawn)
            seed = between - drawn
        own = [_spread(grid) for grid, _ in tables]
        prompt, rest = (float(np.mean([getattr(one, kind) for one in own])) for kind in ("prompt", "rest"))
        used = max(freedom.values(), default=0) if basis == "direct" and len(freedom) > 1 else 0
        found[basis] = Pooled(Spread(seed, prompt, rest), between, sum(freedom.values()) - used)
    return found


def add_detectable(rows: Sequence[dict[str, Any]], grids: Grids) -> None:
    """Fill in `detectable` and its limits: of each tested comparison, at the level that its weight gives it at first.

    Infinite where nothing up to MOST could have been shown; left out where nothing is known.
    """
    tested = [row for row in rows if row.get("weight")]
    known, total = pooled(tested, grids), sum(row["weight"] for row in tested)
    for row in tested:
        if row["basis"] not in known or row["metric"] == UNTIL_DECIDED:
            continue
        own, common = _near_even(analyse(table(grids, row))), known[row["basis"]]
        alpha = LEVEL * row["weight"] / total
        if own.seeds > 1:
            own = replace(own, seed_variance=common.between / own.seeds)
        if isnan(size := detectable(own, alpha)):
            continue
        row["detectable"] = size
        if own.seeds > 1:
            for end, q in zip(("detectable_low", "detectable_high"), LIMITS, strict=True):
                row[end] = detectable(_limit(own, common.freedom, q), alpha)


def _limit(grid: Grid, freedom: int, q: float) -> Grid:
    """The table with its variance at a limit: chi-squared ones of its parts, added as squares (Graybill & Wang 1980).

    freedom: of the variance between seeds. What is more or less than it is goes to the seeds' part as far as it can.
    """
    parts = ((grid.seed_variance, freedom), (grid.prompt_variance, grid.prompts - 1))
    away = hypot(*(part * (degrees / float(chi2.ppf(q, degrees)) - 1) for part, degrees in parts))
    variance = grid.seed_variance + grid.prompt_variance + (away if q < 0.5 else -away)
    prompts = grid.prompt_variance
    return replace(grid, seed_variance=max(variance - prompts, 0.0), prompt_variance=min(variance, prompts))


def _near_even(grid: Grid) -> Grid:
    """The table that rows of such variation would have at a win rate of one half."""
    share = max(1 - 4 * grid.mean**2, 1 / max(grid.prompts, 1))
    parts = {name: getattr(grid, name) / share for name in ("seed_variance", "prompt_variance", "rest", "apart")}
    return replace(grid, **parts)


def _spread(grid: Grid) -> Spread:
    """The variance components of a table but for the seeds', none below 0."""
    if grid.prompts < 2:
        return Spread(nan, nan, nan)
    return Spread(
        nan,
        max(grid.prompt_variance * grid.prompts, 0.0) if grid.seeds > 1 else 0.0,
        grid.rest if grid.seeds > 1 else grid.prompt_variance * grid.prompts,
    )


def smallest_difference(prompts: int, seeds: int, rows: int, spread: Spread = ASSUMED) -> float:
    """The smallest difference of win rates that a run of so many prompts, seeds and rows shows with 80% power.

    rows: of different methods, each compared with SFT and with each other. inf where it shows none.
    """
    return detectable(spread.grid(seeds, prompts), _level(rows))


def _level(rows: int) -> float:
    """The level of one of a run's comparisons: every row with SFT and with each other share LEVEL."""
    return LEVEL / max(rows + rows * (rows - 1) // 2, 1)


def plan_sentences(prompts: int, seeds: int, rows: int, margin: float, spread: Spread = ASSUMED) -> list[str]:
    """What a run of so many prompts, seeds and rows could show, and what the margin would need; before it begins.

    rows: of different methods, each compared with SFT and with each other. The assumed variation is said.
    """
    alpha = _level(rows)
    size = smallest_difference(prompts, seeds, rows, spread)
    what = "between these policies" if seeds == 1 else "between methods"
    shown = f"no difference of less than {100 * MOST:.0f} points {what}"
    if isfinite(size):
        shown = f"a difference of {100 * size:.0f} points or more {what}"
    said = [f"with {prompts} prompts and {_seeds(seeds)} this run can show {shown} (80% power)"]
    if seeds == 1:
        said[0] += "; of methods it can show nothing, for that takes two seeds or more"
    needs = [(n, needed_prompts(margin, spread, n, alpha)) for n in SEEDS if n > 1]
    known = [(n, count) for n, count in needs if count is not None and count <= 10_000]
    basis = f"if the win rates of training runs spread by {100 * sqrt(spread.seed):.1f} points"
    if not known:
        said.append(f"{100 * margin:g} points between methods need more than {SEEDS[-1]} seeds, {basis}")
    else:
        least = [pair for i, pair in enumerate(known) if i == 0 or pair[1] < 0.8 * known[i - 1][1]]
        ways = " or ".join(f"{count:,} prompts with {_seeds(n)}" for n, count in least[:3])
        said.append(f"{100 * margin:g} points between methods need {ways}, {basis}")
    return said


def plan_warnings(prompts: int, seeds: int, rows: int, data: Mapping[str, Any], spread: Spread = ASSUMED) -> list[str]:
    """Reasons for which a run of so many prompts, seeds and rows can show nothing, or less than it seems.

    data: the record of its pairs: `used`, and `dropped` by reason.
    """
    said = []
    if not isfinite(smallest_difference(prompts, seeds, rows, spread)):
        said.append(f"{prompts} prompts and {_seeds(seeds)} can show nothing; raise evaluation.prompts or --seeds")
    if seeds == 1:
        said.append("one seed says nothing of methods, only of the policies that it trains; give --seeds 2 or more")
    dropped = data.get("dropped", {})
    if (lost := sum(dropped.values())) > data.get("used", lost):
        most = max(dropped, key=dropped.__getitem__)
        said.append(f"more rows are dropped ({lost:,}) than used ({data['used']:,}), most of them for: {most}")
    return said


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def from_run(scores: pandas.DataFrame, summary: Mapping[str, Any], difference: float | None = None) -> dict[str, Any]:
    """Designs beside a finished run's own: what they would show of its headline, and what a difference would need.

    difference: of win rates; the run's margin by default. InputError where nothing was tested.
    """
    rows = [row for row in summary["comparisons"] if row.get("weight")]
    if not rows:
        raise InputError(
            f"{summary['run_dir']} tested no comparison, so nothing is known of how its scores vary; make the run anew"
        )
    grids = grids_of(scores)
    difference, total = difference or summary["margin"], sum(row["weight"] for row in rows)
    words = {"sft": "a method against SFT", "direct": "two methods head to head"}
    parts = []
    for basis, common in pooled(rows, grids).items():
        of_basis = [row for row in rows if row["basis"] == basis]
        alpha = LEVEL * float(np.mean([row["weight"] for row in of_basis])) / total
        prompts = max(grids[row["a"], row["metric"]].shape[1] for row in of_basis)
        found, known = common.spread, isfinite(common.between)
        spread = found if known else replace(found, seed=ASSUMED.seed, prompt=found.rest / 2, rest=found.rest / 2)
        sizes = [prompts, 2 * prompts, 4 * prompts, 10 * prompts]
        shown = [[_finite(detectable(spread.grid(n, count), alpha)) for n in SEEDS] for count in sizes]
        needs = {n: needed_prompts(difference, spread, n, alpha) for n in SEEDS if n > 1}
        ways = [f"{count:,} prompts with {_seeds(n)}" for n, count in needs.items() if count is not None]
        source = "measured here" if known else "assumed, for this run has one seed"
        wanted = " or ".join(ways) if ways else f"more than {SEEDS[-1]} seeds, however many prompts"
        text = (
            f"training runs spread by {100 * sqrt(spread.seed):.1f} points ({source}); "
            f"{100 * difference:g} points need {wanted}"
        )
        parts.append(
            {"what": words[basis], "prompts": sizes, "seeds": list(SEEDS), "detectable": shown, "needed": needs,
             "text": text}
        )  # fmt: skip
    return {"difference": difference, "comparisons": parts}


def _finite(size: float) -> float | None:
    return size if isfinite(size) else None
