"""The audit of reward models, by hand."""

from math import atanh, tanh

import pytest

from alignment_bench.analysis.reward_audit import (
    ScoredPair,
    audit_reward_model,
    compare_reward_models,
    length_text,
    share_text,
)


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


def test_length_alone_and_the_model_beyond_it_by_hand():
    """Model right in a, the first d and half in b, 2.5 of 5; the longer reply in all but b, of which half, 4.5 of 5.

    Of like length are b (equal) and the second d (10 and 9: a tenth of the longer), not the first (10 and 8). Gains of
    the model over length, by prompt: a 0, b 0, c -1, d 0 - 1; mean -2 / 5 and squares about the mean
    0.4^2 + 0.4^2 + 0.6^2 + (-1 + 0.8)^2 = 0.72; t of 3 degrees of freedom 3.1824.
    """
    pairs = [
        pair("a", 1, 0, (8, 4)), pair("b", 1, 1, (5, 5)), pair("c", 0, 1, (9, 3)), pair("d", 1, 0, (10, 8)),
        pair("d", 0, 1, (10, 9)),
    ]  # fmt: skip
    found = audit_reward_model(pairs)
    assert found["accuracy"]["mean"] == 2.5 / 5 and found["length_rule"]["mean"] == 4.5 / 5
    assert found["matched"]["n"] == 2 and found["matched"]["mean"] == 0.25
    beyond = found["beyond_length"]
    half = 3.182446 * (4 / 3 * 0.72) ** 0.5 / 5
    assert beyond["mean"] == pytest.approx(-0.4) and beyond["n"] == 5
    assert (beyond["low"], beyond["high"]) == (pytest.approx(-0.4 - half), pytest.approx(-0.4 + half))
    # gaps of scores 1, 0, -1, 1, -1 with gaps of length 4, 0, 6, 2, 1: sum -1, squares 4 and 57
    alone, alike = share_text(found["length_rule"]), share_text(found["matched"])
    assert length_text(found) == (
        f"taking the longer reply alone {alone}, the model {alike} of 2 pairs of like length; its score goes with "
        "length by r = −0.07"
    )
    assert share_text({"mean": 0.25, "low": 0.1, "high": 0.46}) == "0.250 [0.100, 0.460]"
    assert "was not tried at like length" in length_text(audit_reward_model(pairs[:1]))


def test_two_reward_models_by_hand():
    one = [pair("p", 1, 0), pair("q", 1, 0), pair("r", 0, 1), pair("s", 0, 0)]
    other = [pair("p", 3, 0), pair("q", 0, 3), pair("r", 0, 3), pair("s", 0, 3)]
    found = compare_reward_models(one, other)
    assert found["agreement"]["mean"] == 0.5
    # expected by chance: chosen 2/4 * 1/4, rejected 1/4 * 3/4, tie 1/4 * 0 = 5/16; kappa (8/16 - 5/16) / (11/16)
    assert found["kappa"] == pytest.approx(3 / 11)
    # mistakes 0, 0, 1, 0.5 (mean 0.375) and 0, 1, 1, 1 (mean 0.75): products 0.375; squares 0.6875 and 0.75
    phi = 0.375 / (0.6875 * 0.75) ** 0.5
    assert found["phi"]["mean"] == pytest.approx(phi) and found["phi"]["n"] == 4
    # Fisher's interval of four prompts: atanh(phi) +- 1.96 / 1
    assert found["phi"]["low"] == pytest.approx(tanh(atanh(phi) - 1.959964))
    assert found["phi"]["high"] == pytest.approx(tanh(atanh(phi) + 1.959964))
    one_prompt = [ScoredPair("p", None, *x) for x in ((1, 0, 1, 1), (0, 1, 1, 1))]
    assert compare_reward_models(one_prompt, one_prompt)["phi"]["mean"] is None
    assert compare_reward_models(one[:1], other[:1])["phi"]["mean"] is None
