"""The agreement of labellers, the reliability of each, and how well anybody could predict the next label.

A unit is what several labellers have labelled; its labels are any hashable values, compared only for being equal.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from .statistics import Interval, interval

Unit = TypeVar("Unit", bound=Hashable)
RESAMPLES = 1000  # of the units, for a bootstrap interval
ROUNDS = 500  # of EM at most
TINY = 1e-9  # keeps the logarithm of what never happened finite


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha for nominal labels: 1 is perfect agreement, 0 what chance alone gives.

    1 - (n - 1) * sum_u (m_u^2 - sum_c n_uc^2) / (m_u - 1) / (n^2 - sum_c n_c^2), over units of m_u >= 2 labels with
    n_uc labels of kind c, n labels in all (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"). NaN where
    no unit has two labels or all labels are of one kind.
    """
    counts = _counts(units)
    return float(_alpha(counts, np.ones((1, len(counts))))[0]) if len(counts) else math.nan


def alpha_interval(units: Sequence[Sequence[Hashable]]) -> Interval:
    """Krippendorff's alpha with a 95% percentile bootstrap over units; n counts the units of two labels or more."""
    counts = _counts(units)
    return _bootstrap(krippendorff_alpha(units), len(counts), lambda weights: _alpha(counts, weights))


def agreement_interval(units: Sequence[Sequence[Hashable]]) -> Interval:
    """The chance that two labellers of a unit give it the same label, with a 95% bootstrap over units."""
    counts = _counts(units)
    if not len(counts):
        return Interval(math.nan, math.nan, math.nan, 0)
    size = counts.sum(1)
    same = (counts * (counts - 1)).sum(1) / (size * (size - 1))
    return _bootstrap(float(same.mean()), len(counts), lambda weights: weights @ same / weights.sum(1))


def ceiling(agreement: float) -> float:
    """The largest share of one more labeller's choices between two that anybody can predict.

    If a share q >= 1/2 of people prefers the better liked response of a pair, the best prediction is right with chance
    q, and two people agree with chance A = q^2 + (1 - q)^2, so q = (1 + sqrt(2 A - 1)) / 2. That is concave in A: over
    pairs that differ in q, the mean of q is at most this value at the mean A (Jensen), and at least A. 1/2 where two
    labellers agree no better than by chance.
    """
    return (1 + math.sqrt(max(2 * agreement - 1, 0.0))) / 2 if math.isfinite(agreement) else math.nan


def cohen_kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Cohen's kappa (1960) of two raters over the same items; None where nobody varies or there is no item."""
    from statsmodels.stats.inter_rater import cohens_kappa

    labels = sorted({*one, *other})
    if len(labels) < 2:
        return None
    table = np.zeros((len(labels), len(labels)))
    for a, b in zip(one, other, strict=True):
        table[labels.index(a), labels.index(b)] += 1
    return float(cohens_kappa(table, return_results=False))


def kappa_limits(
    raters: Sequence[tuple[Sequence[str], Sequence[str], Sequence[str]]],
) -> tuple[float, float] | None:
    """95% limits of the mean of several Cohen's kappas, each of (one, other, clusters); None below two clusters.

    Items come in clusters (pairs of one prompt). kappa = (o - e) / (1 - e) has the derivative of an item
    (agrees - o) / (1 - e) - (1 - o) (b[x] + a[y] - 2 e) / (1 - e)^2 with the raters' shares a and b of each label; they
    add up to a cluster-robust variance (Fleiss, Cohen & Everitt 1969; Liang & Zeger 1986). The limits are Wilson's for
    the agreement that would have it at this chance, so that perfect agreement has some width as well.
    """
    pull: dict[str, float] = {}
    observed, chance, known, items = 0.0, 0.0, 0, 0
    for one, other, clusters in raters:
        n = len(one)
        a, b = ({label: side.count(label) / n for label in {*one, *other}} for side in (list(one), list(other)))
        o = sum(x == y for x, y in zip(one, other, strict=True)) / n if n else 0.0
        e = sum(a[label] * b[label] for label in a)
        if not n or e == 1:
            continue
        known, items, observed, chance = known + 1, items + n, observed + o, chance + e
        for x, y, cluster in zip(one, other, clusters, strict=True):
            slope = ((x == y) - o) / (1 - e) - (1 - o) * (b[x] + a[y] - 2 * e) / (1 - e) ** 2
            pull[cluster] = pull.get(cluster, 0.0) + slope / n
    if not known or len(pull) < 2:
        return None
    o, e, groups = observed / known, chance / known, len(pull)
    variance = groups / (groups - 1) * sum(p * p for p in pull.values()) / known**2 * (1 - e) ** 2
    size = min(o * (1 - o) / variance, items / known) if variance > 0 else groups
    low, high = _wilson(o, size)
    return (low - e) / (1 - e), (high - e) / (1 - e)


