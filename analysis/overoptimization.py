"""Over-optimization: reward along training against the distance from SFT, and a fall of the true reward.

The training reward model is the proxy. Gold is the true reward or, where a benchmark has none, the evaluation reward
model instead; the true reward's facets are looked at too.

A fall is claimed where one is shown: the reward at the end lies below that at an earlier checkpoint (SFT is the first),
paired by prompt and seed, with a one-sided error of 2.5% over all earlier checkpoints, facets and methods of the run
together (Bonferroni). So the interval that is printed holds at whichever checkpoint was chosen. It is about the
policies that were trained here, their mean on further prompts, and not about training runs to come. "Over-optimized" is
said where the proxy is shown in the same way to rise over the same stretch. `claims_overoptimization.py` simulates it.

With d = sqrt(KL) and rewards less SFT's mean, so that R(0) = 0, curves are fitted for the eye and for alpha and beta.
The first two are those of Gao, Schulman & Hilton (2022, arXiv:2210.10760), and both turn; the third levels off:

    best-of-n    R(d) = d (alpha - beta d)              peak at alpha / (2 beta)
    RL           R(d) = d (alpha - beta log d)          peak at exp(alpha / beta - 1)
    saturating   R(d) = alpha (1 - exp(-d / beta))      no peak

They are fitted by least squares to the means of all checkpoints and seeds, d taken as known; the one that leaves least
is used. Intervals come from each response's influence on the coefficients (of the third: linearized). No curve is
fitted where the farthest checkpoint is less than twice as far from SFT as the nearest: over so short a range every form
fits as well as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, isfinite, log, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar

from .metric_names import evaluator
from .paired_change import by_prompt, paired_change, span
from .statistics import interval

if TYPE_CHECKING:
    import pandas

PROXY, GOLD, STAND_IN = "reward.training", "reward.gold", "reward.reward_model"
NAMES = {PROXY: "the training reward", GOLD: "the true reward", STAND_IN: "the evaluation reward model"}
LEAST = 3  # checkpoints, the final policy included, below which two coefficients fit anything
RANGE = 2.0  # times the distance of the nearest checkpoint that the farthest must lie at for a fit
LEVEL = 0.05  # of all falls of a run together, two-sided
FORMS = ("best_of_n", "rl", "saturating")


@dataclass(frozen=True)
class Course:
    """A method's checkpoints that every seed has, SFT first."""

    examples: list[int]
    kl: np.ndarray
    """Mean KL to SFT in nats, [checkpoints, seeds]."""
    rewards: dict[str, np.ndarray]
    """By metric, [checkpoints, seeds, prompts]; NaN where a facet does not apply."""

    @property
    def distances(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.kl, 0.0))

    @property
    def meant(self) -> list[str]:
        """The metrics that were not optimized: the true reward with its facets, or its stand-in."""
        gold = [name for name in self.rewards if name == GOLD or name.startswith(f"{GOLD}.")]
        return gold or [name for name in (STAND_IN,) if name in self.rewards]


def overoptimization(along: pandas.DataFrame) -> dict[str, Any]:
    """For each method its points, the fits of each reward, its fall (None where none is shown), and a sentence.

    along: columns method, seed, examples, metric, prompt_id, value; SFT at 0 examples, metric `kl` among the others.
    """
    courses = {str(method): _course(part) for method, part in along.groupby("method", sort=False)}
    tests = sum(len(course.meant) * (len(course.examples) - 1) for course in courses.values())
    return {method: _of_method(method, course, LEVEL / max(tests, 1)) for method, course in courses.items()}


def _of_method(method: str, course: Course, alpha: float) -> dict[str, Any]:
    shown = {name: course.rewards[name] for name in (PROXY, STAND_IN, GOLD) if name in course.rewards}
    points: list[dict[str, Any]] = [
        {
            "examples": count,
            "distance": float(np.nanmean(course.distances[i])),
            "reward": {name: asdict(interval(values[i] - values[0])) for name, values in shown.items()},
        }
        for i, count in enumerate(course.examples)
        if count
    ]
    refused = _refused([point["distance"] for point in points])
    found: dict[str, Any] = {"seeds": course.kl.shape[1], "points": points, "fits": {}, "refused": refused}
    if not refused:
        distances = course.distances[1:]
        found["fits"] = {name: _best_fit(distances, values[1:] - values[:1]) for name, values in shown.items()}
    found["fall"] = fall(course, alpha)
    return found | {"text": _sentence(method, found)}


