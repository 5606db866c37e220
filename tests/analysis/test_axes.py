"""Changes along an axis and interactions: known ones are found, and false ones are rarely claimed."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.axes import along_axes, beside_the_first, contrast, headline_of, same, sentences, text_of
from alignment_bench.analysis.summary import plain

METRIC = "win_rate.gold"
FLIPS = [0.0, 0.1, 0.25]


def frame(rows, seeds):
    return pandas.DataFrame(np.array(rows, dtype=float), index=range(len(rows)), columns=seeds)


def scores(rates, *, seeds=3, prompts=200, seed=0, sd=0.3, other=None):
    """A study's scores: rates by method, a win rate a value of the axis, with a prompt's part shared by all."""
    rng, found = np.random.default_rng(seed), []
    shared = rng.normal(0, sd / 2, prompts)
    for method, means in rates.items():
        for place, mean in enumerate(means):
            for s in range(seeds):
                values = mean + shared + rng.normal(0, sd / 2, prompts)
                found.append(pandas.DataFrame({
                    "method": method, "seed": s, "metric": METRIC, "prompt_id": [f"p{i}" for i in range(prompts)],
                    "value": values, "labels.flip": float(place), **(other or {}),
                }))  # fmt: skip
    return pandas.concat(found, ignore_index=True)


def test_rows_beside_the_first_of_a_study_without_axes():
    """b is 0.2 below a, c 0.05 above it, but for noise; only what names a is compared."""
    values = scores({"a": [0.6], "b": [0.4], "c": [0.65]}, sd=0.05).drop(columns="labels.flip")
    b, c = beside_the_first(values, ["a", "b", "c"])
    assert (b["a"], b["b"], b["seeds"], b["metric"]) == ("b", "a", 3, METRIC)
    assert b["difference"] == pytest.approx(-0.2, abs=0.02) and b["verdict"] == "falls"
    assert c["difference"] == pytest.approx(0.05, abs=0.01) and (c["a"], c["b"]) == ("c", "a")
    assert b["p_adjusted"] == pytest.approx(2 * b["p"])  # Holm, of two
    assert beside_the_first(values, ["x", "a"]) == []


def study(rates, **more):
    found = {"axes": along_axes(scores(rates, **more), {"labels.flip": FLIPS})}
    return plain(found)


def test_the_contrast_is_the_difference_of_the_means_whichever_prompts_there_are():
    first, last = frame([[1, 2, 3], [3, 4, 5]], list("abc")), frame([[5, 5, 8], [7, 6, 8]], list("abc"))
    assert contrast(first, last) == pytest.approx((last - first).to_numpy())  # the same prompts: pair by pair
    other = frame([[5, 5], [7, 6]], list("xy"))
    found = contrast(first, other)
    assert found.shape == (2, 5) and np.mean(found) == pytest.approx(5.75 - 3)
    # a first value of 1, 2 below its mean of 3, in 6 of 10 places: 2.75 + 10 / 6 * 2; an other of 5, 0.75 below
    assert found[0, 0] == pytest.approx(2.75 + 10 / 6 * 2) and found[0, 3] == pytest.approx(2.75 - 10 / 4 * 0.75)
    half = frame([[5, 5, 8], [7, 6, 8]], list("bcd"))
    assert np.nanmean(contrast(first, half)) == pytest.approx(6.5 - 3)
    assert np.isnan(contrast(first, frame([[np.nan]], ["x"]))).all()


def test_a_method_that_loses_more_is_told():
    found = study({"dpo": [0.70, 0.69, 0.68], "ppo": [0.70, 0.65, 0.50]})
    assert headline_of(found) == METRIC
    axis = found["axes"]["labels.flip"]
    changes = {row["method"]: row for row in axis["changes"]}
    assert changes["ppo"]["difference"] == pytest.approx(-0.2, abs=0.03) and changes["ppo"]["verdict"] == "falls"
    assert (changes["ppo"]["from"], changes["ppo"]["to"]) == (0.0, 0.25)
    (both,) = axis["interactions"]
    assert (both["a"], both["b"], both["verdict"]) == ("dpo", "ppo", "rises")
    assert both["difference"] == pytest.approx(0.18, abs=0.04)
    said = sentences(found)
    size = f"{-100 * changes['ppo']['difference']:.0f} points of win rate by the true reward ("
    assert any(s.startswith(f"From labels.flip 0 to 0.25, ppo loses {size}") for s in said)
    gains = next(s for s in said if " gains " in s)
    assert gains.startswith("From labels.flip 0 to 0.25, dpo gains 1") and "points on ppo by the true reward" in gains
    assert f"; ppo {100 * changes['ppo']['difference']:+.0f}, dpo -" in gains
    assert any(s.startswith("dpo is better than ppo at labels.flip") and "0.25 by" in s for s in said)
    opening = "Not shown along labels.flip, in points of win rate by the true reward: a change of dpo ("
    assert any(s.startswith(opening) for s in said)


def test_methods_that_change_alike_are_not_told_apart():
    said = sentences(study({"dpo": [0.7, 0.6, 0.5], "ppo": [0.72, 0.62, 0.52]}, prompts=60))
    assert not any("gain" in s for s in said)
    assert any("that dpo and ppo change differently (" in s for s in said)


def test_an_order_that_turns():
    said = sentences(study({"dpo": [0.5, 0.6, 0.8], "ppo": [0.8, 0.6, 0.5]}))
    (turns,) = (s for s in said if s.startswith("The order turns"))
    assert "ppo is better than dpo at labels.flip 0" in turns and "dpo is better than ppo at labels.flip 0.25" in turns


def test_one_seed_speaks_of_policies():
    said = sentences(study({"dpo": [0.8, 0.7, 0.5], "ppo": [0.8, 0.8, 0.8]}, seeds=1))
    assert any("these dpo policies lose" in s for s in said) and any("these ppo policies gain" in s for s in said)
    assert any("These ppo policies are better than these dpo policies" in s for s in said)


def test_other_axes_keep_curves_apart_and_methods_that_an_axis_does_not_concern_are_left_out():
    both = pandas.concat([
        scores({"dpo": [0.7, 0.7, 0.7]}, other={"dpo.beta": 0.0}),
        scores({"dpo": [0.7, 0.6, 0.4]}, other={"dpo.beta": 1.0}),
        scores({"ppo": [0.7, 0.7, 0.7]}, other={"dpo.beta": np.nan}),
    ])  # fmt: skip
    found = along_axes(both, {"labels.flip": FLIPS, "dpo.beta": [0.1, 0.5]})
    flips, betas = found["labels.flip"]["curves"], found["dpo.beta"]["curves"]
    assert [(c["method"], c["at"]) for c in flips] == [("dpo", [0]), ("dpo", [1]), ("ppo", [None])]
    assert [(c["method"], c["at"]) for c in betas] == [("dpo", [0]), ("dpo", [1]), ("dpo", [2])]
    assert [p["value"] for p in betas[0]["points"]] == [0.1, 0.5] and not found["dpo.beta"]["interactions"]
    said = sentences(plain({"axes": found}))
    assert any(s.startswith("From labels.flip 0 to 0.25 at dpo.beta 0.5, dpo loses") for s in said)
    assert any(s.startswith("From dpo.beta 0.1 to 0.5 at labels.flip 0.25, dpo loses") for s in said)


def test_p_is_corrected_over_all_that_is_tested_on_a_score():
    axis = study({"dpo": [0.7, 0.69, 0.68], "ppo": [0.7, 0.66, 0.6]})["axes"]["labels.flip"]
    rows = sorted([*axis["changes"], *axis["interactions"], *axis["pairs"]], key=lambda r: r["p"])
    assert len(rows) == 6  # two changes, an interaction, a pair at each of three values
    assert [r["p_adjusted"] for r in rows[:2]] == pytest.approx(
        [6 * rows[0]["p"], max(6 * rows[0]["p"], 5 * rows[1]["p"])]
    )


def test_policies_that_an_axis_says_nothing_to_are_neither_tested_nor_told():
    """A reward is nothing to DPO, whose policies are the same at every value: the others' p is that of without it."""
    moving = scores({"ppo": [0.7, 0.66, 0.66], "rloo": [0.7, 0.66, 0.6]})
    still = scores({"dpo": [0.7]}, seed=1)
    unmoved = pandas.concat([still.assign(**{"labels.flip": float(place)}) for place in range(3)])
    axis = along_axes(pandas.concat([moving, unmoved]), {"labels.flip": FLIPS})["labels.flip"]
    (dpo,) = (row for row in axis["changes"] if row["method"] == "dpo")
    assert (dpo["difference"], dpo["low"], dpo["high"]) == (0, 0, 0) and np.isnan(dpo["p_adjusted"])
    rows = sorted([*axis["changes"], *axis["interactions"], *axis["pairs"]], key=lambda r: r["p"])
    assert rows[0]["p_adjusted"] == pytest.approx((3 + 3 + 9 - 1) * rows[0]["p"])
    said = sentences(plain({"axes": {"labels.flip": axis}}))
    assert any("Not shown along labels.flip" in s for s in said) and not any("a change of dpo" in s for s in said)


