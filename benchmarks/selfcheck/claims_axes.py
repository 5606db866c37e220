"""False-claim rates of what a study says along its axes, by simulation.

Two methods at three values of an axis. A response wins where a latent score is above 0: its mean, a prompt's part (sd
0.7, half of its variance shared by all cells), a training run's part (sd 0.2; 0 with one seed, whose sentences are
about the policies) and the rest (sd 0.7). In "all equal" no cell differs from another; in "both lose alike" the two
methods differ by nothing at any value, and both lose from the first value to the last.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas

from ...analysis.axes import along_axes, sentences
from ...analysis.summary import plain
from .claims import rate_row

SIZES = ((300, 1), (300, 2), (300, 3), (300, 5), (48, 1), (23, 2), (48, 3), (23, 5))  # prompts and seeds
VALUES = [0, 0.1, 0.25]
METRIC = "win_rate.gold"
RUN_SD, REST_SD = 0.2, 0.7
# name: means of the latent score at each value, and the claims that are false of them
DESIGNS = {
    "all equal": ((0.3, 0.3, 0.3), ("change", "interaction", "order")),
    "both lose alike": ((0.6, 0.3, -0.1), ("interaction", "order")),
}
WORDS = {
    "change": " points of win rate ",
    "interaction": " points on ",
    "order": " better than ",
}


def scores(
    means: Mapping[str, tuple[float, ...]], prompts: int, seeds: int, rng: np.random.Generator
) -> pandas.DataFrame:
    """A study's win rates as `along_axes` has them; means: of the latent score, by method and value of the axis."""
    shared = rng.normal(0, 0.5, prompts)
    parts = []
    for method, values in means.items():
        for place, mean in enumerate(values):
            own = rng.normal(0, 0.5, prompts)
            runs = rng.normal(0, RUN_SD, (seeds, 1)) if seeds > 1 else np.zeros((1, 1))
            wins = (mean + shared + own + runs + rng.normal(0, REST_SD, (seeds, prompts)) > 0).astype(float)
            seed, prompt = np.indices(wins.shape)
            parts.append(
                pandas.DataFrame(
                    {
                        "method": method,
                        "seed": seed.ravel(),
                        "metric": METRIC,
                        "prompt_id": prompt.ravel(),
                        "value": wins.ravel(),
                        "axis": float(place),
                    }
                )
            )
    return pandas.concat(parts)


def simulate(means: tuple[float, ...], prompts: int, seeds: int, rng: np.random.Generator) -> list[str]:
    """The sentences of one simulated study."""
    found = scores({"a": means, "b": means}, prompts, seeds, rng)
    return sentences(plain({"axes": along_axes(found, {"axis": VALUES})}))


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of sentence, design, runs, and the share of runs in which one was printed and false, with 95% limits."""
    found: list[dict[str, Any]] = []
    for design, (means, false) in DESIGNS.items():
        for prompts, seeds in SIZES:
            rng = np.random.default_rng([seed, len(found)])
            said = [simulate(means, prompts, seeds, rng) for _ in range(runs)]
            for claim in false:
                count = sum(any(WORDS[claim] in text for text in texts) for texts in said)
                size = f"{prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
                found.append(rate_row(f"along an axis: {claim}", f"{design}; {size}", count, runs))
    return found