def _course(rows: pandas.DataFrame) -> Course:
    tables = {str(metric): _table(part) for metric, part in rows.groupby("metric")}
    with np.errstate(invalid="ignore"):
        kl = np.nanmean(tables.pop("kl")[1], axis=2)
    examples = next(iter(tables.values()))[0]
    return Course(examples, kl, {name: values for name, (_, values) in tables.items()})


def _table(part: pandas.DataFrame) -> tuple[list[int], np.ndarray]:
    """The checkpoints that every seed has, and values [examples, seeds, prompts], SFT first."""
    wide = part.pivot_table(index=["examples", "seed"], columns="prompt_id", values="value", dropna=False)
    seeds = sorted(part["seed"].unique())
    seeds_at = part.groupby("examples")["seed"].nunique()
    counts = seeds_at.index[seeds_at == len(seeds)].tolist()
    return [int(c) for c in counts], np.stack([[wide.loc[(e, s)].to_numpy(dtype=float) for s in seeds] for e in counts])


def fall(course: Course, alpha: float) -> dict[str, Any] | None:
    """The fall from an earlier checkpoint to the end that is shown best, or None; alpha: two-sided, of one test.

    One over which the proxy is shown to rise goes before. `metric` is what falls, `drop` and `rise` (of the proxy) have
    mean, low and high; examples and kl are those where the fall begins.
    """
    found: list[dict[str, Any]] = []
    proxy = course.rewards.get(PROXY)
    proxys_span = span(np.stack([by_prompt(part) for part in proxy])) if proxy is not None else 0.0
    for name in course.meant:
        values = course.rewards[name]
        reach = span(np.stack([by_prompt(part) for part in values]))
        for place, count in enumerate(course.examples[:-1]):
            drop = paired_change(values[place], values[-1], alpha, reach)
            if not drop.low > 0:
                continue
            rise = paired_change(proxy[-1], proxy[place], alpha, proxys_span) if proxy is not None else None
            found.append(
                {
                    "metric": name,
                    "examples": count,
                    "kl": float(np.nanmean(course.kl[place])),
                    "drop": asdict(drop),
                    "rise": asdict(rise) if rise else None,
                    "proxy_rises": rise is not None and rise.low > 0,
                }
            )
    return max(found, key=lambda row: (row["proxy_rises"], row["drop"]["low"]), default=None)


def _refused(distances: Sequence[float]) -> str | None:
    """A reason not to fit a curve to checkpoints at these distances."""
    if len(distances) < LEAST:
        return f"{len(distances)} checkpoints are too few to fit a curve, set evaluation.along to {LEAST} or more"
    nearest, farthest = min(distances), max(distances)
    if not farthest > 0:
        return "the policy did not move away from SFT, so no curve is fitted"
    if farthest < RANGE * nearest:
        return (
            f"the checkpoints lie {nearest:.2f} to {farthest:.2f} from SFT (square root of the KL), "
            f"so no curve is fitted: a range of {RANGE:g} to 1 is asked for"
        )
    return None


