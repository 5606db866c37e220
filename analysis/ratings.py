"""Bradley-Terry ratings of all methods at once, with intervals over prompts and training runs.

Bradley & Terry (1952): P(i beats j) = 1 / (1 + exp(theta_j - theta_i)). Shown as Elo points, 400 / ln 10 times theta,
with SFT at 0: 100 points more are 64 wins of 100. The fit is statsmodels' binomial regression. The interval comes from
each response's influence on a rating (the one-step change that it makes), a table of seeds and prompts like any score.
"""

import warnings
from collections.abc import Mapping
from itertools import combinations
from math import log, nan

import numpy as np
from scipy.sparse.csgraph import connected_components

from .statistics import Interval, interval

ELO = 400 / log(10)  # Elo points in one unit of log-odds
Outcomes = Mapping[tuple[str, str], np.ndarray]


def all_pairs(rewards: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Outcomes [seeds, prompts] of every pair of methods by their rewards [seeds, prompts]: 1 win, 0.5 tie, 0 loss."""
    return {(a, b): (np.sign(rewards[a] - rewards[b]) + 1) / 2 for a, b in combinations(rewards, 2)}


def bradley_terry(outcomes: Outcomes, anchor: str, level: float = 0.95) -> dict[str, Interval]:
    """Each method's rating in Elo points, the anchor at 0.

    outcomes: (i, j) -> [seeds, prompts], 1 where i won, 0.5 for a tie, 0 where j won, NaN where nobody knows; all of
    one shape. A rating does not exist (NaN) where wins and losses do not connect all methods in both directions: a
    method that never lost has none.
    """
    names = list(dict.fromkeys(name for pair in outcomes for name in pair))
    free = [name for name in names if name != anchor]
    table = np.stack(list(outcomes.values()), axis=-1)  # [seeds, prompts, pairs]
    known = np.isfinite(table)
    games, wins = known.sum((0, 1)), np.where(known, table, 0.0).sum((0, 1))
    cells = known.any(-1)
    found = {anchor: Interval(0.0, 0.0, 0.0, int(cells.sum()))}
    if not _connected(names, list(outcomes), wins, games):
        return found | {name: Interval(nan, nan, nan, int(cells.sum())) for name in free}
    design = np.array([[(name == a) - (name == b) for name in free] for a, b in outcomes], dtype=float)
    theta = _fit(design, wins, games)
    chance = 1 / (1 + np.exp(-design @ theta))
    information = design.T @ (design * (games * chance * (1 - chance))[:, None])
    scores = np.where(known, table - chance, 0.0) @ design  # [seeds, prompts, ratings]: gradient of each response
    influence = cells.sum() * scores @ np.linalg.inv(information)
    for i, name in enumerate(free):
        values = np.where(cells, theta[i] + influence[..., i], nan)
        found[name] = interval(ELO * values, level)
    return found


def _fit(design: np.ndarray, wins: np.ndarray, games: np.ndarray) -> np.ndarray:
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    played = games > 0
    counts = np.column_stack([wins, games - wins])[played]
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", PerfectSeparationWarning)  # counts that fit exactly, two methods always
        return sm.GLM(counts, design[played], family=sm.families.Binomial()).fit(maxiter=200, tol=1e-12).params


def _connected(names: list[str], pairs: list[tuple[str, str]], wins: np.ndarray, games: np.ndarray) -> bool:
    """True if every method has, through others, beaten and been beaten by every other one (Ford 1957)."""
    beats = np.zeros((len(names), len(names)))
    for (a, b), won, played in zip(pairs, wins, games, strict=True):
        i, j = names.index(a), names.index(b)
        beats[i, j] += won
        beats[j, i] += played - won
    return connected_components(beats, directed=True, connection="strong", return_labels=False) == 1
