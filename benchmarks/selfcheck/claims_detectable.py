"""False-claim rates of the sentence that says which differences a run of its size could have shown, by simulation.

Two methods and SFT, none better than another; each comparison has the level that the run gives it at first. The power
of a design is the share of its own simulated runs that show a true difference. Where the sentence gives limits, it is
false where the difference that 80% of runs show lies outside them; where it gives a size alone (one seed), where fewer
than 70% or more than 90% of runs show that. Numbers count as printed, in whole points.
"""

import re
from functools import cache
from math import hypot, inf, sqrt
from typing import Any

import numpy as np
from scipy.stats import norm

from ...analysis.comparisons import LEVEL, comparisons
from ...analysis.grids import SFT
from ...analysis.power import MOST, POWER, add_detectable
from ...analysis.statistics import interval
from ...analysis.verdict import could_show
from .claims import rate_row
from .claims_verdict import PROMPTS, REST_SD, SEEDS, SPREADS, World, draw, latent

SENTENCE = "the smallest difference that a run of this size shows is ..."
METRIC = "win_rate.gold"
NEAR = 0.1  # of power, by which a size without limits may be off
TRUTH_RUNS = 1000  # of each difference that is tried for the truth
HALVINGS = 8  # of the latent difference: to a third of a point
WIDEST = 6.0  # latent difference at which a response practically always wins


class Design:
    """A comparison of a with SFT or b in runs of so many prompts and seeds, and what its own runs show.

    seed_sd: of training runs' effects, in units of the latent quality; 0 for one seed, which speaks of its policies.
    """

    def __init__(self, seed_sd: float, other: str, prompts: int, seeds: int) -> None:
        rng = np.random.default_rng([prompts, seeds])
        self.seed_sd, self.other = seed_sd, other
        # SFT's responses are the same for every seed
        theirs = (1, 0.0) if other == SFT else (seeds, seed_sd)
        self.ours, self.theirs = (
            rng.normal(0, sd, (TRUTH_RUNS, n, 1)) + rng.normal(0, REST_SD, (TRUTH_RUNS, n, prompts))
            for n, sd in ((seeds, seed_sd), theirs)
        )
        self.power = cache(self._power)

    def _power(self, gap: float) -> float:
        """The share of runs that show a latent difference: at a third of the level, which three comparisons share."""
        wins = (self.ours + gap > self.theirs) - 0.5
        return sum(interval(one, 1 - LEVEL / 3, (-0.5, 0.5)).low > 0 for one in wins) / TRUTH_RUNS

    def _runs(self) -> float:
        return hypot(sqrt(2) * REST_SD, self.seed_sd * (1 if self.other == SFT else sqrt(2)))

    def points(self, gap: float) -> float:
        """The difference of true win rates, in points, of a latent one."""
        return 100 * (float(norm.cdf(gap / self._runs())) - 0.5)

    def gap(self, points: float) -> float:
        """The latent difference of true win rates so many points apart."""
        return min(float(norm.ppf(0.5 + min(points, 50.0) / 100)) * self._runs(), WIDEST)

    def least(self) -> float:
        """The points that 80% of runs show; inf where no difference is shown so often."""
        if self.power(WIDEST) < POWER:
            return inf
        low, high = 0.0, WIDEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.power(middle) >= POWER else (middle, high)
        return self.points((low + high) / 2)


def is_false(said: str, design: Design) -> bool:
    """True where what a run says it could have shown is not so; nothing said is not false."""
    if not said:
        return False
    size, _, limits = said.partition("power is ")[2].partition(" (")
    if limits:
        low, *more = _numbers(limits)
        high = more[0] if more else low
        return not low - 0.5 <= min(design.least(), 100 * MOST) <= high + 0.5
    (points,) = _numbers(size)
    power = design.power(design.gap(points))
    return power > POWER + NEAR if "more than" in size else abs(power - POWER) > NEAR


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[0-9]+", text)]


def sentences(seed_sd: float, prompts: int, seeds: int, rng: np.random.Generator) -> dict[str, str]:
    """What one simulated run says it could have shown of a, against SFT and against b."""
    grids = draw(World("", {"a": 0.0, "b": 0.0}, seed_sd), prompts, seeds, rng).grids
    rows = comparisons(grids, [SFT, "a", "b"])
    add_detectable(rows, grids)
    return {row["b"]: could_show([row]) for row in rows if row["a"] == "a" and row["metric"] == METRIC}


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of sentence, design, runs, and the share of runs in which one was printed and false, with 95% limits."""
    found: list[dict[str, Any]] = []
    for prompts in PROMPTS:
        for seeds in SEEDS:
            for spread in SPREADS if seeds > 1 else (0.0,):
                rng = np.random.default_rng([seed, len(found)])
                sd = latent(spread)
                made = [sentences(sd, prompts, seeds, rng) for _ in range(runs)]
                for other, what in ((SFT, "against SFT"), ("b", "head to head")):
                    design = Design(sd, other, prompts, seeds)
                    count = sum(is_false(said[other], design) for said in made)
                    text = f"{prompts} prompts, {seeds} seed{'' if seeds == 1 else 's'}"
                    vary = f", seeds spread by {100 * spread:.1f} points" if seeds > 1 else ""
                    found.append(rate_row(SENTENCE, f"{what}; {text}{vary}", count, runs))
    return found
