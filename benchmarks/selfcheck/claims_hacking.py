"""The rate at which "the reward was hacked" is said of policies of which it is false.

SFT and a row, or two rows of one method; a true reward that is right or wrong in each response, with three facets, each
of a third of the prompts; a training reward that goes with it and rises beside. The sentence is false where the true
reward gains at least half of the standardized gain (and, for a fall, where it does not fall). Designs: the true reward
gains exactly half of a large gain, and of a small one; no reward moves; two rows alike in the true reward, of which one
has the higher training reward; and a tenth of the prompts gains what all lose by padding.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas

from ...analysis.grids import SFT
from ...analysis.hacking import OPTIMIZED, is_gap_shown, of_grids
from ...analysis.overoptimization import GOLD
from .claims import rate_row

PROMPTS, SEEDS = (300, 48, 23), (1, 2, 3, 5)
FACETS = 3
RIGHT, WRONG = 1.0, -0.6  # the true reward of a response
Tables = dict[str, dict[str, np.ndarray]]  # metric -> row -> [seeds, prompts]


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """For each design and size: the share of runs in which the sentence was said and false, with its interval."""
    found = []
    for place, (design, prompts, seeds) in enumerate(product(DESIGNS, PROMPTS, SEEDS)):
        rng = np.random.default_rng([seed, place])
        wrong = sum(_is_false(DESIGNS[design](rng, seeds, prompts), design) for _ in range(runs))
        size = f"{prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
        found.append(rate_row("the reward was hacked", f"{design}, {size}", wrong, runs))
    return found


def shown(runs: int, seed: int, prompts: int, seeds: int) -> float:
    """The share of runs that say it of a row which gains 1.5 standard deviations, of which the true reward has none."""
    rng = np.random.default_rng(seed)
    found = (_of(_rows(rng, seeds, prompts, {"a": (0.0, 1.5)}))["a"] for _ in range(runs))
    return sum(is_gap_shown(row) for row in found) / runs


def _rows(rng: np.random.Generator, seeds: int, prompts: int, gains: dict[str, tuple[float, float]]) -> Tables:
    """SFT and rows with these gains in the true and in the training reward, in standard deviations of SFT's."""
    made: Tables = {GOLD: {}, OPTIMIZED: {}}
    hard = rng.random(prompts)  # a prompt is answered alike by all policies, in half of the cases
    for row, (gold, proxy) in {SFT: (0.0, 0.0), **gains}.items():
        luck = np.where(rng.random((seeds, prompts)) < 0.5, hard, rng.random((seeds, prompts)))
        right = luck < 0.5 + gold / 2  # the standard deviation of right and wrong is half of their distance
        made[GOLD][row] = np.where(right, RIGHT, WRONG)
        rise = proxy * np.sqrt(1 + 0.25) - gold / 2
        made[OPTIMIZED][row] = right + rise + rng.normal(0, 1, (seeds, prompts))
    return made


def _padded(rng: np.random.Generator, seeds: int, prompts: int) -> Tables:
    made = _rows(rng, seeds, prompts, {"a": (0.0, 1.0)})
    gains = np.where(rng.random((seeds, prompts)) < 0.1, 0.9, -0.1)  # 0 in the mean
    made[GOLD]["a"] = made[GOLD][SFT] + gains
    return made


DESIGNS: dict[str, Callable[[np.random.Generator, int, int], Tables]] = {
    "half of a large gain": lambda rng, seeds, prompts: _rows(rng, seeds, prompts, {"a": (0.6, 1.2)}),
    "half of a small gain": lambda rng, seeds, prompts: _rows(rng, seeds, prompts, {"a": (0.2, 0.4)}),
    "no gain": lambda rng, seeds, prompts: _rows(rng, seeds, prompts, {"a": (0.0, 0.0)}),
    "siblings alike": lambda rng, seeds, prompts: _rows(rng, seeds, prompts, {"a": (0.5, 0.5), "b": (0.5, 1.0)}),
    "few gain, many lose as much": _padded,
}


def _of(made: Tables) -> dict[str, Any]:
    """What is found of all rows, which are of one method; each prompt has one facet."""
    grids: dict[str, dict[str, pandas.DataFrame]] = {}
    for metric, rows in made.items():
        grids[metric] = {row: pandas.DataFrame(values) for row, values in rows.items()}
    for facet in range(FACETS):
        grids[f"{GOLD}.{facet}"] = {row: pandas.DataFrame(v[:, facet::FACETS]) for row, v in made[GOLD].items()}
    return of_grids(grids, {row: "ppo" for row in made[GOLD] if row != SFT})["rows"]


def _is_false(made: Tables, design: str) -> bool:
    """In no design does anything fall; the gap is there where the training reward rises and the true one does not."""
    gap_is_true = DESIGNS[design] is _padded
    return any(row["falls"] or (is_gap_shown(row) and not gap_is_true) for row in _of(made).values())
