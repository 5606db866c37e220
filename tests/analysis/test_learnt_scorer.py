"""What is said where a learnt reward model is the headline, and where it is not."""

from math import sqrt

import pandas
import pytest
from scipy.stats import norm

from alignment_bench.analysis.learnt_scorer import (
    GOLD,
    LEARNT,
    beside_the_truth,
    disagreements,
    far_shares,
    is_headline,
    length_sentences,
    no_winner,
    sentences,
)
from alignment_bench.analysis.reward_audit import ScoredPair, audit_reward_model

JUDGE = "win_rate.judge"


def cell(mean, half=0.05):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 300}


def model(accuracy=0.758, beyond=(0.1, 0.2), r=0.2, subsets=None):
    return {
        "accuracy": cell(accuracy), "beyond_length": {"mean": sum(beyond) / 2, "low": beyond[0], "high": beyond[1]},
        "length_correlation": {"mean": r}, "length_rule": cell(0.55), "matched": cell(0.7) | {"n": 40},
        "subsets": {name: {"accuracy": cell(value)} for name, value in (subsets or {}).items()},
    }  # fmt: skip


def summary(metrics=(LEARNT, JUDGE), phi=(0.55, 0.67), far=None, rates=None, evaluated_by=None, **models):
    rates = rates or {"ppo": {LEARNT: cell(0.6), JUDGE: cell(0.6)}}
    return {
        "contract": {"evaluated_by": evaluated_by} if evaluated_by else {},
        "methods": {"sft": {"metrics": {LEARNT: cell(0.5)}}} | {row: {"metrics": m} for row, m in rates.items()},
        "comparisons": [
            {"a": "ppo", "b": "sft", "metric": metric, "verdict": "not decided" if metric == metrics[0] else ""}
            for metric in metrics
        ],
        "hacking": {"optimized": ["ppo", "rloo"], "rows": {}},
        "far": far or {},
        "reward_models": {
            "heldout": {
                "models": models or {"training": model(), "evaluation": model()},
                "phi": {"mean": sum(phi) / 2, "low": phi[0], "high": phi[1]},
            }
        },
    }


def test_the_headline_is_learnt_where_no_true_reward_is_known():
    assert is_headline(summary()) and is_headline(summary((LEARNT,)))
    assert not is_headline(summary((GOLD, LEARNT))) and not is_headline(summary((JUDGE,)))
    assert not is_headline(summary(("win_rate.people", LEARNT)))
    assert sentences(summary((GOLD, LEARNT), far={"ppo": {"far": 0.5, "very_far": 0.5}})) == []


def test_who_optimized_and_how_mistakes_go_together():
    said = sentences(summary())[0]
    assert said == (
        "ppo, rloo optimized a reward model and are compared by another that learnt from the same labellers: on "
        "held-out pairs the two make the same mistakes (phi = 0.61 [0.55, 0.67]), so gains may be shared mistakes."
    )
    assert (
        "are not shown to make the same mistakes (phi = 0.05 [−0.05, 0.15])" in sentences(summary(phi=(-0.05, 0.15)))[0]
    )
    assert "by a reward model of your own: on" in sentences(summary(evaluated_by="ab12"))[0]
    brought = summary()
    brought["contract"]["training_reward"] = {"name": "rules:reward"}
    assert sentences(brought)[0].startswith(
        "ppo, rloo optimized rules:reward and are compared by a reward model that learnt from the pairs: on held-out"
    )
    brought["hacking"]["optimized"] = ["rloo"]
    assert sentences(brought)[0].startswith("rloo optimized rules:reward and is compared by a reward model that ")
    unknown = summary()
    unknown["reward_models"] = {}
    assert sentences(unknown)[0].endswith("how far the two make the same mistakes was not measured.")
    unknown["hacking"]["optimized"] = []
    assert sentences(unknown) == []


def test_accuracy_is_told_by_facet():
    facets = {"harmless": 0.81, "helpful": 0.70}
    [said] = [s for s in sentences(summary(evaluation=model(subsets=facets))) if "orders" in s]
    assert said == (
        "The evaluation reward model orders 75.8% of held-out pairs as labelled (harmless 81.0%, helpful 70.0%)."
    )


