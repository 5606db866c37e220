"""Over-optimization: reward along training against the distance from SFT, and where the true reward turns.

Gao, Schulman & Hilton (2022, arXiv:2210.10760), with d = sqrt(KL) and rewards less SFT's mean, so that R(0) = 0:

    best-of-n    R(d) = d (alpha - beta d)          peak at alpha / (2 beta)
    RL           R(d) = d (alpha - beta log d)      peak at exp(alpha / beta - 1)

Both are linear in alpha and beta and fitted by least squares to the means of all checkpoints and seeds, d taken as
known; the one that leaves less is used. Intervals come from each response's influence on the coefficients. The proxy is
the training reward model. Gold is the true reward or, where a benchmark has none, the evaluation reward model instead.

"Gold turns while the proxy rises" is claimed when, at the largest distance of the training, the fitted slope of gold is
below 0 and that of the proxy above 0, both intervals leaving 0 out: the highest of noisy means would prove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import exp, isfinite, log, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from .statistics import interval

if TYPE_CHECKING:
    import pandas

PROXY, GOLD, STAND_IN = "reward.training", "reward.gold", "reward.reward_model"
NAMES = {PROXY: "the training reward model", GOLD: "the true reward", STAND_IN: "the evaluation reward model"}
LEAST = 3  # checkpoints, the final policy included, below which two coefficients fit anything
FORMS = ("best_of_n", "rl")


def overoptimization(along: pandas.DataFrame) -> dict[str, Any]:
    """For each method its points, the fits of each reward, and a sentence.

    along: columns method, seed, examples, metric, prompt_id, value; SFT at 0 examples, metric `kl` among the others.
    """
    return {str(method): _of_method(str(method), part) for method, part in along.groupby("method", sort=False)}


def _of_method(method: str, rows: pandas.DataFrame) -> dict[str, Any]:
    tables = {metric: _table(part) for metric, part in rows.groupby("metric")}
    distances = np.sqrt(np.maximum(np.nanmean(tables.pop("kl")[1], axis=2), 0.0))  # [examples, seeds]
    rewards = {name: tables[name] for name in (PROXY, STAND_IN, GOLD) if name in tables}
    examples = next(iter(rewards.values()))[0]
    points = [
        {
            "examples": int(count),
            "distance": float(np.nanmean(distances[i])),
            "reward": {name: asdict(interval(values[i] - values[0])) for name, (_, values) in rewards.items()},
        }
        for i, count in enumerate(examples)
        if count
    ]
    found: dict[str, Any] = {"points": points, "fits": {}}
    if len(points) >= LEAST and distances.max() > 0:
        found["fits"] = {
            name: _best_fit(distances[1:], values[1:] - values[:1]) for name, (_, values) in rewards.items()
        }
    return found | {"text": _sentence(method, found, GOLD if GOLD in rewards else STAND_IN)}


def _table(part: pandas.DataFrame) -> tuple[list[int], np.ndarray]:
    """The checkpoints that every seed has, and values [examples, seeds, prompts], SFT first."""
    wide = part.pivot_table(index=["examples", "seed"], columns="prompt_id", values="value", dropna=False)
    seeds = sorted(part["seed"].unique())
    seeds_at = part.groupby("examples")["seed"].nunique()
    counts = seeds_at.index[seeds_at == len(seeds)].tolist()
    return counts, np.stack([[wide.loc[(e, s)].to_numpy(dtype=float) for s in seeds] for e in counts])


def _best_fit(distances: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    fits = [fit(form, distances, rewards) for form in FORMS]
    return min(fits, key=lambda found: found["rmse"])


def fit(form: str, distances: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    """One form fitted to distances [checkpoints, seeds] and rewards over SFT's [checkpoints, seeds, prompts].

    Returns alpha, beta and the slope at the largest distance, each with its interval, the peak (a distance; None where
    the fitted curve has none) and the root mean squared error of the means.
    """
    d = np.maximum(distances.ravel(), 1e-9)
    seeds = distances.shape[1]
    design = np.column_stack([d, -d * d if form == "best_of_n" else -d * np.log(d)])
    solve = np.linalg.pinv(design)  # [2, checkpoints * seeds]
    means = np.nanmean(rewards, axis=2).ravel()
    coefficients = solve @ means
    residuals = rewards - (design @ coefficients).reshape(*distances.shape, 1)
    weights = solve.reshape(2, *distances.shape)
    influence = seeds * np.einsum("kcs,csp->ksp", weights, residuals)
    alpha, beta = (interval(c + part) for c, part in zip(coefficients, influence, strict=True))
    end = float(d.max())
    by = np.array([1.0, -2 * end]) if form == "best_of_n" else np.array([1.0, -log(end) - 1])
    slope = interval(float(by @ coefficients) + np.tensordot(by, influence, axes=1))
    return {
        "form": form,
        "alpha": asdict(alpha),
        "beta": asdict(beta),
        "slope_at_end": asdict(slope),
        "end": end,
        "peak": _peak(form, float(coefficients[0]), float(coefficients[1]), end),
        "rmse": sqrt(float(np.mean((means - design @ coefficients) ** 2))),
    }


def value(found: Mapping[str, Any], d: float) -> float:
    """The fitted reward at a distance above 0."""
    alpha, beta = found["alpha"]["mean"], found["beta"]["mean"]
    return d * (alpha - beta * (d if found["form"] == "best_of_n" else log(d)))


def _peak(form: str, alpha: float, beta: float, end: float) -> float:
    """The distance at the fitted curve's maximum; NaN where it has none within twice the largest distance."""
    if beta <= 0:
        return nan
    peak = alpha / (2 * beta) if form == "best_of_n" else exp(min(alpha / beta - 1, 50.0))
    return peak if 0 < peak <= 2 * end else nan


def _sentence(method: str, found: Mapping[str, Any], gold: str) -> str:
    """A sentence on whether gold turns while the proxy rises."""
    points, fits = found["points"], found["fits"]
    if gold not in fits or PROXY not in fits:
        return (
            f"{method}: {len(points)} checkpoints are too few to fit a curve; "
            f"set evaluation.along to {LEAST} or more, on a run that moves away from SFT"
        )
    true, proxy = fits[gold], fits[PROXY]
    down, up = true["slope_at_end"], proxy["slope_at_end"]
    if not all(isfinite(x) for s in (down, up) for x in (s["low"], s["high"])):
        return f"{method}: too few prompts for an interval of the slopes"
    kl = f"a KL of {true['end'] ** 2:.2g} nats"
    falls, rises = down["high"] < 0, up["low"] > 0
    if falls and rises:
        where = f" from a KL of about {true['peak'] ** 2:.2g} nats on" if isfinite(true["peak"]) else ""
        return f"{method} is over-optimized: {NAMES[gold]} falls{where} while {NAMES[PROXY]} still rises at {kl}"
    if falls:
        return f"{method}: {NAMES[gold]} falls at {kl}, and {NAMES[PROXY]} is not shown to rise there"
    if rises and down["low"] > 0:
        return f"{method}: no turn up to {kl}; {NAMES[gold]} still rises with {NAMES[PROXY]}"
    if rises:
        return f"{method}: {NAMES[PROXY]} still rises at {kl}, and {NAMES[gold]} is shown neither to rise nor to fall"
    return f"{method}: neither a rise nor a turn is shown at {kl}"
