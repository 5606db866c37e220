"""summary.json, its sentences and its table, on runs small enough to work out by hand."""

import json

import pandas
import pytest

from alignment_bench.analysis.statistics import interval
from alignment_bench.analysis.summary import summarize, table
from alignment_bench.analysis.verdict import NO_DIFFERENCE, _choice, verdict


def scores(method, metric, *seeds):
    """One list of values a seed."""
    return [
        {"method": method, "seed": seed, "metric": metric, "prompt_id": f"p{i}", "value": value}
        for seed, values in enumerate(seeds)
        for i, value in enumerate(values)
    ]


def make(rows, costs=None, gates=(), warnings=()):
    return summarize(
        run_id="r1",
        run_dir="runs/quick/r1",
        benchmark="quick",
        contract={"seed": 1},
        scores=pandas.DataFrame(rows),
        costs=costs or {},
        gates=list(gates),
        warnings=list(warnings),
    )


STRONG = [1.0] * 32 + [0.0] * 8  # 80% of 40
EVEN = [1.0, 0.0] * 20
HALF = [0.5] * 40
GOLD = "win_rate.gold"


@pytest.fixture
def run():
    rows = (
        scores("dpo", GOLD, STRONG, STRONG, STRONG)
        + scores("dpo", "kl", *[[2.0, 4.0] * 20] * 3)
        + scores("orpo", GOLD, EVEN, EVEN, EVEN)
        + scores("sft", GOLD, HALF)
        + scores("sft", "eos_rate", [1.0] * 40)
    )
    costs = {"dpo": [{"seconds": 10.0}, {"seconds": 20.0}, {"seconds": 33.0}], "orpo": [{"seconds": 5.0, "flops": 2e9}]}
    return make(rows, costs)


def test_keys_and_order(run):
    assert list(run) == [
        "run_id", "run_dir", "benchmark", "contract", "methods", "comparisons", "head_to_head", "ratings",
        "length_controlled", "overoptimization", "frontier", "gates", "warnings",
    ]  # fmt: skip
    assert list(run["methods"]) == ["sft", "dpo", "orpo"]
    assert list(run["methods"]["dpo"]["metrics"]) == ["kl", GOLD]
    assert set(run["methods"]["dpo"]["metrics"]["kl"]) == {"mean", "low", "high", "n"}
    assert [(c["a"], c["b"]) for c in run["comparisons"]] == [("dpo", "sft"), ("orpo", "sft"), ("dpo", "orpo")]
    assert run["warnings"] == []
    assert json.loads(json.dumps(run, allow_nan=False)) == run


def test_means_and_costs(run):
    dpo = run["methods"]["dpo"]
    assert (dpo["seeds"], dpo["metrics"][GOLD]["mean"], dpo["metrics"][GOLD]["n"]) == (3, 0.8, 120)
    assert dpo["metrics"]["kl"]["mean"] == 3.0
    assert dpo["cost"] == {"seconds": 21.0}
    assert run["methods"]["orpo"]["cost"] == {"seconds": 5.0, "flops": 2e9}
    assert run["methods"]["sft"]["cost"] == {}


def test_sft_is_one_half_by_definition_and_its_eos_rate_is_not_certain(run):
    sft = run["methods"]["sft"]["metrics"]
    assert sft[GOLD] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 40}
    assert sft["eos_rate"]["high"] == 1 and 0.85 < sft["eos_rate"]["low"] < 1


def test_comparisons(run):
    dpo, orpo, pair = run["comparisons"]
    assert dpo["difference"] == pytest.approx(0.3)
    assert dpo["verdict"] == "dpo is better" and pair["verdict"] == "dpo is better"
    assert (orpo["difference"], orpo["p"], orpo["verdict"]) == (0, 1, NO_DIFFERENCE)
    assert pair["difference"] == pytest.approx(0.3)
    cell = run["methods"]["dpo"]["metrics"][GOLD]
    assert (dpo["low"], dpo["high"]) == pytest.approx((cell["low"] - 0.5, cell["high"] - 0.5))
    # Holm over the three of this metric: the smallest p three times, the next twice.
    small, middle, _ = sorted(run["comparisons"], key=lambda c: c["p"])
    assert small["p_adjusted"] == pytest.approx(3 * small["p"])
    assert middle["p_adjusted"] == pytest.approx(2 * middle["p"])


