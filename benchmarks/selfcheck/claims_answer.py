"""False answers of a study to the question that it was made for, by simulation.

Studies are those of `claims_axes.py` and, at equal KL, of flat curves, with designs of the shapes of those that are
shipped. Yes is false where a statement that it needs is, no where none of its statements is true. A difference of the
margin itself is not equal. That the reverse of a statement is shown is false in all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas
from scipy.stats import norm

from ...analysis.answer import NO, YES, answer
from ...analysis.axes import along_axes, beside_the_first
from ...analysis.comparisons import MARGIN
from ...analysis.frontier import Point, comparisons
from ...analysis.summary import plain
from .claims import rate_row
from .claims_axes import METRIC, REST_SD, RUN_SD, scores

SIZES = ((300, 1), (300, 3), (48, 1))  # prompts and seeds
VALUES = [0, 0.25]
LAST = {"at": {"axis": VALUES[-1]}}
Means = Mapping[str, tuple[float, ...]]


def said(method: str, verdict: str, **more: Any) -> dict[str, Any]:
    return {"method": method, "verdict": verdict, "by": METRIC, **more}


def sides(yes: str, *methods: str, **more: Any) -> dict[str, Any]:
    """A design: yes where every method is so beside a, no where one is equal to it or the reverse."""
    other = "lower" if yes == "higher" else "higher"
    refuted = [said(name, verdict, than="a", **more) for name in methods for verdict in ("equal", other)]
    return {"yes_if": [said(name, yes, than="a", **more) for name in methods], "no_if": refuted}


AT_ONE_VALUE = sides("higher", "b", "c", **LAST)
ALONG = sides("higher", "b", along="axis")
BESIDE = sides("lower", "b", "c")
AT_EQUAL_KL = sides("higher", "b", equal_kl=True)
# name: the question's design, mean win rates by method and value, and the answer that is false
DESIGNS: dict[str, tuple[dict[str, Any], Means, str]] = {
    "above at one value; one is, one is equal": (
        AT_ONE_VALUE, {"a": (0.6, 0.5), "b": (0.6, 0.7), "c": (0.6, 0.5)}, YES),
    "above at one value; both are, by the margin": (
        AT_ONE_VALUE, {"a": (0.6, 0.5), "b": (0.6, 0.5 + MARGIN), "c": (0.6, 0.5 + MARGIN)}, NO),
    "gains along an axis; both lose alike": (ALONG, {"a": (0.7, 0.5), "b": (0.7, 0.5)}, YES),
    "gains along an axis; by the margin": (ALONG, {"a": (0.7, 0.5), "b": (0.7, 0.5 + MARGIN)}, NO),
    "below the first; one is, one is equal": (BESIDE, {"a": (0.7,), "b": (0.5,), "c": (0.7,)}, YES),
    "below the first; both are, by the margin": (
        BESIDE, {"a": (0.7,), "b": (0.7 - MARGIN,), "c": (0.7 - MARGIN,)}, NO),
    "ahead at equal KL; equal": (AT_EQUAL_KL, {"a": (0.6,), "b": (0.6,)}, YES),
    "ahead at equal KL; by the margin": (AT_EQUAL_KL, {"a": (0.6,), "b": (0.6 + MARGIN,)}, NO),
}  # fmt: skip


def latent(rate: float, seeds: int) -> float:
    """The mean of a latent score that wins so often, over prompts, responses and, with several seeds, training runs."""
    return float(norm.ppf(rate)) * np.sqrt(0.5**2 + 0.5**2 + REST_SD**2 + (RUN_SD**2 if seeds > 1 else 0.0))


def _axis(means: Means, prompts: int, seeds: int, rng: np.random.Generator) -> dict[str, Any]:
    found = scores({n: tuple(latent(r, seeds) for r in rates) for n, rates in means.items()}, prompts, seeds, rng)
    return {"axes": along_axes(found, {"axis": VALUES})}


def _beside(means: Means, prompts: int, seeds: int, rng: np.random.Generator) -> dict[str, Any]:
    found = scores({n: (latent(rate, seeds),) for n, (rate,) in means.items()}, prompts, seeds, rng)
    return {"beside_the_first": beside_the_first(found, list(means))}


def _at_equal_kl(means: Means, prompts: int, seeds: int, rng: np.random.Generator) -> dict[str, Any]:
    """Rows of a and b at distances of their own, whose wins do not hang on the distance."""
    shared, methods = rng.normal(0, 0.5, prompts), {}
    for (name, (rate,)), distances in zip(means.items(), ((0.5, 1.0, 2.0), (0.7, 1.4, 2.4)), strict=True):
        own, points = shared + rng.normal(0, 0.5, prompts), []
        for d in distances:
            runs = latent(rate, seeds) + float(seeds > 1) * rng.normal(0, RUN_SD, (seeds, 1))
            wins = (runs + own + rng.normal(0, REST_SD, (seeds, prompts)) > 0) - 0.5
            kl = rng.gamma(4, 1 / 4, (seeds, prompts)) * d**2
            points.append(Point(f"{name}:{d}", pandas.DataFrame(kl), {METRIC: pandas.DataFrame(wins)}))
        methods[name] = points
    return {"frontiers": [{"at": {}, "comparisons": comparisons(methods)}]}


def simulate(design: str, prompts: int, seeds: int, rng: np.random.Generator) -> dict[str, Any]:
    """The answer of one simulated study, with the statements of both sides."""
    asked, means, _ = DESIGNS[design]
    made: Callable[..., dict[str, Any]] = _axis
    if asked is AT_EQUAL_KL:
        made = _at_equal_kl
    elif asked is BESIDE:
        made = _beside
    found = made(means, prompts, seeds, rng)
    return answer({"axes": {}, **plain(found), "design": asked, "margin": MARGIN})


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of answer, design, runs, and the share of runs in which it was given and false, with 95% limits."""
    found: list[dict[str, Any]] = []
    for design, (_, _, false) in DESIGNS.items():
        for prompts, seeds in SIZES:
            rng = np.random.default_rng([seed, len(found)])
            given = [simulate(design, prompts, seeds, rng) for _ in range(runs)]
            text = f"{design}; {prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
            count = sum(one["answer"] == false for one in given)
            found.append(rate_row(f"a study's answer: {false}", text, count, runs))
            count = sum(any(said["reverse"] for said in one[YES]) for one in given)
            found.append(rate_row("the reverse of a study's statement is shown", text, count, runs))
    return found
