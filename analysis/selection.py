"""The pick among a method's trials by a rule that was fixed before they were trained."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from .quantities import measured

LABELS = "labels"
# The scorers by which a rule may go, and the metric that each gives.
CRITERIA = {
    "selection_reward_model": "win_rate.reward_model",
    "judge": "win_rate.judge",
    "gold": "win_rate.gold",
    LABELS: "implicit_reward.accuracy",
}
SCORERS = {  # the evaluator that gives it
    "selection_reward_model": "reward_model",
    "judge": "judge",
    "gold": "gold",
    LABELS: "implicit_reward",
}
OF_THE_BENCHMARK = ("judge", "gold")  # it alone can say which
LEARNT = ("selection_reward_model", "judge")
CALLED = {
    "selection_reward_model": "the selection reward model",
    "judge": "the judge",
    "gold": "the true reward",
    LABELS: "the labels",
}
Trial = Mapping[str, Any]  # {"number", "settings", "scores": {criterion: mean}, "kl", "cost", "failed"}


def ranked(trials: Sequence[Trial], by: str, at_most_kl: float | None = None) -> list[Trial]:
    """Trials that have what the rule asks for, those that it prefers last.

    Those within the limit stand above those beyond, who rank by how near they come to it; within it the score counts,
    and of equal ones the lower KL.
    """

    def preference(trial: Trial) -> tuple[bool, float, float, int]:
        kl = trial["kl"] if measured(trial["kl"]) else inf
        within = at_most_kl is None or kl <= at_most_kl
        return within, trial["scores"][by] if within else -kl, -kl, -trial["number"]

    usable = [t for t in trials if measured(t["scores"].get(by)) and (at_most_kl is None or measured(t["kl"]))]
    return sorted(usable, key=preference)


def pick(trials: Sequence[Trial], by: str, at_most_kl: float | None = None, margin: float = 0.0) -> Trial | None:
    """The trial that the rule picks: of those within `margin` of the best, the one with the lowest KL.

    A trial beyond the limit is picked only where all are: the one that comes nearest. None where no trial has a score.
    """
    order = ranked(trials, by, at_most_kl)
    if not order:
        return None
    best = order[-1]
    if at_most_kl is not None and best["kl"] > at_most_kl:
        return best
    near = [t for t in order if t["scores"][by] >= best["scores"][by] - margin]
    near = [t for t in near if at_most_kl is None or t["kl"] <= at_most_kl]
    return min(reversed(near), key=lambda t: t["kl"] if measured(t["kl"]) else inf)