def test_correction_can_undo_a_difference_and_does_not_cross_metrics():
    # 27 wins of 40, Wilson at n = 39: t = (0.675 - 0.5) / 0.5 * sqrt(39) = 2.186, two-sided p = 0.0349; three times
    # that is no longer small.
    rows = scores("dpo", GOLD, [1.0] * 27 + [0.0] * 13) + scores("ppo", GOLD, EVEN)
    dpo, _, _ = make(rows)["comparisons"]
    assert dpo["p"] == pytest.approx(0.0349, abs=2e-4)
    assert dpo["low"] > 0 and dpo["verdict"] == NO_DIFFERENCE
    alone = make(scores("dpo", GOLD, [1.0] * 27 + [0.0] * 13) + scores("ppo", "win_rate.judge", EVEN))
    gold, judge = alone["comparisons"]
    assert gold["p_adjusted"] == gold["p"] and gold["verdict"] == "dpo is better"
    assert judge["metric"] == "win_rate.judge"


def test_pairs_use_only_common_seeds_and_prompts():
    rows = scores("a", GOLD, STRONG, [0.0] * 40) + scores("b", GOLD, EVEN)
    pair = make(rows)["comparisons"][-1]
    assert pair["difference"] == pytest.approx(0.3)
    apart = [row | {"prompt_id": "other " + row["prompt_id"]} for row in scores("b", GOLD, EVEN)]
    found = make(scores("a", GOLD, STRONG) + apart)
    pair = found["comparisons"][-1]
    assert (pair["difference"], pair["p"], pair["p_adjusted"], pair["verdict"]) == (None, None, None, NO_DIFFERENCE)
    assert "a and b have no seed and prompt in common to be compared on." in verdict(found)


def test_missing_values_lower_coverage_and_nothing_else():
    found = make(scores("dpo", "win_rate.judge", STRONG[:35] + [None] * 5))
    cell = found["methods"]["dpo"]["metrics"]["win_rate.judge"]
    assert (cell["n"], cell["coverage"]) == (35, 0.875)
    assert cell["mean"] == pytest.approx(32 / 35)
    assert any("dpo: “Win rate against SFT (judge)” has a value for only 88%" in w for w in found["warnings"])
    blank = make(scores("dpo", "win_rate.judge", [None] * 40))
    cell = blank["methods"]["dpo"]["metrics"]["win_rate.judge"]
    assert cell == {"mean": None, "low": None, "high": None, "n": 0, "coverage": 0.0}
    assert verdict(blank)[1] == "No significant difference between dpo and SFT: no values, 1 seed."


def test_warnings():
    gate = {"name": "reward_model", "value": 0.6, "low": 0.5, "high": 0.7, "threshold": 0.7, "passed": False}
    gate["text"] = "held-out accuracy 0.60, below 0.70"
    rows = scores("ppo", GOLD, EVEN[:20]) + scores("dpo", GOLD, EVEN[:24], EVEN[:24])
    found = make(rows, gates=[gate, gate | {"name": "fine", "passed": True}], warnings=["given"])
    given, one, two, few, failed = found["warnings"]
    assert given == "given"
    assert one.startswith("ppo:") and "intervals with one seed leave out the variation between training runs" in one
    assert two.startswith("dpo:") and "two training runs" in two
    assert few == (
        "Only 20 prompts have a value of “Win rate against SFT (true reward)”; with fewer than 30 a few unusual "
        "prompts decide, so take the intervals as rough"
    )
    assert failed == "Gate reward_model not passed: held-out accuracy 0.60, below 0.70."
    assert verdict(found)[-1] == failed


def test_one_prompt_has_no_interval():
    found = make(scores("dpo", GOLD, [1.0], [1.0], [1.0]))
    assert found["methods"]["dpo"]["metrics"][GOLD] == {"mean": 1.0, "low": None, "high": None, "n": 3}
    said = "Only one prompt has a value of “Win rate against SFT (true reward)”: too few for an interval"
    assert said in found["warnings"]
    assert "too few prompts for an interval" in verdict(found)[1]


