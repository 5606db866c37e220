"""Intervals, paired comparisons and corrections for scores that lie on a grid of training seeds and prompts.

A score y[s, p] is modelled as mean + seed effect + prompt effect + rest: the prompts are the same for every seed, so
the two effects are crossed, and averaging over more prompts does not shrink the variation between training runs.
With the mean squares MSA (seeds), MSB (prompts) and MSE (rest) of the two-way table of N = S * P scores,

    Var(mean) = (MSA + (MSB - MSE)) / N

of which the seed part is MSA / N and the prompt part max(MSB - MSE, 0) / N. The interval is mean +- q * sqrt(V) with
V their sum and a quantile q between Student's for P - 1 and S - 1 degrees of freedom, by the seed part's share of V:

    q^4 = t[P-1]^4 + (t[S-1]^4 - t[P-1]^4) * share^2

that is, the excess over the normal case adds in quadrature, as in Burdick & Graybill's (1992) limits for sums of
variances. By numerical integration (Gaussian scores; seeds that differ not at all to without bound; prompts from hardly
to much) it covers 95.0 to 98.1% with 2 seeds, 96.6% with 3 and 95.5% with 5 at most, and the errors at the levels that
Holm's correction asks for (1%, 0.2%) never exceed the nominal ones; `coverage.py` simulates it. Tried and left out:
adding the parts' own half-widths as squares (MOVER, Zou & Donner 2008: 97.7% with 3 seeds where training runs hardly
differ), Cochran's weighted t (1.8 times the errors at 0.2%), Satterthwaite's degrees of freedom (cover down to 88% with
two seeds, 92% with three), a bootstrap of seeds and prompts (63% and 79%), pooling the seeds when they do not differ
significantly (1.7 times the errors), and taking MSE out of the seed part (two to five times the errors at small p).

Training runs that agree by chance must not make a difference certain: of two seeds' wins on 48 prompts one pair in
twelve has the very same sum, and then nothing is left of the seed part. So the half-width is never below Student's for
the values taken as if no two had a seed or prompt in common; those that have are not less alike than others.

With one seed there is no seed part: the interval is Student's over prompts. It supports a statement about that one
trained policy on further prompts, and none about the method: another training run may lie well outside it.

Means of bounded values (win rates) get Wilson's interval with the effective sample size that this variance implies
(Dean & Pagano 2015), so they stay inside the bounds and are asymmetric near them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, hypot, inf, log, nan, sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

SMALLEST_P = 1e-100


@dataclass(frozen=True)
class Interval:
    """A mean with its interval. `n` counts the values behind it; low and high are NaN where there are too few."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A mean difference a - b with its interval and two-sided p: p < 1 - level exactly when the interval excludes 0."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Grid:
    """Scores as the interval needs them: the mean, the variances of its two parts, and how many of each."""

    mean: float
    seed_variance: float
    prompt_variance: float
    seeds: int
    prompts: int
    n: int
    rest: float = 0.0
    """The mean square of what is neither seed nor prompt; 0 with one seed, where it cannot be told from prompts."""
    apart: float = 0.0
    """The variance of the mean if no two values had a seed or a prompt in common: the least that it can be."""

    def squared_half_width(self, alpha: float) -> float:
        """Squared half-width of the interval at level 1 - alpha on the plain scale."""
        over_prompts = t_squared(self.prompts, alpha)
        if self.seeds == 1:
            return over_prompts * self.prompt_variance
        a, b = self.seed_variance, self.prompt_variance
        # q^2 V, not overflowing
        crossed = hypot(t_squared(self.seeds, alpha) * a, over_prompts * sqrt(b * (b + 2 * a)))
        return max(crossed, over_prompts * self.apart)


def interval(values: np.ndarray, level: float = 0.95, bounds: tuple[float, float] | None = None) -> Interval:
    """The mean of values [seeds, prompts] and its interval over prompts and, with two or more seeds, training runs.

    NaN marks a missing value; a seed or prompt without any value is dropped. `bounds` are the limits that every value
    keeps (0 and 1 for a win rate): the interval then stays inside them and never has zero width. Fewer than two
    prompts give NaN limits.
    """
    grid = analyse(values)
    return Interval(grid.mean, *_limits(grid, 1 - level, bounds), grid.n)


def compare(a: np.ndarray, b: np.ndarray, level: float = 0.95, bounds: tuple[float, float] | None = None) -> Comparison:
    """The mean of a - b, both [seeds, prompts], paired by prompt and by seed index; a pair with a NaN is left out.

    `bounds` are the limits of the difference, not of the values: -1 and 1 for two win rates.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"scores to compare must have one shape [seeds, prompts], got {a.shape} and {b.shape}")
    grid = analyse(a - b)
    return Comparison(grid.mean, *_limits(grid, 1 - level, bounds), _p_value(grid, bounds))


def holm(ps: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Holm's adjusted p-values, in the order given: the chance of any false claim among them stays at the level.

    weights, each above 0: how the level is divided among the hypotheses (Holm 1979, section 4); equal by default.
    """
    weights = weights or [1.0] * len(ps)
    order = sorted(range(len(ps)), key=lambda i: ps[i] / weights[i])
    left, highest, adjusted = sum(weights), 0.0, [nan] * len(ps)
    for i in order:
        highest = max(highest, ps[i] / weights[i] * left)
        adjusted[i] = min(1.0, highest)
        left -= weights[i]
    return adjusted