def pairwise_kappa(labels: Mapping[str, Mapping[Unit, Hashable]]) -> list[tuple[str, str, Interval]]:
    """Cohen's kappa of every two labellers with 95% limits; labels: labeller -> unit -> label. n: units they share."""
    from statsmodels.stats.inter_rater import cohens_kappa

    found = []
    for one, two in combinations(labels, 2):
        shared = [unit for unit in labels[one] if unit in labels[two]]
        kinds = sorted({labels[who][unit] for who in (one, two) for unit in shared}, key=str)
        if len(kinds) < 2:
            continue
        table = np.zeros((len(kinds), len(kinds)))
        for unit in shared:
            table[kinds.index(labels[one][unit]), kinds.index(labels[two][unit])] += 1
        with np.errstate(divide="ignore", invalid="ignore"):
            result = cohens_kappa(table)
        found.append((one, two, Interval(result.kappa, result.kappa_low, result.kappa_upp, len(shared))))
    return found


def reliability(labels: Mapping[str, Mapping[Unit, Hashable]]) -> dict[str, float]:
    """Each labeller's chance of giving the true label, the truth being estimated too: Dawid & Skene (1979) by EM.

    labels: labeller -> unit -> label. A labeller has a matrix of errors, P(given | true); it and the shares of the true
    labels are what makes all labels most likely. Two labellers cannot be told apart: give three or more.
    """
    units = {unit: row for row, unit in enumerate(dict.fromkeys(unit for given in labels.values() for unit in given))}
    kinds = {kind: k for k, kind in enumerate(dict.fromkeys(label for g in labels.values() for label in g.values()))}
    given = np.zeros((len(labels), len(units), len(kinds)))
    for who, own in enumerate(labels.values()):
        for unit, label in own.items():
            given[who, units[unit], kinds[label]] = 1
    truth = given.sum(0) / given.sum((0, 2))[:, None]  # [units, kinds], from the shares of the votes
    for _ in range(ROUNDS):
        shares = truth.mean(0)
        errors = truth.T @ given + TINY  # [labellers, true, given]
        errors /= errors.sum(2, keepdims=True)
        chance = np.log(shares + TINY) + np.einsum("luk,ltk->ut", given, np.log(errors))
        chance = np.exp(chance - chance.max(1, keepdims=True))
        before, truth = truth, chance / chance.sum(1, keepdims=True)
        if np.abs(truth - before).max() < 1e-6:
            break
    return {who: float(shares @ np.diag(own)) for who, own in zip(labels, errors, strict=True)}


def majority(labels: Sequence[str]) -> str | None:
    """The label that more raters gave than any other; None for a draw."""
    ranked = Counter(labels).most_common(2)
    return None if len(ranked) == 2 and ranked[0][1] == ranked[1][1] else ranked[0][0]


def clustered_share(values: Sequence[bool | float], clusters: Sequence[str]) -> dict[str, Any]:
    """{"mean", "low", "high", "n"} of shares whose rows come in clusters (pairs of one prompt).

    The variance is the cluster-robust one (Liang & Zeger 1986, with G / (G - 1)); the interval is Wilson's at the
    effective sample size that it implies (Dean & Pagano 2015). None where there are no rows, limits None below two
    clusters.
    """
    return mean_share([(values, clusters)])


