"""The rate at which sentences about learnt scorers are said and false.

Mistakes that go together: two reward models whose mistakes on held-out pairs, two to a prompt, are alike within a
prompt and independent of each other's. Scorers that disagree in size: three rows, each with one true win rate by both
scorers, whose wins by the two go together over prompts or do not at all. Both are false wherever they are said.
"""

from itertools import product
from typing import Any

import numpy as np
from scipy.stats import norm

from ...analysis.learnt_scorer import LEARNT, disagreements
from ...analysis.reward_audit import ScoredPair, compare_reward_models
from ...analysis.statistics import interval
from .claims import rate_row

PROMPTS, SEEDS = (300, 48, 23), (1, 2, 3, 5)
RATES = (0.5, 0.8, 0.97)  # true win rates of the three rows
BY_JUDGE = "win_rate.judge"


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """For each sentence, design and size: the share of runs in which it was said and false, with its interval."""
    found = []
    for place, prompts in enumerate(PROMPTS):
        rng = np.random.default_rng([seed, 0, place])
        wrong = sum(_mistakes_together(rng, prompts) for _ in range(runs))
        design = f"independent mistakes, {prompts} prompts"
        found.append(rate_row("the two make the same mistakes", design, wrong, runs))
    for place, (together, prompts, seeds) in enumerate(product((0.0, 0.7), PROMPTS, SEEDS)):
        rng = np.random.default_rng([seed, 1, place])
        wrong = sum(bool(disagreements(_equal(rng, prompts, seeds, together))) for _ in range(runs))
        size = f"correlation {together:g}, {prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
        found.append(rate_row("points apart by two scorers", f"equal win rates, {size}", wrong, runs))
    return found


def _mistakes_together(rng: np.random.Generator, prompts: int) -> bool:
    """True if independent mistakes are said to go together."""
    models = []
    for _ in range(2):
        hard = rng.normal(0, 0.7, (prompts, 1))
        right = hard + rng.normal(0, 0.7, (prompts, 2)) < norm.ppf(0.75)
        models.append([ScoredPair(f"p{i}", None, float(ok), 0.5, 1, 1) for i, of in enumerate(right) for ok in of])
    low = compare_reward_models(*models)["phi"]["low"]
    return low is not None and low > 0


def _equal(rng: np.random.Generator, prompts: int, seeds: int, together: float) -> dict[str, Any]:
    """A summary of three rows, each of one true win rate by both scorers over all training runs."""
    methods: dict[str, Any] = {}
    for rate in RATES:
        run = rng.normal(0, 0.15, (seeds, 1)) if seeds > 1 else np.zeros((1, 1))
        shared = rng.normal(0, 1, (seeds, prompts))
        cells = {}
        for metric in (LEARNT, BY_JUDGE):
            own = rng.normal(0, 1, (seeds, prompts))
            latent = run + np.sqrt(together) * shared + np.sqrt(1 - together) * own
            won = latent < norm.ppf(rate) * np.sqrt(1 + (0.15**2 if seeds > 1 else 0.0))
            found = interval(won.astype(float), bounds=(0.0, 1.0))
            cells[metric] = {"mean": found.mean, "low": found.low, "high": found.high}
        methods[f"row {rate:g}"] = {"metrics": cells}
    return {"methods": methods}
