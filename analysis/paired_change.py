"""The mean change of a reward between two sets of policies' responses to the same prompts, with a careful interval.

It is about the policies at hand, the mean over their seeds, on further prompts; about training runs to come it says
nothing. Where a few prompts in a hundred gain much and all others lose a little, a small sample may hold none of the
few, and its spread does not tell of them: Student's interval then claims a loss in up to two fifths of the runs. So
the lower limit also has to survive UNSEEN more prompts with a change as far below 0 as the span of the reward's values.
"""

import numpy as np

from .statistics import Interval, interval

UNSEEN = 1  # prompts added to a sample, at which a claimed change is the other way


def paired_change(ours: np.ndarray, theirs: np.ndarray, alpha: float, reach: float) -> Interval:
    """The mean of ours - theirs, both [seeds, prompts], and its interval at level 1 - alpha, NaN left out.

    reach: the span of the reward's values, over the policies compared.
    """
    return careful_mean(by_prompt(ours - theirs), alpha, reach)


def careful_mean(values: np.ndarray, alpha: float, reach: float) -> Interval:
    """The mean of values [prompts] and its interval, whose lower limit survives prompts that the sample missed."""
    values = values[np.isfinite(values)]
    found = interval(values[None], 1 - alpha)
    careful = interval(np.append(values, [-reach] * UNSEEN)[None], 1 - alpha)
    return Interval(found.mean, min(found.low, careful.low), found.high, found.n)


def by_prompt(values: np.ndarray) -> np.ndarray:
    """Each prompt's mean over the seeds that have a value; NaN where none has."""
    present = np.isfinite(values)
    counts = present.sum(0)
    return np.where(counts > 0, np.where(present, values, 0.0).sum(0) / np.maximum(counts, 1), np.nan)


def span(values: np.ndarray) -> float:
    """The distance from the lowest to the highest value of a reward; 0 where there are none."""
    some = values[np.isfinite(values)]
    return float(some.max() - some.min()) if some.size else 0.0
