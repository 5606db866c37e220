"""The opening of a report: what is shown and what is not, for a few methods and for many."""

import pandas

from alignment_bench.analysis.findings import few_seeds, findings
from alignment_bench.analysis.summary import summarize

STRONG = [1.0] * 64 + [0.0] * 16  # 80% of 80
EVEN = [1.0, 0.0] * 40
GOLD = "win_rate.gold"


def scores(method, metric, values):
    return [(method, 0, metric, f"p{i}", value) for i, value in enumerate(values)]


def make(rows, costs=None):
    return summarize(
        run_id="r", run_dir="d", benchmark="quick", contract={}, costs=costs or {}, gates=[], warnings=[],
        scores=pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"]),
    )  # fmt: skip


def test_findings_sort_what_is_shown_from_what_is_not():
    judge = "win_rate.judge"
    rows = scores("a", GOLD, STRONG) + scores("b", GOLD, EVEN) + scores("a", judge, [1 - v for v in STRONG])
    costs = {"a": [{"seconds": 90.0, "flops": 6e9, "reward_queries": 2000.0}], "b": [{"seconds": 30.0, "flops": 2e9}]}
    made = make(rows, costs) | {"judges": {"audit": {"judge": {"flip": {"mean": 0.25}}}}}
    found = findings(made)
    assert found.recommendation == "Use a: it alone is shown to beat SFT by the true reward."
    assert [said.partition(":")[0] for said in found.certainty] == [
        "a beats SFT", "a is better than b", "By the judge", "Elo points over SFT by the true reward",
    ]  # fmt: skip
    assert found.cost == [
        "a: 1 min 30 s, 6.00 GFLOP, 2,000 reward queries.",
        "b: 30 s, 2.00 GFLOP.",
        "On the same data a costs about 3 times as much as b: 3.0 times the time, 3.0 times the FLOPs.",
    ]
    assert found.confounds[0].startswith("a, b: fewer than 3 seeds; intervals with one seed")
    assert found.confounds[1:] == [
        "The budget is equal in examples, not in compute: a spends 3.0 times the FLOPs of b, so part of their "
        "difference may be due to compute."
    ]
    assert found.watch == [
        "Evaluators contradict each other: a is better by the true reward; sft is better by the judge.",
        "The judge changes its verdict on 25% of the pairs when the two responses are swapped.",
    ]
    assert found.not_shown[0].startswith("No significant difference between b and SFT: it wins 50%")
    assert any("with one seed" in said for said in found.not_shown)
    assert not any("none was asked" in said for said in found.not_shown)


def test_a_judge_is_doubted_where_all_of_the_interval_lies_below_people():
    below = {"agreement": 0.6, "people": 0.8, "difference": -0.2, "low": -0.3, "high": -0.1, "n": 90}
    rows = {"low": below, "wide": {**below, "high": 0.01}, "one_prompt": {**below, "low": None, "high": None}}
    people = {"judges": {name: {"another_person": row} for name, row in rows.items()} | {"older": {}}}
    found = findings(make(scores("a", GOLD, EVEN)) | {"judges": {"audit": {}, "people": people}})
    assert found.watch == [
        "The judge low agrees with one person on 60% of the pairs that people labelled, people with each other on 80%: "
        "20 points below its ceiling (10 to 30), so trust its verdicts less than a person's."
    ]


def test_many_methods_are_gathered():
    """a and b win 80%, c, d and e 50% on the same prompts, f loses 80%: the same is said once for all of its kind."""
    rates = {"a": STRONG, "b": STRONG, "c": EVEN, "d": EVEN, "e": EVEN, "f": [1 - v for v in STRONG]}
    rows = [row for name, values in rates.items() for row in scores(name, GOLD, values)]
    costs = {name: [{"seconds": 10.0 * (place + 1)}] for place, name in enumerate(rates)}
    made = make(rows, costs) | {
        "overoptimization": {
            "a": {"text": "a is over-optimized: it falls"}, "b": {"text": "b: no turn"}, "c": {"text": "c: no turn"},
        }
    }  # fmt: skip
    found = findings(made)
    beat, worse, first, second = found.certainty
    # Wilson at 80 prompts with t[79] = 1.990: g = 0.0495, centre 0.786, half-width 0.088; at one half 0.109
    assert beat == "Shown to beat SFT by the true reward: a 80% (70 to 87), b 80% (70 to 87)."
    assert worse == "Shown to be worse than SFT by the true reward: f 20% (13 to 30)."
    assert (first, second) == ("a is better than c, d, e and f.", "b is better than c, d, e and f.")
    assert found.cost == [
        "a: 10 s.",
        "b: 20 s.",
        "f: 1 min 00 s.",
        "On the same data f costs about 6 times as much as a: 6.0 times the time.",
    ]
    assert found.watch == ["a is over-optimized: it falls.", "Not shown to be over-optimized: b and c."]
    level, pairs = found.not_shown[:2]
    assert level.startswith("No significant difference to SFT by the true reward: c 50% (39 to 61), d 50% (39 to 61), ")
    # of 15 pairs: a-b, and c-d, c-e, d-e are alike; c, d and e are better than f
    assert pairs.startswith("No significant difference in 4 of 15 pairs of methods")
    assert "this run would show differences of" in level


def test_few_seeds_are_named_by_how_few():
    rows = {"sft": {"seeds": 1}, "a": {"seeds": 1}, "b": {"seeds": 2}, "c": {"seeds": 3}, "d": {"seeds": 0}}
    one, two = few_seeds(rows)
    assert one.startswith("a: fewer than 3 seeds; intervals with one seed") and two.startswith("b: fewer than 3 seeds")


def test_budgets_that_differ_are_a_confound():
    rows = scores("a", GOLD, STRONG) + scores("b", GOLD, EVEN) + scores("none", GOLD, EVEN)
    costs = {"a": [{"examples": 9600.0, "flops": 8.0}], "b": [{"examples": 4800.0, "flops": 4.0}], "none": []}
    assert findings(make(rows, costs)).confounds[1:] == [
        "The budgets differ: a from 9,600; b from 4,800 examples.",
        "a spends 2.0 times the FLOPs of b, so part of their difference may be due to compute.",
    ]
    equal = {name: [{**cost[0], "examples": 4800.0}] for name, cost in costs.items() if cost}
    assert findings(make(rows, equal)).confounds[1].startswith("The budget is equal in examples, not in compute: a")


def test_nothing_shown_is_said():
    found = findings(make(scores("a", GOLD, EVEN)))
    assert found.certainty == ["No difference is shown by the true reward."]
    assert found.not_shown[0].startswith("No significant difference between a and SFT")
