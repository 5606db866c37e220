"""Resampling beside the formulas of `statistics.py`: a permutation test and a bootstrap, both clustered by prompt.

Neither resamples seeds: three training runs have eight sign patterns and hold no 95% interval. So the permutation test
is about these trained policies (could the choice of prompts alone explain the difference?), and the bootstrap takes
only the prompts' part of the interval from resampling, the seeds' part from Student's distribution.
"""

from functools import lru_cache
from math import hypot, nan, sqrt

import numpy as np
from scipy import stats

from .statistics import Interval, analyse, interval, t_squared

DRAWS = 2000
NUMBERS = 2_000_000  # draws of a prompt that are in memory as numbers at once, the rest as bytes
FEWEST = 20


def permutation_p(differences: np.ndarray, draws: int = 9_999) -> float:
    """Two-sided p of paired differences [seeds, prompts] under swapping the two methods, prompt by prompt.

    A prompt's responses of all seeds are swapped together, for they are not independent. Exact up to 13 prompts, else
    from random swaps, so never below 1 / (draws + 1). NaN marks a missing value; NaN with fewer than two prompts.
    """
    totals = _by_prompt(np.asarray(differences, dtype=float))
    if len(totals) < 2:
        return nan
    if 2 ** len(totals) <= draws:
        found = stats.permutation_test(
            (totals,),
            lambda x, axis: x.sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=draws,
        )
        return float(found.pvalue)
    # scipy's test with its very draws, which are the same for every comparison of as many prompts: it makes them anew
    swapped, observed = _swaps(len(totals), draws), totals.sum()
    sums = observed - 2 * _product(swapped, totals)
    tied = abs(observed) * 100 * np.finfo(float).eps  # sums that differ by rounding alone
    tails = (sums <= observed + tied).sum(), (sums >= observed - tied).sum()
    return float(min(1.0, 2 * (min(tails) + 1) / (draws + 1)))


def bootstrap_interval(values: np.ndarray, level: float = 0.95, draws: int = DRAWS) -> Interval:
    """The mean of values [seeds, prompts] with a bootstrap-t interval (Efron & Tibshirani 1993, section 12.5).

    Prompts are drawn with all their seeds; the two quantiles of the studentized means replace Student's symmetric one
    for the prompts in the interval of `statistics.py`, so skewed scores get an asymmetric interval. Limits are NaN with
    fewer than FEWEST prompts, which resampled are too often the same ones.
    """
    values, alpha = np.asarray(values, dtype=float), 1 - level
    plain, grid = interval(values, level), analyse(values)
    if grid.prompts < FEWEST:
        return Interval(plain.mean, nan, nan, plain.n)
    if grid.prompt_variance == 0:
        return plain
    totals = _by_prompt(values - grid.mean)
    totals = totals - totals.mean()
    n = len(totals)
    counts = _counts(n, draws)
    means = _product(counts, totals) / n
    errors = np.sqrt(np.maximum(_product(counts, totals**2) / n - means**2, 0) / (n - 1))
    studentized = means[errors > 0] / errors[errors > 0]
    ends = np.quantile(studentized, [1 - alpha / 2, alpha / 2])
    a, b = grid.seed_variance, grid.prompt_variance
    seeds = t_squared(grid.seeds, alpha) * a if grid.seeds > 1 else 0.0
    low, high = (sqrt(hypot(seeds, q**2 * sqrt(b * (b + 2 * a)))) for q in ends)
    return Interval(grid.mean, grid.mean - low, grid.mean + high, grid.n)


@lru_cache(maxsize=4)
def _swaps(prompts: int, draws: int) -> np.ndarray:
    """The swapped prompts [draws, prompts], as bytes of 0 and 1; scipy's, whose numbers come row by row as well."""
    rng = np.random.default_rng(0)
    pairs = np.broadcast_to(np.arange(2), (_batch(prompts), prompts, 2))
    starts = range(0, draws, len(pairs))
    drawn = [rng.permuted(pairs[: draws - start], axis=-1)[:, :, 0].astype(np.int8) for start in starts]
    return np.concatenate(drawn)


@lru_cache(maxsize=4)
def _counts(prompts: int, draws: int) -> np.ndarray:
    """Times that each prompt is drawn [draws, prompts], as small numbers."""
    rng, batch, even = np.random.default_rng(0), _batch(prompts), np.full(prompts, 1 / prompts)
    sizes = [min(batch, draws - start) for start in range(0, draws, batch)]
    return np.concatenate([rng.multinomial(prompts, even, size=size).astype(np.int16) for size in sizes])


def _product(drawn: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """drawn [draws, prompts] times totals [prompts], some draws at a time."""
    batch = _batch(len(totals))
    return np.concatenate([drawn[start : start + batch] @ totals for start in range(0, len(drawn), batch)])


def _batch(prompts: int) -> int:
    """Draws of so many prompts that are in memory as numbers at once."""
    return max(NUMBERS // prompts, 1)


def _by_prompt(values: np.ndarray) -> np.ndarray:
    """Sum over the seeds for each prompt that has a value."""
    return np.nansum(values, axis=0)[np.isfinite(values).any(axis=0)]
