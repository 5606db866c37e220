"""The pick among trials: by score, under a limit of the KL, within a margin; and what is left out."""

import pytest

from alignment_bench.analysis.selection import CALLED, CRITERIA, SCORERS, pick, ranked


def trial(number, score, kl, by="gold"):
    return {"number": number, "scores": {} if score is None else {by: score}, "kl": kl, "settings": {}, "failed": None}


TRIALS = [trial(0, 0.60, 0.5), trial(1, 0.70, 1.0), trial(2, 0.90, 3.0), trial(3, 0.70, 0.8), trial(4, None, None)]


@pytest.mark.parametrize(
    ("limit", "margin", "number"),
    [
        (None, 0.0, 2),  # the best score
        (3.0, 0.0, 2),  # a KL at the limit is within it
        (1.0, 0.0, 3),  # of two that are best within the limit, the one with the lower KL
        (0.7, 0.0, 0),
        (1.0, 0.1, 0),  # three are within 0.1 of the best, and this has the lowest KL
        (1.0, 0.05, 3),
        (0.4, 0.0, 0),  # all are beyond: the one that comes nearest, whatever it scores
        (None, 0.25, 3),
    ],
)
def test_the_rule_by_hand(limit, margin, number):
    assert pick(TRIALS, "gold", limit, margin)["number"] == number
    assert pick(TRIALS[::-1], "gold", limit, margin)["number"] == number


def test_the_order_has_those_within_the_limit_last_and_leaves_out_those_without_a_score():
    assert [t["number"] for t in ranked(TRIALS, "gold")] == [0, 1, 3, 2]
    assert [t["number"] for t in ranked(TRIALS, "gold", 0.9)] == [2, 1, 0, 3]
    assert [t["number"] for t in ranked([*TRIALS, trial(5, 0.95, None)], "gold", 0.9)] == [2, 1, 0, 3]
    assert [t["number"] for t in ranked([trial(5, 0.95, None), trial(0, 0.9, None)], "gold")] == [0, 5]
    assert pick([trial(4, None, None)], "gold") is None and pick([], "gold", 1.0) is None


def test_of_equal_trials_the_first_is_picked():
    assert pick([trial(n, 0.6, 0.5) for n in (1, 0, 2)], "gold", 1.0)["number"] == 0


def test_every_criterion_has_a_metric_an_evaluator_and_a_name():
    assert CRITERIA.keys() == SCORERS.keys() == CALLED.keys()
