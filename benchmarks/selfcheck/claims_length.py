"""Simulated rate of a false claim: "part of its win rate is a preference for longer or shorter responses"."""

from typing import Any

import numpy as np

from ...analysis.equal_length import at_equal_length
from ...analysis.statistics import interval
from ...analysis.verdict import length_sentences
from .claims import rate_row

SENTENCE = "win rate is ... at equal length: part of it is a preference for longer or shorter responses"
PROMPTS, SEEDS = (23, 48, 300), (1, 2, 3, 5)
RATE = {23: 0.72, 48: 0.65, 300: 0.56}  # true win rates at which about half of the runs show more than one half
LONGER = (0.0, 1.0, 2.0)  # standard deviations


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """A judge that does not look at length, and responses that are longer than SFT's: the claim is always false."""
    rng = np.random.default_rng(seed)
    return [
        rate_row(
            SENTENCE,
            f"{prompts} prompts, {seeds} seeds, {longer:g} sd longer",
            _told(rng, prompts, seeds, longer, runs),
            runs,
        )
        for prompts in PROMPTS
        for seeds in SEEDS
        for longer in LONGER
    ]


def _told(rng: np.random.Generator, prompts: int, seeds: int, longer: float, runs: int) -> int:
    """The number of simulated runs in which the sentence was printed."""
    told = 0
    for _ in range(runs):
        wins = (rng.random((seeds, prompts)) < RATE[prompts]).astype(float)
        found = at_equal_length(wins, rng.normal(longer, 1.0, (seeds, prompts)))
        raw = interval(wins, bounds=(0.0, 1.0))
        cell = {"mean": found.win_rate.mean, "low": found.win_rate.low, "high": found.win_rate.high}
        effect = {"low": found.length_effect.low, "high": found.length_effect.high}
        if not np.isfinite([*cell.values(), *effect.values(), raw.low]).all():
            continue
        summary = {
            "equal_length": {"judge": {"a": {**cell, "length_effect": effect}}},
            "methods": {"a": {"metrics": {"win_rate.judge": {"mean": raw.mean, "low": raw.low}}}},
        }
        told += bool(length_sentences(summary, ["win_rate.judge"]))
    return told
