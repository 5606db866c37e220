"""Frontiers on curves that are known: values and influence, the bend, cover, and what is said of a pair."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.frontier import GAP, compute_sentences, equal_compute, frontier, sentences
from alignment_bench.analysis.interpolation import NO_COMMON, Curve, at_equal
from alignment_bench.analysis.statistics import interval

PROMPTS = [f"p{i}" for i in range(40)]


def exact(distances, form, seeds=2, prompts=6):
    """A curve without any noise."""
    d = np.array(distances, dtype=float)[:, None, None] * np.ones((1, seeds, prompts))
    return Curve(d**2, form(d))


def noisy(rng, distances, form, seeds, prompts, shape=4.0, sd=0.5):
    """KL Gamma around its mean with this shape; rewards with this sd, half of it shared by the prompt's points."""
    means = np.array(distances, dtype=float)[:, None, None]
    kl = rng.gamma(shape, 1 / shape, (len(means), seeds, prompts)) * means**2
    shared = rng.normal(0, sd, (1, 1, prompts))
    return Curve(kl, form(means) + shared + rng.normal(0, sd, (len(means), seeds, prompts)))


def test_straight_lines_differ_by_what_they_differ_by():
    a, b = exact((0.5, 1.0, 2.0), lambda d: 2 * d), exact((0.7, 2.5), lambda d: d)
    found = at_equal(a, b)
    assert found["kl"] == pytest.approx([0.49, 4.0])
    # the mean of d over 0.7 to 2.0, and its integral (4 - 0.49) / 2
    assert found["difference"] == pytest.approx(1.35)
    assert found["area"]["difference"] == pytest.approx(1.755)
    assert [c["difference"] for c in found["curve"]] == pytest.approx([c["distance"] for c in found["curve"]])
    assert found["low"] == pytest.approx(1.35) and found["high"] == pytest.approx(1.35)  # straight: no bend


def test_the_same_bent_curve_differs_by_no_more_than_its_bend():
    form = lambda d: d * (2 - 0.7 * d)  # noqa: E731
    a, b = exact((0.5, 1.0, 2.0), form), exact((0.7, 1.4, 2.4), form)
    # c is 0.7 for every three points; at 1.6, a's neighbours are 1.0 and 2.0, b's 1.4 and 2.4
    assert a.bend(1.6) == pytest.approx(0.7 * 0.6 * 0.4)
    assert a.bend(0.6) == pytest.approx(0.7 * 0.1 * 0.4)
    assert b.bend(1.6) == pytest.approx(0.7 * 0.2 * 0.8)
    assert a.at(1.6) == pytest.approx(form(1.6) - 0.7 * 0.6 * 0.4)  # a chord lies below by just that
    found = at_equal(a, b)
    assert any(abs(c["difference"]) > 0.05 for c in found["curve"])
    assert all(c["low"] <= 1e-9 and c["high"] >= -1e-9 for c in found["curve"])


@pytest.mark.parametrize("what", ["kl", "rewards"])
def test_influence_is_what_a_response_changes(what):
    rng = np.random.default_rng(0)
    curve = noisy(rng, (0.6, 1.1, 1.9), lambda d: d * (2 - 0.6 * d), 2, 5)
    d, step = float(curve.distances[1] * 1.2), 1e-5
    before, size = curve.at(d), curve.kl[0].size
    for point in range(3):
        changed = Curve(curve.kl.copy(), curve.rewards.copy())
        getattr(changed, what)[point, 1, 3] += step
        change = (np.mean(changed.at(d)) - np.mean(before)) / step * size
        i, j, w, slope = curve.pair(d)
        share = {i: 1 - w, j: w}.get(point, 0.0)
        expected = share if what == "rewards" else -share * slope / (2 * curve.distances[point])
        assert change == pytest.approx(expected, abs=1e-4)
    # and the table's spread is the sum of these: a response that lies above its point's mean lifts the value
    i, j, w, slope = curve.pair(d)
    by_hand = np.mean(before)
    for point, share in ((i, 1 - w), (j, w)):
        off = curve.rewards[point, 1, 3] - curve.rewards[point].mean()
        moved = (curve.kl[point, 1, 3] - curve.kl[point].mean()) / (2 * curve.distances[point])
        by_hand += share * (off - slope * moved)
    assert before[1, 3] == pytest.approx(by_hand)


