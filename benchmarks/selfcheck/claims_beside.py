"""False-claim rates of what a study without axes says of its methods beside the first, by simulation.

Five methods that do not differ. Each value has a prompt's part (standard deviation 0.7, half of its variance shared by
all methods), a training run's part (0.2; 0 with one seed, whose sentences are about the policies) and the rest (0.7).
A response wins where its latent score is above -0.3; KL and length are such values themselves.
"""

from typing import Any

import numpy as np
import pandas

from ...analysis.axes import BESIDE, beside_the_first, sentences
from ...analysis.summary import plain
from .claims import rate_row
from .claims_axes import METRIC, REST_SD, RUN_SD

METHODS = ("a", "b", "c", "d", "e")
SIZES = ((300, 1), (300, 2), (300, 3), (48, 3), (23, 5))  # prompts and seeds
CLAIMS = {METRIC: ("is better", "is worse", "are better", "are worse"), **{m: (f"in {w}",) for m, w in BESIDE.items()}}


def scores(prompts: int, seeds: int, rng: np.random.Generator) -> pandas.DataFrame:
    """Scores of methods that are all the same, as `beside_the_first` has them."""
    parts = []
    for metric in CLAIMS:
        shared = rng.normal(0, 0.5, prompts)
        for method in METHODS:
            runs = rng.normal(0, RUN_SD, (seeds, 1)) if seeds > 1 else np.zeros((1, 1))
            values = shared + rng.normal(0, 0.5, prompts) + runs + rng.normal(0, REST_SD, (seeds, prompts))
            values = (values > -0.3).astype(float) if metric == METRIC else values
            seed, prompt = np.indices(values.shape)
            rows = {"seed": seed.ravel(), "prompt_id": prompt.ravel(), "value": values.ravel()}
            parts.append(pandas.DataFrame({"method": method, "metric": metric, **rows}))
    return pandas.concat(parts)


def simulate(prompts: int, seeds: int, rng: np.random.Generator) -> list[str]:
    """The sentences of one simulated study, but for that of what is not shown."""
    rows = beside_the_first(scores(prompts, seeds, rng), METHODS)
    said = sentences(plain({"axes": {}, "beside_the_first": rows}))
    return [text for text in said if not text.startswith("Not shown")]


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of sentence, design, runs, and the share of runs in which one was printed and false, with 95% limits."""
    found: list[dict[str, Any]] = []
    for prompts, seeds in SIZES:
        rng = np.random.default_rng([seed, prompts, seeds])
        said = [simulate(prompts, seeds, rng) for _ in range(runs)]
        for metric, words in CLAIMS.items():
            count = sum(any(word in text for text in texts for word in words) for texts in said)
            size = f"all equal; {prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
            found.append(rate_row(f"beside the first: {metric}", size, count, runs))
    return found
