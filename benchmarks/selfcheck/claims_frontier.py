"""False-claim rates of what is said at equal KL, by simulation.

Two methods have curves R(d) = d (2 - 0.7 d), d the square root of the KL, sampled at rows of their own. A response's KL
is Gamma with shape 4 around its policy's; a policy lies 10% (sd) off its row's distance, and a training run's rewards
are its method's times 1 + N(0, 0.1). With one seed the claim is about the policies, whose factor is then 1. Rewards
have an sd of 0.7 between prompts, shared by all policies, 0.4 between prompts for each method, and 0.7 within.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas

from ...analysis.frontier import Point, comparisons, sentences
from .claims import rate_row

SIZES = ((300, 1), (300, 2), (300, 3), (300, 5), (48, 1), (23, 2), (48, 3), (23, 5))  # prompts and seeds
Curve = Callable[[np.ndarray], np.ndarray]
Rows = dict[str, tuple[float, ...]]
METRIC = "reward.gold"
ROWS: Rows = {"a": (0.5, 1.0, 2.0), "b": (0.7, 1.4, 2.4)}
COARSE: Rows = {"a": (0.5, 2.0), "b": (0.8, 1.6)}
ALONE: Rows = {"a": (0.5, 1.0, 2.0), "b": (1.4,)}


def bent(d: np.ndarray) -> np.ndarray:
    return d * (2 - 0.7 * d)


def meeting(d: np.ndarray) -> np.ndarray:
    """Meets `bent` at the lowest common distance of ROWS, and lies above it from there on."""
    return bent(d) + 0.6 * (d - 0.7)


# name: rows, curve of a, curve of b, and the claims that are false of them
DESIGNS: dict[str, tuple[Rows, Curve, Curve, tuple[str, ...]]] = {
    "equal, three rows each": (ROWS, bent, bent, ("average", "everywhere", "cross")),
    "equal, two rows each": (COARSE, bent, bent, ("average", "everywhere", "cross")),
    "equal, one of them a single row": (ALONE, bent, bent, ("average",)),
    "equal where their range begins": (ROWS, meeting, bent, ("everywhere", "cross")),
}
WORDS = {"average": " ahead of ", "everywhere": "at every KL", "cross": "the two cross"}


def points(rng: np.random.Generator, name: str, at: tuple[float, ...], curve: Curve, shared: np.ndarray, seeds: int):
    """The rows of a method as `frontier` has them."""
    prompts = len(shared)
    factor = 1 + (rng.normal(0, 0.1, (seeds, 1)) if seeds > 1 else np.zeros((1, 1)))
    own = shared + rng.normal(0, 0.4, prompts)
    found = []
    for d in at:
        places = d * np.exp(rng.normal(0, 0.1, (seeds, 1)))
        kl = rng.gamma(4, 1 / 4, (seeds, prompts)) * places**2
        rewards = curve(places) * factor + own + rng.normal(0, 0.7, (seeds, prompts))
        found.append(Point(f"{name}:{d}", pandas.DataFrame(kl), {METRIC: pandas.DataFrame(rewards)}))
    return found


def simulate(design: str, prompts: int, seeds: int, rng: np.random.Generator) -> str:
    """The sentence of one simulated run."""
    rows, a, b, _ = DESIGNS[design]
    shared = rng.normal(0, 0.7, prompts)
    methods = {name: points(rng, name, rows[name], curve, shared, seeds) for name, curve in (("a", a), ("b", b))}
    spans = {
        name: {"points": [{"kl": {"mean": float(np.mean(p.kl))}} for p in found]} for name, found in methods.items()
    }
    return " ".join(sentences({"frontier": {"methods": spans, "comparisons": comparisons(methods)}}))


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of sentence, design, runs, and the share of runs in which it was printed and false, with 95% limits."""
    found: list[dict[str, Any]] = []
    for design, (_, _, _, false) in DESIGNS.items():
        for prompts, seeds in SIZES:
            rng = np.random.default_rng([seed, len(found)])
            said = [simulate(design, prompts, seeds, rng) for _ in range(runs)]
            for claim in false:
                count = sum(WORDS[claim] in text for text in said)
                size = f"{prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
                found.append(rate_row(f"at equal KL: {claim}", f"{design}; {size}", count, runs))
    return found