@pytest.mark.parametrize(("seeds", "shape", "sd"), [(1, 4.0, 0.5), (3, 4.0, 0.5), (3, 0.5, 0.05)])
def test_coverage_of_the_value_and_of_the_difference(seeds, shape, sd):
    """Straight lines, so that nothing but noise is between the interval and the truth; shape 0.5: all of it in the KL,
    where prompts whose KL is heavy-tailed have intervals that are a little short."""
    rng, values, differences = np.random.default_rng(2), [], []
    for _ in range(200):
        a = noisy(rng, (0.5, 1.0, 2.0), lambda d: 2 * d, seeds, 150, shape, sd)
        b = noisy(rng, (0.7, 1.4, 2.4), lambda d: 2 * d - 0.5, seeds, 150, shape, sd)
        found = interval(a.at(1.5))
        values.append(found.low <= 3.0 <= found.high)
        at = min(at_equal(a, b)["curve"], key=lambda c: abs(c["distance"] - 1.4))
        bend = a.bend(at["distance"]) + b.bend(at["distance"])
        differences.append(at["low"] + bend <= 0.5 <= at["high"] - bend)
    assert 0.925 <= np.mean(values) <= 0.995
    assert 0.925 <= np.mean(differences) <= 0.995


def test_a_single_row_is_compared_at_its_own_distance_which_is_uncertain_too():
    rng, hits = np.random.default_rng(3), []
    for _ in range(200):
        a = noisy(rng, (0.5, 1.0, 2.0), lambda d: 2 * d, 2, 100, 1.0, 0.05)
        b = noisy(rng, (1.4,), lambda d: 2 * d - 0.5, 2, 100, 1.0, 0.05)
        found = at_equal(b, a)
        hits.append(found["low"] <= -0.5 <= found["high"])
        assert found["kl"][0] == found["kl"][1] and found["area"]["difference"] == 0
    assert np.mean(hits) >= 0.93
    # a response whose reward is what the frontier gives for its KL says nothing against it, however far its KL lies off
    b = noisy(rng, (1.4,), lambda d: d, 2, 100)
    on = Curve(b.kl, 2 * b.distances[0] + 2 * b.moved(0)[None])
    line = exact((0.5, 1.0, 2.5), lambda d: 2 * d, 2, 100)
    for found in (at_equal(on, line), at_equal(line, on)):
        assert found["high"] - found["low"] < 1e-6 and abs(found["difference"]) < 1e-6
    plain = at_equal(exact((1.4,), lambda d: 2 * d - 0.5), exact((0.5, 2.0), lambda d: 2 * d))
    assert plain["difference"] == pytest.approx(-0.5)


def test_missing_values_leave_a_response_out():
    a, b = exact((0.5, 2.0), lambda d: 2 * d), exact((0.7, 2.5), lambda d: d)
    a.rewards[:, 0, 0] = np.nan
    assert at_equal(a, b)["difference"] == pytest.approx(1.35)


def scores_of(rows, seeds=3, sd=0.3, prompts=PROMPTS):
    """Scores of SFT and of rows: label -> (KL, true reward over SFT, training reward over SFT)."""
    rng, found = np.random.default_rng(5), []
    base = rng.normal(0, 1, len(prompts))
    base = (base - base.mean()) / base.std()  # so that a standard deviation is 1, or 1.04 with the noise of sd 0.3
    for label, (kl, gold, proxy) in {"sft": (0.0, 0.0, 0.0), **rows}.items():
        for seed in range(seeds):
            values = {
                "kl": np.full(len(prompts), kl) * rng.gamma(20, 1 / 20, len(prompts)),
                "reward.gold": base + gold + rng.normal(0, sd, len(prompts)),
                "reward.gold.polite": base,
                "reward.reward_model.training": 10 * (base + proxy),
                "win_rate.gold": np.clip(0.5 + gold / 4 + rng.normal(0, sd / 4, len(prompts)), 0, 1),
            }
            frames = (
                {"method": label, "seed": seed, "metric": m, "prompt_id": p, "value": v}
                for m, column in values.items()
                for p, v in zip(prompts, column, strict=True)
            )
            found += frames
    return pandas.DataFrame(found)


APART = {
    "dpo": (0.25, 0.5, 0.5),
    "dpo:beta=0.1": (1.0, 1.0, 1.0),
    "dpo:beta=0.05": (2.25, 1.5, 2.0),
    "ppo": (0.36, 0.2, 0.2),
    "ppo:beta=0.1": (1.96, 0.5, 0.5),
}


