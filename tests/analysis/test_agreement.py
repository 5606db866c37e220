"""Agreement against published and hand-derived values."""

import math
import random

import numpy as np
import pytest

from alignment_bench.analysis.agreement import (
    agreement_interval,
    alpha_interval,
    beside_another_person,
    ceiling,
    clustered_share,
    cohen_kappa,
    kappa_limits,
    krippendorff_alpha,
    majority,
    pairwise_kappa,
    reliability,
)


def test_alpha_is_the_published_value():
    # Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: nominal alpha 0.743.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[row[u] for row in observers if row[u] != "."] for u in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_by_hand():
    # Units aa, ab: n = 4, disagreement sum 2 / (2 - 1) = 2, expected 16 - 9 - 1 = 6: 1 - 3 * 2 / 6 = 0.
    assert krippendorff_alpha(["aa", "ab", "b"]) == pytest.approx(0.0)
    assert krippendorff_alpha(["aa", "bb"]) == 1.0
    assert math.isnan(krippendorff_alpha(["aa", "aa"]))
    assert math.isnan(krippendorff_alpha(["a", "b"]))
    assert math.isnan(krippendorff_alpha([]))


def test_agreement_by_hand():
    # 1, 0 and 1 of 3 pairs agree: (1 + 0 + 1/3) / 3.
    found = agreement_interval(["aa", "ab", "aab", "b"])
    assert (found.mean, found.n) == (pytest.approx(4 / 9), 3)
    assert 0 <= found.low < found.mean < found.high <= 1


def test_the_interval_of_alpha_covers_what_was_simulated():
    # Two labellers copy a fair coin with chance 0.6 and toss their own otherwise: alpha = 0.6^2 = 0.36.
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        truth = generator.integers(0, 2, 150)
        tosses = [np.where(generator.random(150) < 0.6, truth, generator.integers(0, 2, 150)) for _ in range(2)]
        found = alpha_interval(list(zip(*tosses, strict=True)))
        covered += found.low <= 0.36 <= found.high
    assert covered >= 51  # of 60 at 95%, fewer than 52 has a chance below 1 in 200


def test_beside_another_person_by_hand():
    """p: the rater agrees with 2/3 and 0, two people with each other in 1/3 and 1; q: 1 and 1; r has one person."""
    found = beside_another_person("abab", ["aab", "aa", "aa", "b"], ["p", "p", "q", "r"])
    assert (found["agreement"], found["people"], found["n"]) == (pytest.approx(2 / 3), pytest.approx(5 / 6), 3)
    assert found["difference"] == pytest.approx(-1 / 6)  # the mean of -1/3 and 0
    assert found["low"] < -1 / 6 < found["high"]
    one = beside_another_person("a", ["ab"], ["p"])
    assert (one["agreement"], one["people"], one["low"], one["high"]) == (0.5, 0.0, None, None)
    assert beside_another_person("a", ["a"], ["p"])["difference"] is None


def test_a_rater_like_the_people_lies_beside_them_and_a_guessing_one_below():
    """People give a pair's own label with chance 0.8 each; the interval covers 0 for one more of them in 95%."""
    generator = np.random.default_rng(2)
    covered = below = 0
    for _ in range(100):
        truth = generator.integers(0, 2, 120)
        draw = [np.where(generator.random(120) < 0.8, truth, 1 - truth) for _ in range(4)]
        people, prompts = list(zip(*(row.tolist() for row in draw[:3]), strict=True)), [str(i) for i in range(120)]
        like = beside_another_person(draw[3].tolist(), people, prompts)
        guess = beside_another_person(generator.integers(0, 2, 120).tolist(), people, prompts)
        covered += like["low"] <= 0 <= like["high"]
        below += guess["high"] < 0
    assert covered >= 89  # of 100 at 95%, fewer than 89 has a chance below 1 in 100
    assert below >= 80  # the true difference is 0.5 - 0.68


def test_the_ceiling_inverts_agreement():
    # 80% of people prefer one of two: two agree with chance 0.64 + 0.04, and the best prediction is right for 80%.
    assert ceiling(0.68) == pytest.approx(0.8)
    assert ceiling(1.0) == 1.0
    assert ceiling(0.4) == 0.5


def test_no_predictor_passes_the_ceiling():
    generator = np.random.default_rng(2)
    preferred = generator.beta(0.6, 0.6, 200_000)
    agreement = (preferred**2 + (1 - preferred) ** 2).mean()
    best = np.maximum(preferred, 1 - preferred).mean()
    assert agreement <= best <= ceiling(agreement)


def test_kappa_is_the_textbook_value():
    # 50 cases: both yes 20, both no 15, only one yes 5, only the other 10: (0.7 - 0.5) / (1 - 0.5) = 0.4.
    cells = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    labels = {who: {case: cell[side] for case, cell in enumerate(cells)} for side, who in enumerate(("one", "two"))}
    ((one, two, kappa),) = pairwise_kappa(labels)
    assert (one, two, kappa.n) == ("one", "two", 50)
    assert kappa.mean == pytest.approx(0.4)
    assert kappa.low < 0.4 < kappa.high


