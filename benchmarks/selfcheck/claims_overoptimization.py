"""The rate at which "the true reward falls" and "over-optimized" are said of policies of which they are false.

Six checkpoints and SFT, at distances that grow by one factor. A checkpoint's reward is drawn for each prompt: right,
padded, wrong or noise, as in the built-in world, and most prompts get from one checkpoint the kind of response that
they got from the one before. So differences are discrete, many are 0, and where a few prompts gain much while many lose
a little their distribution is skewed. Curves of the mean: one that levels off, one that rises ever more slowly, a
constant, and one where a fifth of the prompts gains what the rest loses by padding. Each policy has a curve of its own
around that of the method, and the sentence is about these policies: it is false where their mean at the end is no
lower than at the checkpoint that it names (or the proxy's no higher).
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from ...analysis.overoptimization import GOLD, LEVEL, PROXY, Course, fall
from .claims import rate_row

PROMPTS, SEEDS = (300, 48, 23), (1, 2, 3, 5)
DISTANCES = np.array([0.0, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0])
STAY = 0.7  # share of prompts whose response is of the kind that it was at the checkpoint before
Drawn = tuple[Course, np.ndarray, np.ndarray]  # a course, and the true means of gold and proxy [checkpoints]
Curve = Callable[[np.ndarray], np.ndarray]
CURVES: dict[str, Curve] = {
    "levels off": lambda d: 0.8 * (1 - np.exp(-d / 0.3)),
    "rises": lambda d: 0.25 * d,
    "constant": lambda d: np.zeros_like(d),
}
TRADE = "few gain, many lose as much"


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """For each sentence, design and size: the share of runs in which it was said and false, with its interval."""
    found = []
    for place, (design, prompts, seeds) in enumerate(product([*CURVES, TRADE], PROMPTS, SEEDS)):
        size = f"{prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
        rng = np.random.default_rng([seed, place])
        said = [_false(*draw) for draw in _draws(rng, design, prompts, seeds, runs)]
        for sentence, column in (("the true reward falls", 0), ("over-optimized", 1)):
            wrong = sum(one[column] for one in said)
            found.append(rate_row(sentence, f"{design}, {size}", wrong, runs))
    return found


def shown(runs: int, seed: int, drop: float, prompts: int, seeds: int) -> float:
    """The share of runs in which a true fall of this size from the peak (d = 1) to the end is named."""
    rng = np.random.default_rng(seed)

    def turning(d: np.ndarray) -> np.ndarray:
        return np.where(d <= 1, 0.4 * d, 0.4 - drop * (d - 1))

    draws = (_course(rng, turning, prompts, seeds)[0] for _ in range(runs))
    return sum(fall(course, LEVEL / (len(DISTANCES) - 1)) is not None for course in draws) / runs


def _draws(rng: np.random.Generator, design: str, prompts: int, seeds: int, runs: int) -> Iterator[Drawn]:
    for _ in range(runs):
        yield _traded(rng, prompts, seeds) if design == TRADE else _course(rng, CURVES[design], prompts, seeds)


def _course(rng: np.random.Generator, curve: Curve, prompts: int, seeds: int) -> Drawn:
    """A course, and the true means of gold and proxy [checkpoints] over its policies."""
    scale = 1 + rng.normal(0, 0.2, seeds)
    share = 0.45 + 0.5 * curve(DISTANCES)[:, None] * scale  # of right responses, [checkpoints, seeds]
    share = np.clip(share, 0.02, 0.98)
    kind = rng.random((seeds, prompts))
    gold, proxy = [], []
    for c in range(len(DISTANCES)):
        anew = rng.random((seeds, prompts)) >= STAY
        kind = np.where(anew, rng.random((seeds, prompts)), kind)
        right = kind < share[c][:, None]
        gold.append(np.where(right, 1.0, -0.6))
        proxy.append(1.5 * right + 0.1 * DISTANCES[c] + rng.normal(0, 1.0, (seeds, prompts)))
    truth = 1.6 * share.mean(1) - 0.6
    return _as_course(gold, proxy), truth, 1.5 * share.mean(1) + 0.1 * DISTANCES


def _traded(rng: np.random.Generator, prompts: int, seeds: int) -> Drawn:
    """Up to a fifth of the prompts gains 0.8 on the way, and all prompts lose as much together by padding."""
    far = DISTANCES / DISTANCES[-1]
    turned = rng.random((seeds, prompts))  # the distance from which on a prompt is answered better
    gains = (turned[None] < 0.2 * far[:, None, None]) * 0.8
    gold = gains - (0.16 * far)[:, None, None] + rng.normal(0, 0.02, (len(far), seeds, prompts))
    proxy = far[:, None, None] + rng.normal(0, 1.0, (len(far), seeds, prompts))
    return _as_course(gold, proxy), np.zeros(len(far)), far


def _as_course(gold: Any, proxy: Any) -> Course:
    gold, proxy = np.asarray(gold), np.asarray(proxy)
    kl = np.repeat(DISTANCES[:, None] ** 2, gold.shape[1], 1)
    return Course([100 * c for c in range(len(gold))], kl, {PROXY: proxy, GOLD: gold})


def _false(course: Course, gold: np.ndarray, proxy: np.ndarray) -> tuple[bool, bool]:
    """True for "the true reward falls", and for "over-optimized", that are said and do not hold."""
    found = fall(course, LEVEL / (len(course.examples) - 1))
    if found is None:
        return False, False
    place = course.examples.index(found["examples"])
    falls, rises = gold[place] > gold[-1] + 1e-12, proxy[-1] > proxy[place] + 1e-12
    return not falls, found["proxy_rises"] and not (falls and rises)