def test_far_shares_are_of_responses_above_two_and_eight_nats():
    rows = [("ppo", s, "kl", f"p{i}", kl) for s in (0, 1) for i, kl in enumerate((0.5, 2.0, 2.1, 9.0))]
    rows += [("dpo", 0, "kl", "p0", 8.5), ("dpo", 0, "kl", "p1", None), ("sft", 0, "kl", "p0", 0.0)]
    rows += [("ppo", 0, "length", "p0", 50.0)]
    found = far_shares(pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"]))
    assert found == {
        "ppo": {"far": 0.5, "very_far": 0.25, "responses": 8}, "dpo": {"far": 1.0, "very_far": 1.0, "responses": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("far", "very_far", "named"),
    [(0.2, 0.1, True), (0.21, 0.0, False), (0.15, 0.11, False), (0.0, 0.0, True)],
)
def test_no_winner_where_many_responses_lie_far_out(far, very_far, named):
    made = summary(far={"ppo": {"far": far, "very_far": very_far}, "dpo": {"far": 0.01, "very_far": 0.0}})
    found = no_winner(made, LEARNT)
    assert (found is None) == named
    assert no_winner(made, JUDGE) is None and no_winner(made, GOLD) is None
    if found:
        assert found.startswith("No winner is named by the evaluation reward model alone") and "dpo" not in found
    said = [s for s in sentences(made) if s.startswith("Responses more than 2 nats from SFT")]
    assert len(said) == 1 and "dpo 1.0%" in said[0]


def test_no_winner_is_told_by_row():
    found = no_winner(summary(far={"ppo": {"far": 0.31, "very_far": 0.034}}), LEARNT)
    assert found.endswith("more than 2 nats from SFT: ppo 31.0% (3.4% more than 8).")
    assert no_winner(summary(), LEARNT) is None


def test_another_size_by_another_scorer_is_said_beyond_both_intervals():
    """Two rows, so 0.05 / 2 each: half-widths of 0.05 make sqrt(0.05^2 + 0.05^2) * 2.2414 / 1.96 = 0.0809."""
    half = sqrt(2 * 0.05**2) * norm.isf(0.0125) / norm.isf(0.025)
    assert half == pytest.approx(0.0809, abs=1e-4)
    rates = {
        "ppo": {LEARNT: cell(0.80), JUDGE: cell(0.80 - half - 0.001)},
        "dpo": {
            LEARNT: cell(0.60),
            JUDGE: cell(0.60 + half - 0.001),
            "win_rate.judge.helpful": cell(0.1),
            "kl": cell(9),
        },
    }
    assert disagreements(summary(rates=rates)) == [
        "ppo wins 80.0% by the evaluation reward model and 71.8% by the judge: 8 points apart, at least 0."
    ]
    assert disagreements(summary(rates=rates))[0] in sentences(summary(rates=rates))
    rates["dpo"][JUDGE] = {"mean": 0.9, "low": None, "high": None}
    assert len(disagreements(summary(rates=rates))) == 1


def test_the_side_of_an_interval_that_looks_at_the_other_counts():
    """0.90 down by 0.2 or up by 0.02; 0.80 up by 0.02 or down by 0.2: they look at each other over 0.2 and 0.02."""
    skew = {LEARNT: {"mean": 0.9, "low": 0.7, "high": 0.92}, JUDGE: {"mean": 0.8, "low": 0.6, "high": 0.82}}
    assert disagreements(summary(rates={"ppo": skew})) == []
    flipped = {LEARNT: skew[JUDGE] | {"high": 0.81}, JUDGE: skew[LEARNT] | {"low": 0.89}}
    assert len(disagreements(summary(rates={"ppo": flipped}))) == 1


def test_length_is_spoken_of_where_the_model_knows_little_more():
    """Forty pairs of which the longer reply is preferred in thirty, ordered by length, or as they are labelled."""
    lengths = [(9, 4)] * 30 + [(4, 9)] * 10

    def audited(score):
        return audit_reward_model(
            [ScoredPair(f"p{i}", None, *score(i, *pair), *pair) for i, pair in enumerate(lengths)]
        )

    by_length, by_truth = audited(lambda i, a, b: (a, b)), audited(lambda i, a, b: (1 + i % 3, -2))
    [said] = length_sentences(summary(training=by_length, evaluation=by_truth | {"length_correlation": {"mean": 0.5}}))
    assert said.startswith(
        "The training reward model is not shown to know more than length: it orders 75.0% of held-out pairs as "
        "labelled (taking the longer reply alone 0.750"
    )
    known = summary(training=by_length) | {"contract": {"training_reward": {"name": "rules:reward"}}}
    assert length_sentences(known)[0].startswith("The training reward is not shown to know more than length: it orders")
    assert "goes with length: it orders" in length_sentences(summary(evaluation=model(r=0.51)))[0]
    assert length_sentences(summary(evaluation=model(r=0.5))) == []
    assert length_sentences({"reward_models": {}}) == []
    assert said in sentences(summary((GOLD,), training=by_length))  # also where the true reward is known


def test_ruined_rows_are_those_that_the_true_reward_shows_to_be_worse():
    """By reward model 0.8, 0.7, 0.6 and by truth 0.4, 0.45, 0.6: of three pairs all are in opposite order."""
    rates = {
        "a": {LEARNT: cell(0.8), GOLD: cell(0.4)}, "b": {LEARNT: cell(0.7), GOLD: cell(0.45, half=0.06)},
        "c": {LEARNT: cell(0.6), GOLD: cell(0.6)}, "d": {LEARNT: cell(0.6)},
    }  # fmt: skip
    found = beside_the_truth(summary(rates=rates))
    assert [(r["row"], r["is_ruined"], r["is_missed"]) for r in found["rows"]] == [
        ("a", True, True), ("b", False, False), ("c", False, False),
    ]  # fmt: skip
    assert found["tau"] == pytest.approx(-1)
    judged = {row: {JUDGE: cell(mean), **rates[row]} for row, mean in zip("abc", (0.3, 0.4, 0.5), strict=True)}
    assert beside_the_truth(summary(rates=judged), JUDGE)["tau"] == pytest.approx(1)  # in the order of the truth
    assert beside_the_truth(summary(rates=judged)) == {**found, "tau": pytest.approx(-1)}
    del rates["c"]
    assert beside_the_truth(summary(rates=rates))["tau"] is None
    rates["a"][LEARNT] = cell(0.52)  # not shown to be above one half: ruined, and not missed
    assert [(r["is_ruined"], r["is_missed"]) for r in beside_the_truth(summary(rates=rates))["rows"]][0] == (
        True,
        False,
    )