def test_reliability_finds_the_simulated_accuracy():
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 2, 1500)
    accuracy = {"good": 0.95, "fair": 0.85, "poor": 0.7, "coin": 0.5}
    labels = {
        who: {unit: "ab"[true if generator.random() < right else 1 - true] for unit, true in enumerate(truth)}
        for who, right in accuracy.items()
    }
    assert reliability(labels) == pytest.approx(accuracy, abs=0.04)


def test_krippendorff_alpha_of_the_published_binary_example():
    """Krippendorff (2011), section A: two observers, ten units, no missing data: 0.095."""
    one, other = "0100000010", "1110010000"
    assert krippendorff_alpha([list(pair) for pair in zip(one, other, strict=True)]) == pytest.approx(0.095, abs=5e-4)


def test_alpha_without_variation_or_pairs_is_no_number():
    for units in ([["a", "a"], ["a", "a"]], [["a"], ["b"]], []):
        assert math.isnan(krippendorff_alpha(units))


def test_cohen_kappa_by_hand():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4."""
    one = ["y"] * 25 + ["n"] * 25
    other = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    assert cohen_kappa(["y", "y"], ["y", "y"]) is None


def test_majority():
    assert majority(["a", "b", "a"]) == "a"
    assert majority(["a", "b", "tie"]) is None
    assert majority(["tie"]) == "tie"


def test_clustered_share_covers_the_truth_where_rows_of_a_prompt_hang_together():
    """Each prompt has its own chance (0.2 or 1) and 1 to 6 rows: the truth is 0.6; a plain interval covers less."""
    rng, covered, plain, runs = random.Random(0), 0, 0, 600
    for _ in range(runs):
        values, clusters = [], []
        for prompt in range(80):
            chance = rng.choice([0.2, 1.0])
            for _ in range(rng.randint(1, 6)):
                values.append(rng.random() < chance)
                clusters.append(str(prompt))
        found = clustered_share(values, clusters)
        covered += found["low"] <= 0.6 <= found["high"]
        half = 1.96 * np.sqrt(found["mean"] * (1 - found["mean"]) / len(values))
        plain += abs(found["mean"] - 0.6) <= half
    assert 0.92 <= covered / runs <= 0.98
    assert plain / runs < 0.88  # else the clusters would not matter here


def test_clustered_share_of_nothing_and_of_one_prompt():
    assert clustered_share([], []) == {"mean": None, "low": None, "high": None, "n": 0}
    assert clustered_share([True, False], ["p", "p"]) == {"mean": 0.5, "low": None, "high": None, "n": 2}


def test_the_limits_of_kappa_are_those_of_statsmodels_where_pairs_are_independent():
    """2,000 pairs, where Wilson's limits are nearly symmetric; doubled pairs of the same clusters tell no more."""
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.array([[500, 120, 60], [90, 480, 50], [70, 130, 500]])
    one = [str(i) for i in range(3) for j in range(3) for _ in range(table[i, j])]
    other = [str(j) for i in range(3) for j in range(3) for _ in range(table[i, j])]
    clusters = [str(i) for i in range(len(one))]
    expected = cohens_kappa(table)
    low, high = kappa_limits([(one, other, clusters)])
    assert (low, high) == pytest.approx((expected.kappa_low, expected.kappa_upp), abs=1e-3)
    assert high - low == pytest.approx(expected.kappa_upp - expected.kappa_low, rel=5e-3)
    doubled = kappa_limits([(one * 2, other * 2, clusters * 2)])
    assert doubled == pytest.approx((low, high), abs=1e-4)
    apart = kappa_limits([(one * 2, other * 2, [str(i) for i in range(2 * len(one))])])
    assert apart[1] - apart[0] == pytest.approx((high - low) / np.sqrt(2), rel=0.01)


def test_the_limits_of_a_mean_of_kappas_allow_for_shared_pairs():
    """Two people who say the same on every pair are worth one; perfect agreement is not certain."""
    one, other = ["a", "b", "a", "b", "a", "a"] * 10, ["a", "b", "b", "b", "a", "b"] * 10
    clusters = [str(i) for i in range(60)]
    assert kappa_limits([(one, other, clusters)] * 2) == pytest.approx(
        kappa_limits([(one, other, clusters)]), abs=1e-12
    )
    low, high = kappa_limits([(one, one, clusters)])
    # agreement 1 with 60 clusters: Wilson's lower limit is 60 / (60 + 1.96^2); by chance (2/3)^2 + (1/3)^2 = 5/9
    assert high == pytest.approx(1.0) and low == pytest.approx((60 / (60 + 1.959964**2) - 5 / 9) / (4 / 9), abs=1e-6)
    assert (
        kappa_limits([(["a"], ["b"], ["p"])]) is None and kappa_limits([(["a"] * 5, ["a"] * 5, list("pqrst"))]) is None
    )