def test_rows_of_a_method_are_one_frontier_and_are_compared_at_equal_kl():
    found = frontier(scores_of(APART))
    assert [(m, row["over"], [p["name"] for p in row["points"]]) for m, row in found["methods"].items()] == [
        ("dpo", "rows", ["dpo", "dpo:beta=0.1", "dpo:beta=0.05"]),
        ("ppo", "rows", ["ppo", "ppo:beta=0.1"]),
    ]
    rows = {row["metric"]: row for row in found["comparisons"]}
    assert set(rows) == {"reward.gold", "reward.training", GAP, "win_rate.gold"}
    gold = rows["reward.gold"]
    assert gold["kl"] == pytest.approx([0.36, 1.96], rel=0.05) and gold["seeds"] == 3
    # dpo reaches 0.6 at a distance of 0.6 and 1.4 at 1.4, ppo 0.2 and 0.5: 1.0 - 0.35 on average
    assert gold["difference"] == pytest.approx(0.65, abs=0.12)
    assert gold["verdict"] == "dpo is better" and gold["everywhere"] and not gold["crosses"]
    # the training reward is ten times as large, and the gap counts in standard deviations
    gaps = [p["scores"][GAP]["mean"] for p in found["methods"]["dpo"]["points"]]
    assert gaps == pytest.approx([0.5 - 0.5 / 1.044, 1.0 - 1.0 / 1.044, 2.0 - 1.5 / 1.044], abs=0.1)
    assert set(found["methods"]["dpo"]["fits"]) and not found["methods"]["ppo"]["fits"]  # three rows, two rows
    (said,) = sentences({"frontier": found})
    assert said.startswith("At equal KL to SFT (0.3") and "dpo is ahead of ppo by the true reward: 1" in said
    assert said.endswith("and at every KL in between.")


def test_one_seed_speaks_of_policies():
    found = frontier(scores_of(APART, seeds=1))
    said = sentences({"frontier": found})[0]
    assert "these dpo policies are ahead of these ppo policies" in said


def test_nothing_is_said_without_a_common_kl_and_frontiers_that_cross_are_told():
    apart = {**APART, "ppo": (4.0, 1.0, 1.0), "ppo:beta=0.1": (9.0, 1.5, 1.5)}
    found = frontier(scores_of(apart))
    assert {row["verdict"] for row in found["comparisons"]} == {NO_COMMON}
    (said,) = sentences({"frontier": found})
    assert said.startswith("Nothing is said of dpo and ppo at equal KL") and "ppo 4.1 to 9 nats" in said
    crossing = {**APART, "ppo": (0.36, 1.6, 1.6), "ppo:beta=0.1": (1.96, 0.2, 0.2)}
    found = frontier(scores_of(crossing))
    row = next(row for row in found["comparisons"] if row["metric"] == "reward.gold")
    assert row["crosses"] and not row["everywhere"]
    assert "the two cross: by the true reward, ppo" in sentences({"frontier": found})[0]


def test_ahead_on_average_is_not_ahead_everywhere():
    found = frontier(scores_of({**APART, "ppo": (0.36, 0.6, 0.6), "ppo:beta=0.1": (1.96, 0.2, 0.2)}))
    row = next(row for row in found["comparisons"] if row["metric"] == "reward.gold")
    assert row["verdict"] == "dpo is better" and not row["everywhere"] and not row["crosses"]
    assert "every KL" not in sentences({"frontier": found})[0]


def test_a_response_counts_where_every_row_has_its_value():
    scores = scores_of(APART)
    of_gold, of_one = scores["metric"] == "reward.gold", scores["prompt_id"] == PROMPTS[0]
    without = frontier(scores[~of_one])["comparisons"]
    scores.loc[of_gold & of_one & (scores["method"] == "ppo"), "value"] = np.nan
    scores.loc[of_gold & of_one & (scores["method"] == "dpo:beta=0.1"), "value"] = 1000.0
    found = frontier(scores)["comparisons"]
    values = [next(r["difference"] for r in rows if r["metric"] == "reward.gold") for rows in (found, without)]
    assert values[0] == pytest.approx(values[1])


def test_equal_frontiers_are_told_as_undecided():
    equal = {**APART, "ppo": (0.36, 0.6, 0.6), "ppo:beta=0.1": (1.96, 1.4, 1.4)}
    found = frontier(scores_of(equal, sd=1.0))
    assert "no difference between dpo and ppo is shown by the true reward" in sentences({"frontier": found})[0]


