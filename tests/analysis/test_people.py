"""Counts and agreement of a labelling, by hand, and the sentence about them."""

import pytest

from alignment_bench.analysis.people import labelling, sentences


def test_a_labelling_is_counted():
    """Two units of two labels: one agrees (two kinds of tie), one does not; alpha by Krippendorff's table is 0.

    Labels tie, tie, a, b: n = 4, sum_c n_c^2 = 4 + 1 + 1 = 6; observed = (0 + 2) / 1, expected (16 - 6) / 3; so alpha =
    1 - 3 * 2 / 10 = 0.4.
    """
    served = [
        {"Ann": "tie", "Ben": "both_bad"},
        {"Ann": "a", "Ben": "b", "Cid": "skip"},
        {"Ann": "a"},
        {"Ben": "skip"},
        {},
    ]
    found = labelling(served)
    assert {k: found[k] for k in ("served", "pairs", "labels", "skips", "labellers")} == {
        "served": 5, "pairs": 3, "labels": 5, "skips": 2, "labellers": 3,
    }  # fmt: skip
    assert (found["agreement"]["mean"], found["agreement"]["n"]) == (0.5, 2)
    assert found["alpha"]["mean"] == pytest.approx(0.4)


def test_the_sentence_says_how_far_labellers_agree_or_that_nobody_knows():
    assert sentences({}) == [] == sentences({"people": None})
    found = labelling([{"Ann": "a", "Ben": "a"}, {"Ann": "b", "Ben": "a"}, {"Ann": "b"}])
    (said,) = sentences({"people": found})
    assert said == (
        "People labelled 3 pairs of responses (5 labels by 2 labellers); two of them give the same label with a chance "
        "of 50% (on 2 pairs, Krippendorff's alpha 0.00)."
    )
    (said,) = sentences({"people": labelling([{"Ann": "a"}])})
    assert said == (
        "People labelled 1 pair of responses (1 label by 1 labeller); no pair was seen by two of them, so how far they "
        "agree is not known."
    )
