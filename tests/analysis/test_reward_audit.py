"""The audit of reward models, by hand."""

import pytest

from alignment_bench.analysis.reward_audit import ScoredPair, audit_reward_model, compare_reward_models


def pair(prompt, chosen, rejected, lengths=(1, 1), subset=None):
    return ScoredPair(prompt, subset, chosen, rejected, *lengths)


def test_reward_model_audit_by_hand():
    """Differences 2, -2, 0, 2: accuracy (1 + 0 + 0.5 + 1) / 4.

    sigmoid(2) = 0.8808 falls into the bin from 0.8 to 0.9 (three pairs, two right), sigmoid(0) = 0.5 into the first
    (one pair, right by half). ECE = 3/4 * |2/3 - 0.8808| + 1/4 * 0 = 0.1606.
    """
    pairs = [
        pair("p", 2, 0, (5, 3), "helpful"), pair("q", 0, 2, (3, 5), "helpful"), pair("r", 1, 1, (2, 4), "harmless"),
        pair("s", 2, 0, (1, 9), "harmless"),
    ]  # fmt: skip
    found = audit_reward_model(pairs)
    assert found["accuracy"]["mean"] == 0.625 and found["ties"] == 1
    assert found["ece"] == pytest.approx(0.1606, abs=1e-4)
    assert [row["n"] for row in found["bins"]] == [1, 3]
    assert found["subsets"]["helpful"]["accuracy"]["mean"] == 0.5
    assert found["subsets"]["harmless"] == {**found["subsets"]["harmless"], "ties": 1}
    assert found["subsets"]["harmless"]["accuracy"]["mean"] == 0.75
    # the model prefers p's and q's longer reply and s's shorter one; people prefer the longer in p alone
    assert found["prefers_longer"]["mean"] == pytest.approx(2 / 3)
    assert found["people_prefer_longer"]["mean"] == 0.25
    # sum(gap * length gap) = 4 + 4 + 0 - 16 = -8; squares: 12 and 4 + 4 + 4 + 64 = 76
    assert found["length_correlation"]["mean"] == pytest.approx(-8 / (12 * 76) ** 0.5)


def test_two_reward_models_by_hand():
    one = [pair("p", 1, 0), pair("q", 1, 0), pair("r", 0, 1), pair("s", 0, 0)]
    other = [pair("p", 3, 0), pair("q", 0, 3), pair("r", 0, 3), pair("s", 0, 3)]
    found = compare_reward_models(one, other)
    assert found["agreement"]["mean"] == 0.5
    # expected by chance: chosen 2/4 * 1/4, rejected 1/4 * 3/4, tie 1/4 * 0 = 5/16; kappa (8/16 - 5/16) / (11/16)
    assert found["kappa"] == pytest.approx(3 / 11)
