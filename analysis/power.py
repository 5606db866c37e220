"""Differences that a comparison of so many prompts and seeds can show, before a run and after it.

The variation between training runs is known badly from the three of one row, so it is pooled over the rows of a run,
and what follows from it has an interval (chi-squared limits of the pooled variance). Win rates lie at most one half
away from even: a design that could show only more than that can show nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, isfinite, isnan, nan, sqrt
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
MOST = 0.5  # a win rate differs from one half by no more
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
    """The smallest true mean that a table of such variances shows at level alpha with this power; inf above one half.

    From the noncentral t distribution, with Satterthwaite's degrees of freedom and its bias of the standard error taken
    out; NaN with fewer than two prompts.
    """
    variance = grid.seed_variance + grid.prompt_variance
    if grid.prompts < 2 or not isfinite(variance) or variance == 0:
        return nan
    parts = grid.seed_variance**2 / max(grid.seeds - 1, 1) + grid.prompt_variance**2 / (grid.prompts - 1)
    freedom = variance**2 / parts
    quantile = sqrt(grid.squared_half_width(alpha) / variance)
    bias = sqrt(2 / freedom) * exp(gammaln((freedom + 1) / 2) - gammaln(freedom / 2))
    found = float(nctdtrinc(freedom, 1 - power, quantile)) * sqrt(variance) / bias
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


def spreads(rows: Sequence[Mapping[str, Any]], grids: Grids) -> dict[str, tuple[Spread, int]]:
    """Per basis ("sft", "direct") the variances of its comparisons, pooled, and the degrees of freedom of the seeds'.

    Every row's training runs count once: the degrees of freedom are those of the rows, however many pairs they form.
    """
    found: dict[str, tuple[Spread, int]] = {}
    for basis in ("sft", "direct"):
        of_basis = [row for row in rows if row["basis"] == basis and isfinite(row["p"])]
        parts = [(_spread(table(grids, row)), row["seeds"]) for row in of_basis]
        if not parts:
            continue
        varied = [(spread, seeds - 1) for spread, seeds in parts if seeds > 1]
        freedom = {name: row["seeds"] - 1 for row in of_basis for name in (row["a"], row["b"]) if row["seeds"] > 1}
        for name in ("sft", *(row["a"] for row in rows if row["b"] == "sft" and row["seeds"] == 1)):
            freedom.pop(name, None)
        total = sum(weight for _, weight in varied)
        seed = sum(spread.seed * weight for spread, weight in varied) / total if total else nan
        prompt, rest = (float(np.mean([getattr(spread, kind) for spread, _ in parts])) for kind in ("prompt", "rest"))
        found[basis] = Spread(seed, prompt, rest), sum(freedom.values())
    return found


def add_detectable(rows: Sequence[dict[str, Any]], grids: Grids) -> None:
    """Fill in `detectable` and its limits: of each tested comparison, at the level that its weight gives it at first.

    Infinite where nothing below one half could have been shown; left out where nothing is known.
    """
    tested = [row for row in rows if row.get("weight")]
    pooled, total = spreads(tested, grids), sum(row["weight"] for row in tested)
    for row in tested:
        if row["basis"] not in pooled or row["metric"] == UNTIL_DECIDED:
            continue
        own, (spread, freedom) = analyse(table(grids, row)), pooled[row["basis"]]
        alpha = LEVEL * row["weight"] / total
        size = _shown(own, spread.seed, spread.rest, alpha)
        if isnan(size):
            continue
        row["detectable"] = size
        if own.seeds > 1:
            limits = [freedom / float(chi2.ppf(q, freedom)) for q in (0.975, 0.025)]
            ends = [_shown(own, spread.seed * limit, spread.rest, alpha) for limit in limits]
            row["detectable_low"], row["detectable_high"] = ends


def _shown(own: Grid, seed: float, rest: float, alpha: float) -> float:
    """What a comparison could have shown with the pooled variation between runs in place of its own."""
    if own.seeds == 1:
        return detectable(own, alpha)
    return detectable(replace(own, seed_variance=(seed + rest / own.prompts) / own.seeds), alpha)


def _spread(values: np.ndarray) -> Spread:
    """The variance components of a table [seeds, prompts], none below 0."""
    grid = analyse(values)
    if grid.prompts < 2:
        return Spread(nan, nan, nan)
    if grid.seeds == 1:
        return Spread(nan, 0.0, grid.prompt_variance * grid.prompts)
    rest = grid.rest
    return Spread(
        max(grid.seed_variance * grid.seeds - rest / grid.prompts, 0.0),
        max(grid.prompt_variance * grid.prompts, 0.0),
        rest,
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
    shown = f"no difference {what}, however large"
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
    for basis, (found, _) in spreads(rows, grids).items():
        of_basis = [row for row in rows if row["basis"] == basis]
        alpha = LEVEL * float(np.mean([row["weight"] for row in of_basis])) / total
        prompts = max(grids[row["a"], row["metric"]].shape[1] for row in of_basis)
        known = isfinite(found.seed)
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