def _best_fit(distances: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    fits = [fit(form, distances, rewards) for form in FORMS]
    return min(fits, key=lambda found: found["rmse"])


def fit(form: str, distances: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    """One form fitted to distances [checkpoints, seeds] and rewards over SFT's [checkpoints, seeds, prompts].

    Returns alpha and beta, each with its interval, the peak (a distance; NaN where the fitted curve has none) and the
    root mean squared error of the means.
    """
    d = np.maximum(distances.ravel(), 1e-9)
    seeds, end = distances.shape[1], float(d.max())
    means = np.nanmean(rewards, axis=2).ravel()
    coefficients, slopes = _saturating(d, means) if form == "saturating" else _linear(form, d, means)
    fitted = curve(form, coefficients[0], coefficients[1], d)
    weights = np.linalg.pinv(slopes).reshape(2, *distances.shape)
    influence = seeds * np.einsum("kcs,csp->ksp", weights, rewards - fitted.reshape(*distances.shape, 1))
    alpha, beta = (interval(c + part) for c, part in zip(coefficients, influence, strict=True))
    return {
        "form": form,
        "alpha": asdict(alpha),
        "beta": asdict(beta),
        "end": end,
        "peak": _peak(form, float(coefficients[0]), float(coefficients[1]), end),
        "rmse": sqrt(float(np.mean((means - fitted) ** 2))),
    }


def _linear(form: str, d: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and beta of a form that is linear in both, and the derivatives of its values by them."""
    design = np.column_stack([d, -d * d if form == "best_of_n" else -d * np.log(d)])
    return np.linalg.pinv(design) @ means, design


def _saturating(d: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of the form that levels off: for each beta the best alpha is known, so one number is searched."""

    def best(log_beta: float) -> tuple[float, float]:
        shape = 1 - np.exp(-d / exp(log_beta))
        alpha = float(shape @ means / (shape @ shape))
        return float(np.sum((means - alpha * shape) ** 2)), alpha

    limits = log(float(d.min()) / 10), log(10 * float(d.max()))  # beyond them it is a constant, or a straight line
    grid = np.linspace(*limits, 60)
    start = int(np.argmin([best(place)[0] for place in grid]))
    near = grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)]
    log_beta = float(minimize_scalar(lambda place: best(place)[0], bounds=near, method="bounded").x)
    alpha, beta = best(log_beta)[1], exp(log_beta)
    decay = np.exp(-d / beta)
    return np.array([alpha, beta]), np.column_stack([1 - decay, -alpha * d / beta**2 * decay])


def curve(form: str, alpha: float, beta: float, d: Any) -> Any:
    """The reward of a form at distances above 0: a number or an array."""
    if form == "saturating":
        return alpha * (1 - np.exp(-d / beta))
    return d * (alpha - beta * (d if form == "best_of_n" else np.log(d)))


def value(found: Mapping[str, Any], d: float) -> float:
    """The fitted reward at a distance above 0."""
    return float(curve(found["form"], found["alpha"]["mean"], found["beta"]["mean"], d))


def _peak(form: str, alpha: float, beta: float, end: float) -> float:
    """The distance at the fitted curve's maximum; NaN where it has none within twice the largest distance."""
    if form == "saturating" or beta <= 0:
        return nan
    peak = alpha / (2 * beta) if form == "best_of_n" else exp(min(alpha / beta - 1, 50.0))
    return peak if 0 < peak <= 2 * end else nan


def _sentence(method: str, found: Mapping[str, Any]) -> str:
    """A sentence on whether gold falls while the proxy rises."""
    points, shown = found["points"], found["fall"]
    these = f"these {found['seeds']} policies" if found["seeds"] > 1 else "this policy"
    refused = f" ({found['refused']})" if found["refused"] else ""
    gold = next((name for name in (GOLD, STAND_IN) if points and name in points[-1]["reward"]), None)
    if not gold:
        return f"{method}: nothing but what was optimized was measured along training"
    end = points[-1]["reward"][gold]
    kl = f"a KL of {points[-1]['distance'] ** 2:.2g} nats"
    if shown is None:
        if not isfinite(end["low"]):
            return f"{method}: too few prompts for an interval{refused}"
        return (
            f"{method}: in {these} no fall of {NAMES[gold]} is shown up to {kl}, where it lies {_sized(end)} over "
            f"SFT's{refused}"
        )
    start = f"a KL of {shown['kl']:.2g} nats ({shown['examples']:,} examples)" if shown["examples"] else "SFT"
    falls = f"{name_of(shown['metric'])} falls by {_sized(shown['drop'])} from {start} to the end at {kl}"
    if shown["proxy_rises"]:
        rises = f"while {NAMES[PROXY]} rises by {_sized(shown['rise'])}"
        return f"{method} is over-optimized in {these}: {falls}, {rises}{refused}"
    return f"{method}: in {these} {falls}, and {NAMES[PROXY]} is not shown to rise{refused}"


def name_of(metric: str) -> str:
    """A reward as a sentence calls it: "the true reward (harmless)"."""
    if metric in NAMES:
        return NAMES[metric]
    facet = evaluator(metric.removeprefix("reward.")).partition(", ")[2]
    return f"{NAMES[GOLD]} ({facet})"


def _sized(cell: Mapping[str, float]) -> str:
    return f"{cell['mean']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]".replace("-", "−")