def test_no_difference_on_average_is_not_the_same_policy():
    assert same({"difference": 0.0, "low": 0.0, "high": 0.0})
    assert not same({"difference": 0.0, "low": -0.1, "high": 0.1})
    assert not same({"difference": float("nan"), "low": float("nan"), "high": float("nan")})


def test_crossed_axes_tell_who_is_better_once():
    rates = {"dpo": [0.7, 0.7, 0.7], "ppo": [0.4, 0.4, 0.4]}
    both = pandas.concat([scores(rates, other={"rows": float(place)}) for place in (0, 1)])
    found = along_axes(both, {"labels.flip": FLIPS, "rows": [500, 1000]})
    first, second = (sorted(r["p_adjusted"] for r in axis["pairs"]) for axis in found.values())
    assert len(first) == 6 and first == second and {r["verdict"] for r in found["rows"]["pairs"]} == {"rises"}
    rows = [r for axis in found.values() for part in ("changes", "interactions", "pairs") for r in axis[part]]
    # 4 changes and 2 interactions along the flips, 6 pairs that count once; along the rows nothing differs
    assert len(rows) == 27 and first[0] == pytest.approx(12 * min(r["p"] for r in rows))
    said = [s for s in sentences(plain({"axes": found})) if " better than " in s]
    assert said == [
        f"dpo is better than ppo at every value of labels.flip by the true reward at rows {n}." for n in (500, 1000)
    ]


