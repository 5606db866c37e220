"""The opening of a report: what is shown and what is not, for a few methods and for many."""

import pandas

from alignment_bench.analysis.findings import few_seeds, findings
from alignment_bench.analysis.summary import summarize

STRONG = [1.0] * 64 + [0.0] * 16  # 80% of 80
EVEN = [1.0, 0.0] * 40
GOLD = "win_rate.gold"


def scores(method, metric, values, seeds=1):
    return [(method, seed, metric, f"p{i}", value) for seed in range(seeds) for i, value in enumerate(values)]


def make(rows, costs=None, owners=None):
    return summarize(
        run_id="r", run_dir="d", benchmark="quick", contract={}, costs=costs or {}, gates=[], warnings=[],
        scores=pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"]), owners=owners,
    )  # fmt: skip


def with_rewards(method, wins, seeds=1):
    """Wins of a method against SFT, from rewards of 1 and -1 beside SFT's 0."""
    return scores(method, GOLD, wins, seeds) + scores(method, "reward.gold", [2 * w - 1 for w in wins], seeds)


def test_findings_sort_what_is_shown_from_what_is_not():
    judge = "win_rate.judge"
    rows = with_rewards("a", STRONG) + with_rewards("b", EVEN) + scores("a", judge, [1 - v for v in STRONG])
    costs = {"a": [{"seconds": 90.0, "flops": 6e9, "reward_queries": 2000.0}], "b": [{"seconds": 30.0, "flops": 2e9}]}
    made = make(rows, costs) | {"judges": {"audit": {"judge": {"flip": {"mean": 0.25}}}}}
    found = findings(made)
    # a's reward is above b's where a wins and b loses: 32 of 80, the reverse on 8
    assert found.recommendation == (
        "No method is recommended, for each was trained once: this a policy is shown to beat SFT by the true reward, "
        "and this a policy to be better than this b policy; each further seed of all would train for about "
        "2 min 00 s."
    )
    assert [said.partition(":")[0] for said in found.certainty] == [
        "This a policy beats SFT", "This a policy is better than this b policy",
        "By the judge, for comparison and not tested", "Elo points over SFT by the true reward",
    ]  # fmt: skip
    assert found.certainty[1].startswith(
        "This a policy is better than this b policy: it wins 65% head to head by the true reward (95% interval "
    )
    assert found.certainty[2].endswith(": a 20% (13 to 30).")
    assert found.cost == [
        "a: 1 min 30 s, 6.00 GFLOP, 2,000 reward queries.",
        "b: 30 s, 2.00 GFLOP.",
        "On the same data a costs about 3 times as much as b: 3.0 times the time, 3.0 times the FLOPs.",
    ]
    assert found.confounds[0].startswith("a, b: one seed; the intervals are over prompts alone")
    assert found.confounds[1:] == [
        "The budget is equal in examples, not in compute: a spends 3.0 times the FLOPs of b, so part of their "
        "difference may be due to compute."
    ]
    assert found.watch == [
        "Scorers contradict each other: a is better by the true reward, SFT by the judge.",
        "The judge changes its verdict on 25% of the pairs when the two responses are swapped.",
    ]
    assert found.not_shown[0].startswith("Not decided between this b policy and SFT: this b policy wins 50%")
    assert any("with one seed" in said for said in found.limits)
    assert any("with the same SFT model, reward models and split" in said for said in found.limits)
    assert not any("none was asked" in said for said in found.limits)
    varied = findings(made | {"contract": {"per_seed": ["sft", "split"]}}).limits
    assert any("with the same reward models in all of them" in said for said in varied)
    everything = findings(made | {"contract": {"per_seed": ["sft", "split", "reward_model"]}}).limits
    assert not any("in all of them" in said for said in everything)


def test_a_scorer_contradicts_only_where_that_is_shown_for_all_that_were_asked():
    """Of 80 prompts 29 won: p = 0.013, which is little among two further comparisons of three."""
    rows = scores("a", GOLD, STRONG) + scores("a", "win_rate.judge", [1.0] * 29 + [0.0] * 51)
    assert [said for said in findings(make(rows)).watch if "contradict" in said]
    rows += [r for i in range(3) for r in scores(f"m{i}", GOLD, EVEN) + scores(f"m{i}", "win_rate.judge", EVEN)]
    assert not [said for said in findings(make(rows)).watch if "contradict" in said]
    same_side = scores("a", GOLD, STRONG) + scores("a", "win_rate.judge", STRONG)
    assert not [said for said in findings(make(same_side)).watch if "contradict" in said]


def test_unequal_seeds_are_said():
    rows = with_rewards("a", STRONG, 2) + with_rewards("b", STRONG, 3)
    assert (
        "The rows have unequally many seeds (a 2, b 3); two of them are compared on the seeds that both have."
        in findings(make(rows)).confounds
    )
    assert not any("unequally" in said for said in findings(make(with_rewards("a", STRONG, 2))).confounds)


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
    rows = [row for name, values in rates.items() for row in with_rewards(name, values)]
    costs = {name: [{"seconds": 10.0 * (place + 1)}] for place, name in enumerate(rates)}
    made = make(rows, costs) | {
        "overoptimization": {
            "a": {"text": "a is over-optimized: it falls"}, "b": {"text": "b: no turn"}, "c": {"text": "c: no turn"},
        }
    }  # fmt: skip
    found = findings(made)
    beat, worse, first, second = found.certainty[:4]
    # Wilson at 80 prompts with t[79] = 1.990: g = 0.0495, centre 0.786, half-width 0.088; at one half 0.109
    assert beat == "Shown to beat SFT by the true reward: a 80% (70 to 87), b 80% (70 to 87)."
    assert worse == "Shown to be worse than SFT by the true reward: f 20% (13 to 30)."
    # a and b give the same responses on all 80 prompts: nothing but ties, an interval within 5 points
    assert first == "a is better than c, d, e and f." and second == "b is better than c, d, e and f."
    assert found.certainty[4:] == ["a is equal to b, within the margin.", "b is equal to a, within the margin."]
    assert found.cost == [
        "a: 10 s.",
        "b: 20 s.",
        "f: 1 min 00 s.",
        "On the same data f costs about 6 times as much as a: 6.0 times the time.",
    ]
    assert found.watch == ["a is over-optimized: it falls.", "Not shown to be over-optimized: b and c."]
    (level,), rest = found.not_shown, found.limits[0]
    # c, d and e tie everywhere as well, so no pair is open
    assert level.startswith("Not decided against SFT by the true reward: c 50% (39 to 61), d 50% (39 to 61), ")
    assert "the smallest difference that a run of this size shows with 80% power is" in level
    assert rest.startswith("How another training")


def test_few_seeds_are_named_by_how_few():
    rows = {"sft": {"seeds": 1}, "a": {"seeds": 1}, "b": {"seeds": 2}, "c": {"seeds": 3}, "d": {"seeds": 0}}
    one, two = few_seeds(rows)
    assert one.startswith("a: one seed; the intervals are over prompts") and two.startswith("b: fewer than 3 seeds")


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
    shows = found.not_shown[0].partition("; ")[2]  # the one comparison's own
    assert shows.startswith("the smallest difference that a run of this size shows with 80% power is ")
    assert found.certainty == [f"No difference is shown by the true reward; {shows}"]
    assert found.not_shown[0].startswith("Not decided between this a policy and SFT")