def test_a_method_with_one_row_is_a_frontier_of_its_checkpoints():
    scores = scores_of({"dpo": APART["dpo:beta=0.05"], "ppo": APART["ppo:beta=0.1"]})
    assert frontier(scores) == {}
    parts = []
    for method, rewards in (("dpo", {8: 0.5, 16: 1.0, 24: 1.5}), ("ppo", {24: 0.5})):
        for examples, gold in {0: 0.0, **rewards}.items():
            part = scores_of({method: ((examples / 16) ** 2, gold, gold)})
            parts.append(part[part["method"] == method].assign(examples=examples))
    along = pandas.concat(parts).replace({"metric": {"reward.reward_model.training": "reward.training"}})
    found = frontier(scores, along)
    assert [p["name"] for p in found["methods"]["dpo"]["points"]] == ["8 examples", "16 examples", "24 examples"]
    assert not found["methods"]["dpo"]["fits"]  # those along one training are fitted by overoptimization.py
    some = along[(along["examples"] != 16) | (along["seed"] != 0)]
    assert [p["name"] for p in frontier(scores, some)["methods"]["dpo"]["points"]] == ["8 examples", "24 examples"]
    assert (found["methods"]["dpo"]["over"], found["methods"]["ppo"]["over"]) == ("checkpoints", "rows")
    row = next(row for row in found["comparisons"] if row["metric"] == "reward.gold")
    assert row["kl"][0] == row["kl"][1] and row["verdict"] == "dpo is better"  # at the KL of ppo's only row


def test_at_equal_compute_rows_stand_at_their_flops():
    rows = {
        "dpo:budget=1": (0.25, 0.5, 0.5), "dpo:budget=4": (1.0, 1.0, 1.0),
        "ppo:budget=1": (0.3, 0.4, 0.4), "ppo:budget=4": (2.0, 1.6, 1.6),
    }  # fmt: skip
    names = {label: label.partition(":")[0] for label in rows}
    flops = {"dpo:budget=1": 1e12, "dpo:budget=4": 4e12, "ppo:budget=1": 2.25e12, "ppo:budget=4": 16e12}
    found = {row["metric"]: row for row in equal_compute(scores_of(rows), names, flops)}
    # square roots 1.5 to 2: there dpo goes from 0.75 to 1.0 and ppo from 0.4 to 0.64, though at equal KL they are alike
    gold = found["reward.gold"]
    assert gold["flops"] == pytest.approx([2.25e12, 4e12]) and gold["difference"] == pytest.approx(0.355, abs=0.1)
    assert gold["verdict"] == "dpo is better"
    (said,) = compute_sentences(list(found.values()))
    assert said.startswith(
        "At equal training compute (2.25 TFLOP to 4.00 TFLOP), dpo is ahead of ppo by the true reward: "
    )
    # twice the square root of the FLOPs is half way between 1 and 9 TFLOP, and its place is known exactly
    curve = Curve(np.ones((2, 1, 3)) * [[[1.0, 2.0, 3.0]]], np.array([[[0.0] * 3], [[2.0] * 3]]), np.array([1.0, 3.0]))
    assert curve.at(2.0) == pytest.approx(np.ones((1, 3)))
    assert equal_compute(scores_of(rows), names, {**flops, "ppo:budget=1": None, "ppo:budget=4": None}) == []


def test_of_many_pairs_those_are_told_in_which_something_is_shown():
    levels = {"dpo": 1.5, "ppo": 0.2, "kto": 0.21, "ipo": 0.19}
    rows = {f"{m}{part}": (kl, r * kl, r) for m, r in levels.items() for part, kl in (("", 0.4), (":beta=1", 1.6))}
    rows |= {"far": (9.0, 1.0, 1.0), "far:beta=1": (16.0, 1.0, 1.0)}
    said = sentences({"frontier": frontier(scores_of(rows))})
    assert sum("dpo is ahead of" in s for s in said) == 3 and len(said) == 4
    assert said[-1] == (
        "At equal KL to SFT, no difference is shown in 7 of 10 pairs of methods, corrected for each other, 4 of which "
        "have no KL in common."
    )


def test_what_a_studys_answer_tells_is_left_out_here_where_it_is_not_shown():
    levels = {"dpo": 1.5, "ppo": 0.2, "kto": 0.21, "ipo": 0.19}
    rows = {f"{m}{part}": (kl, r * kl, r) for m, r in levels.items() for part, kl in (("", 0.4), (":beta=1", 1.6))}
    rows |= {"far": (9.0, 1.0, 1.0), "far:beta=1": (16.0, 1.0, 1.0)}
    found = {"frontier": frontier(scores_of(rows))}

    def ids(*pair):
        return {id(row) for row in found["frontier"]["comparisons"] if {row["a"], row["b"]} == {*pair}}

    assert "no difference is shown in 7 of 10 pairs of methods" in sentences(found)[-1]
    assert "no difference is shown in 6 of 9 other pairs of methods" in sentences(found, ids("ppo", "kto"))[-1]
    assert sentences(found, ids("dpo", "ppo")) == sentences(found)