def test_a_study_without_axes_says_what_is_shown_beside_the_first_and_what_is_not():
    def row(a, metric, difference, p, half=0.02):
        ends = {"difference": difference, "low": difference - half, "high": difference + half, "p_adjusted": p}
        shown = ("rises" if difference > 0 else "falls") if p < 0.05 else "not decided"
        return {"a": a, "b": "ppo", "metric": metric, "seeds": 3, "verdict": shown, **ends}

    rows = [
        row("ppo:beta=0", "win_rate.gold", -0.25, 0.01), row("ppo:beta=0", "kl", 4.0, 0.02, 0.5),
        row("ppo:lam=0", "win_rate.gold", 0.125, 0.04), row("ppo:lam=0", "length", -3.0, 0.0001, 1.0),
        row("ppo:lam=1", "win_rate.gold", 0.0625, 0.05), row("ppo:lam=1", "kl", 9.0, 0.06),
        row("ppo:lam=1", "win_rate.judge", 0.3, 0.001), row("ppo:lam=1", "reward.gold", 0.3, 0.001),
    ]  # fmt: skip
    study = {"axes": {}, "beside_the_first": rows}
    assert headline_of(study) == "win_rate.gold"
    assert sentences(study) == [
        "ppo:beta=0 is worse than ppo by the true reward: 25 points (23 to 27, adjusted p = 0.010).",
        "ppo:beta=0 is above ppo in KL to SFT (nats) (+4.00, +3.50 to +4.50, adjusted p = 0.020).",
        "ppo:lam=0 is better than ppo by the true reward: 12 points (10 to 14, adjusted p = 0.040).",
        "ppo:lam=0 is below ppo in length (tokens) (-3.00, -4.00 to -2.00, adjusted p < 0.001).",
        "Not shown, in points of win rate by the true reward: a difference to ppo of ppo:lam=1 (+6, +4 to +8).",
    ]
    one = {**study, "beside_the_first": [{**rows[0], "seeds": 1}]}
    assert sentences(one)[0].startswith(
        "These ppo:beta=0 policies are worse than these ppo policies by the true reward"
    )


@pytest.mark.parametrize(("value", "text"), [
    ("alignment_bench.benchmarks.world:true_reward", "true_reward"), ("mine:f", "mine:f"), ("a/b", "a/b"),
    (None, "null"), (0.25, "0.25"), (5000, "5000"), (False, "False"),
])  # fmt: skip
def test_a_value_as_people_read_it(value, text):
    assert text_of(value) == text