def test_verdict(run):
    # 80% with three equal seeds: the seed part is 0, the prompt part 0.16 / 39, so Wilson at n = 39 and
    # t[39] = 2.022691: g = t^2 / n = 0.104905, centre (0.8 + g / 2) / (1 + g) = 0.77152, half-width
    # sqrt(0.16 g + g^2 / 4) / (1 + g) = 0.12650: 0.645 to 0.898.
    # Elo: 400 log10(0.8 / 0.2) = 240.82; sqrt(0.16 / 39) / 0.16 * 173.718 t = 140.66; at one half 112.53.
    choice, dpo, orpo, pair, elo, cost = verdict(run)
    assert elo == "Elo points over SFT by the true reward: dpo +241 (+100 to +381), orpo +0 (-113 to +113)."
    assert choice == "Use dpo: it alone is shown to beat SFT by the true reward."
    assert dpo.startswith("dpo beats SFT: it wins 80% by the true reward (95% interval 65 to 90), 3 seeds, adjusted p")
    assert orpo.startswith("No significant difference between orpo and SFT: it wins 50% by the true reward")
    assert pair.startswith("dpo is better than orpo: dpo's win rate is 30 points higher (95% interval ")
    assert cost == "Training time for one seed: dpo 21 s, orpo 5.0 s."


def test_verdict_leads_with_gold_and_names_the_worse_one():
    judge = "win_rate.judge"
    rows = scores("a", judge, EVEN) + scores("a", GOLD, [1 - v for v in STRONG]) + scores("b", GOLD, STRONG)
    found = verdict(make(rows))
    assert found[0] == "Use b: it alone is shown to beat SFT by the true reward."
    assert found[1].startswith("a is worse than SFT: it wins 20% by the true reward")
    assert found[3].startswith("b is better than a: b's win rate is 60 points higher (95% interval ")
    assert found[4] == "By the judge: no significant difference between a and SFT."
    assert verdict(make(scores("a", "kl", EVEN))) == ["No method was compared with SFT."]


def test_table(run):
    found = table(run)
    assert list(found.index) == ["sft", "dpo", "orpo"]
    assert list(found.columns) == ["eos_rate", "kl", GOLD, "seconds", "flops"]
    assert found.loc["dpo", GOLD] == "0.80 [0.65, 0.90]"
    assert found.loc["dpo", "eos_rate"] == "–" and found.loc["sft", "seconds"] == "–"
    assert found.loc["orpo", "flops"] == "2,000,000,000"


def test_seeds_are_told_apart():
    rows = scores("dpo", "kl", [1.0, 2.0, 3.0], [3.0, 4.0, 8.0])
    expected = interval([[1, 2, 3], [3, 4, 8]])
    cell = make(rows)["methods"]["dpo"]["metrics"]["kl"]
    assert (cell["low"], cell["high"]) == pytest.approx((expected.low, expected.high))


def rows_of(*verdicts):
    """Comparisons of a, b, c with SFT and each other: (a, b, who is better or None)."""
    return [
        {
            "a": a, "b": b, "metric": GOLD, "difference": 0.1 if better == a else -0.1,
            "verdict": f"{better} is better" if better else NO_DIFFERENCE,
        }
        for a, b, better in verdicts
    ]  # fmt: skip


def test_the_opening_sentence_names_a_method_only_if_one_stands_out():
    """Nobody beats SFT; two beat it and tie; one beats it and the other; one beats the third but ties the second."""
    none = rows_of(("a", "sft", None), ("b", "sft", "sft"), ("a", "b", "a"))
    assert _choice(none).startswith("No method is shown to beat SFT by the true reward")
    tie = rows_of(("a", "sft", "a"), ("b", "sft", "b"), ("a", "b", None))
    assert _choice(tie).startswith("a and b beat SFT by the true reward, and none of them is shown to be the best")
    one = rows_of(("a", "sft", "a"), ("b", "sft", "b"), ("a", "b", "b"))
    assert _choice(one) == "Use b: it is shown to beat SFT and to be better than a by the true reward."
    three = rows_of(
        ("a", "sft", "a"), ("b", "sft", "b"), ("c", "sft", "c"), ("a", "b", None), ("a", "c", "a"), ("b", "c", None)
    )
    assert _choice(three).startswith("a and b beat SFT")
