"""False-claim rates of the sentence that says which source of variance one more of would help most, by simulation.

A run's score is the sum of normal parts: of its SFT, of its reward models, of the method's seed, of each prompt (sd
0.4) and of each response (sd 0.3). Variances are chosen by what one more of a source takes away of the variance of a
run's mean. Where several take away equally much and most, none of them would help most, so any claim is false.
"""

from typing import Any

import numpy as np
import pandas

from ...analysis.variance import MORE, PROMPTS, SEED, sentences, split_variance
from .claims import rate_row

SENTENCE = "one more of ... would help most"
SIZES = ((300, 3, 3), (300, 2, 5), (48, 3, 3))  # prompts, seeds, worlds of each source
SFT, REWARD = "sft", "reward_model"
SOURCES = [SFT, REWARD]
METRIC = "win_rate.gold"
PROMPT_SD, REST_SD = 0.4, 0.3
# what one more of each takes away, in units of what as many prompts again would
DESIGNS = {
    "two sources alike": {SFT: 20.0, REWARD: 20.0, SEED: 1.0},
    "a source and the seed alike": {SFT: 20.0, REWARD: 0.0, SEED: 20.0},
    "a source and the prompts alike": {SFT: 1.0, REWARD: 0.0, SEED: 0.2},
    "all alike": {SFT: 1.0, REWARD: 1.0, SEED: 1.0},
    "the seed a little ahead": {SFT: 10.0, REWARD: 10.0, SEED: 15.0},
    "one source far ahead": {SFT: 300.0, REWARD: 1.0, SEED: 1.0},
}


def simulate(design: str, prompts: int, seeds: int, levels: int, rng: np.random.Generator) -> str:
    """The sentence of one simulated study."""
    unit = PROMPT_SD**2 / prompts / 2
    saved = {name: times * unit for name, times in DESIGNS[design].items()}
    # response sampling is part of the seed's variance
    seed_sd = np.sqrt(max(saved[SEED] * seeds * (seeds + 1) - REST_SD**2 / prompts, 0.0))
    sft, reward = (rng.normal(0, np.sqrt(2 * saved[name]), levels) for name in SOURCES)
    own = rng.normal(0, PROMPT_SD, prompts)
    apart = [place for k in range(1, levels) for place in ((k, 0), (0, k), (k, k))]
    frames = []
    for i, j in [(0, 0), *apart]:
        runs = sft[i] + reward[j] + rng.normal(0, seed_sd, (seeds, 1))
        values = 0.6 + runs + own + rng.normal(0, REST_SD, (seeds, prompts))
        seed, prompt = np.indices(values.shape)
        columns = {"seed": seed.ravel(), "prompt_id": prompt.ravel(), "value": values.ravel(), SFT: i, REWARD: j}
        frames.append(pandas.DataFrame({"method": "a", "metric": METRIC, **columns}))
    found = split_variance(pandas.concat(frames), SOURCES)
    return " ".join(sentences({"variance": found}, METRIC))


def is_false(said: str, design: str) -> bool:
    """True where a source is named that is not alone the first."""
    saved = {**DESIGNS[design], PROMPTS: 1.0}
    first = [name for name, times in saved.items() if times == max(saved.values())]
    named = [name for name, words in MORE.items() if f"{words} would help most" in said]
    return bool(named) and named != first


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of sentence, design, runs, and the share of runs in which one was printed and false, with 95% limits."""
    found: list[dict[str, Any]] = []
    for design in DESIGNS:
        for size in SIZES:
            rng = np.random.default_rng([seed, len(found)])
            count = sum(is_false(simulate(design, *size, rng), design) for _ in range(runs))
            text = "{} prompts, {} seeds, {} of each source".format(*size)
            found.append(rate_row(SENTENCE, f"{design}; {text}", count, runs))
    return found