def analyse(values: np.ndarray) -> Grid:
    """The two-way table of values [seeds, prompts] with NaN for missing, by cluster sums so that gaps do no harm.

    On a full table the sums are the mean squares of the analysis of variance; with gaps they are the cluster-robust
    variances of Cameron, Gelbach & Miller (2011).
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"scores must have the shape [seeds, prompts], got {values.shape}")
    present = np.isfinite(values)
    values = values[present.any(1)][:, present.any(0)]
    present = np.isfinite(values)
    seeds, prompts, n = *values.shape, int(present.sum())
    if prompts < 2:
        return Grid(float(values[present].mean()) if n else nan, nan, nan, seeds, prompts, n)
    mean = float(values[present].mean())
    centred = np.where(present, values - mean, 0.0)
    by_prompt = prompts / (prompts - 1) * float((centred.sum(0) ** 2).sum()) / n**2
    if seeds == 1:
        return Grid(mean, 0.0, by_prompt, seeds, prompts, n)
    by_seed = seeds / (seeds - 1) * float((centred.sum(1) ** 2).sum()) / n**2
    freedom = n - seeds - prompts + 1
    rest = _residual_sum_of_squares(centred, present) / freedom if freedom > 0 else 0.0
    apart = float((centred**2).sum()) / (n - 1) / n
    return Grid(mean, by_seed, max(by_prompt - rest / n, 0.0), seeds, prompts, n, rest, apart)


def _residual_sum_of_squares(centred: np.ndarray, present: np.ndarray) -> float:
    """The rest of the table after a seed effect and a prompt effect: least squares by alternating projections."""
    residual = centred
    for _ in range(1 if present.all() else 50):  # a full table is exact after one round
        for axis in (0, 1):
            means = residual.sum(axis, keepdims=True) / present.sum(axis, keepdims=True)
            residual = np.where(present, residual - means, 0.0)
    return float((residual**2).sum())


def t_squared(count: int, alpha: float) -> float:
    """Squared Student quantile for `count` clusters, from the lower tail, where a tiny alpha keeps its digits."""
    return float(stdtrit(count - 1, alpha / 2)) ** 2


def _limits(grid: Grid, alpha: float, bounds: tuple[float, float] | None) -> tuple[float, float]:
    if grid.prompts < 2:
        return nan, nan
    if bounds is None:
        half = sqrt(grid.squared_half_width(alpha))
        return grid.mean - half, grid.mean + half
    low, high = bounds
    share = (grid.mean - low) / (high - low)
    g = _wilson_ratio(grid, share, alpha, bounds)
    centre = (share + g / 2) / (1 + g)
    half = sqrt(g * share * (1 - share) + g * g / 4) / (1 + g)
    return low + (high - low) * max(centre - half, 0.0), low + (high - low) * min(centre + half, 1.0)


def _wilson_ratio(grid: Grid, share: float, alpha: float, bounds: tuple[float, float]) -> float:
    """t^2 / effective sample size: Wilson's z^2 / n for a mean whose share of the way between its bounds is `share`.

    Floor where the scores hardly vary: the variance of `prompts` equal scores with two pseudo-prompts at either bound
    (Agresti & Coull 1998), or the binomial one where that is smaller: 60 wins of 60 get Wilson's own interval for 60
    trials, 60 ties of 60 get one that allows for the few wins or losses which 60 prompts could have missed.
    """
    width, spread = bounds[1] - bounds[0], share * (1 - share)
    pseudo = 2 * (share**2 + (1 - share) ** 2) / (grid.prompts + 4) ** 2
    quantile = t_squared(grid.prompts, alpha)
    if spread <= 0:
        return quantile / grid.prompts
    floor = quantile * min(1 / grid.prompts, pseudo / spread)
    return max(grid.squared_half_width(alpha) / width**2 / spread, floor)


def _p_value(grid: Grid, bounds: tuple[float, float] | None) -> float:
    """The alpha at which the interval just reaches 0: the test that the interval is the inverse of."""
    if grid.prompts < 2:
        return nan
    distance, reach = _against_zero(grid, bounds)
    if distance == 0:  # also where a mean that is 0 but for rounding vanishes beside the bounds
        return 1.0

    def excess(log_alpha: float) -> float:
        squared = reach(exp(log_alpha))
        return log(squared / distance) if squared > 0 else -inf

    smallest, largest = log(SMALLEST_P), log(1 - 1e-9)
    if excess(smallest) <= 0:
        return 0.0
    if excess(largest) >= 0:
        return 1.0
    return exp(brentq(excess, smallest, largest, xtol=1e-12))


def _against_zero(grid: Grid, bounds: tuple[float, float] | None) -> tuple[float, Callable[[float], float]]:
    """The squared distance of the mean from 0, and the squared distance that an interval at alpha reaches."""
    if bounds is None:
        return grid.mean**2, grid.squared_half_width
    width = bounds[1] - bounds[0]
    share, zero = (grid.mean - bounds[0]) / width, -bounds[0] / width
    # Wilson's interval excludes `zero` when (share - zero)^2 > z^2 / n * zero (1 - zero): the score test.
    return (share - zero) ** 2, lambda alpha: _wilson_ratio(grid, share, alpha, bounds) * zero * (1 - zero)