def mean_share(parts: Sequence[tuple[Sequence[bool | float], Sequence[str]]]) -> dict[str, Any]:
    """The mean over parts (subsets) of each part's share, with the interval of `clustered_share`; n counts rows.

    Every part weighs the same, however many rows it has; one without rows is left out. A cluster may lie in several.
    """
    known = [(values, clusters) for values, clusters in parts if len(values)]
    n = sum(len(values) for values, _ in known)
    if not n:
        return {"mean": None, "low": None, "high": None, "n": 0}
    means = [sum(values) / len(values) for values, _ in known]
    mean = sum(means) / len(means)
    residuals: dict[str, float] = {}
    for (values, clusters), own in zip(known, means, strict=True):
        for value, cluster in zip(values, clusters, strict=True):
            residuals[cluster] = residuals.get(cluster, 0.0) + (value - own) / (len(values) * len(known))
    groups = len(residuals)
    if groups < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    variance = groups / (groups - 1) * sum(r * r for r in residuals.values())
    size = min(mean * (1 - mean) / variance, n) if variance > 0 else groups
    low, high = _wilson(mean, size)
    return {"mean": mean, "low": low, "high": high, "n": n}


def _wilson(mean: float, size: float) -> tuple[float, float]:
    """Wilson's 95% limits of a share of so many independent rows."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(mean * size, size, method="wilson")
    return float(low), float(high)


def beside_another_person(
    labels: Sequence[Hashable], people: Sequence[Sequence[Hashable]], clusters: Sequence[str]
) -> dict[str, Any]:
    """{"agreement", "people", "difference", "low", "high", "n"}: is a rater as good as one more person?

    `agreement`: chance that the rater gives the label of one of a unit's people, `people`: that two of them give the
    same; each a mean over clusters (pairs of one prompt), of the n units with two people or more. The difference is 0
    on average for a rater who labels as these people do; its 95% interval is paired over clusters. None where there is
    no such unit, limits None below two clusters.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    for label, given, cluster in zip(labels, people, clusters, strict=True):
        if len(given) > 1:
            pairs = [x == y for x, y in combinations(given, 2)]
            own = sum(label == each for each in given) / len(given)
            rows.setdefault(cluster, []).append((own, sum(pairs) / len(pairs)))
    if not rows:
        return {"agreement": None, "people": None, "difference": None, "low": None, "high": None, "n": 0}
    own, theirs = np.array([np.mean(values, axis=0) for values in rows.values()]).T
    found = interval((own - theirs)[None], bounds=(-1.0, 1.0))
    low, high = (float(v) if math.isfinite(v) else None for v in (found.low, found.high))
    means = {"agreement": float(own.mean()), "people": float(theirs.mean()), "difference": float(found.mean)}
    return {**means, "low": low, "high": high, "n": sum(map(len, rows.values()))}


def _counts(units: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """[units, kinds]: labels of each kind in the units that have two or more."""
    kinds = {kind: column for column, kind in enumerate(dict.fromkeys(label for unit in units for label in unit))}
    several = [unit for unit in units if len(unit) >= 2]
    counts = np.zeros((len(several), len(kinds)))
    for row, unit in enumerate(several):
        for label in unit:
            counts[row, kinds[label]] += 1
    return counts


def _alpha(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Alpha of each weighting [resamples, units] of the units."""
    size = counts.sum(1)
    observed = weights @ ((size**2 - (counts**2).sum(1)) / (size - 1))
    totals = weights @ counts
    n = totals.sum(1)
    expected = n**2 - (totals**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)


def _bootstrap(value: float, units: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    if units < 2:
        return Interval(value, math.nan, math.nan, units)
    generator = np.random.default_rng(0)
    parts = [
        statistic(generator.multinomial(units, np.full(units, 1 / units), size=100)) for _ in range(RESAMPLES // 100)
    ]
    drawn = np.concatenate(parts)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (math.nan, math.nan)
    return Interval(value, float(low), float(high), units)
