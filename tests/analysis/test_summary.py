"""summary.json, its sentences and its table, on runs small enough to work out by hand."""

import json

import pandas
import pytest

from alignment_bench.analysis.comparisons import NOT_COMPARED, NOT_DECIDED
from alignment_bench.analysis.statistics import interval
from alignment_bench.analysis.summary import summarize, table
from alignment_bench.analysis.verdict import verdict


def scores(method, metric, *seeds):
    """One list of values a seed."""
    return [
        {"method": method, "seed": seed, "metric": metric, "prompt_id": f"p{i}", "value": value}
        for seed, values in enumerate(seeds)
        for i, value in enumerate(values)
    ]


def rewarded(method, *seeds):
    """Wins against SFT, and the rewards behind them: 1 or -1 beside SFT's 0."""
    return scores(method, GOLD, *seeds) + scores(method, "reward.gold", *[[2 * w - 1 for w in wins] for wins in seeds])


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
        rewarded("dpo", STRONG, STRONG, STRONG)
        + scores("dpo", "kl", *[[2.0, 4.0] * 20] * 3)
        + rewarded("orpo", EVEN, EVEN, EVEN)
        + scores("sft", GOLD, HALF)
        + scores("sft", "eos_rate", [1.0] * 40)
    )
    costs = {"dpo": [{"seconds": 10.0}, {"seconds": 20.0}, {"seconds": 33.0}], "orpo": [{"seconds": 5.0, "flops": 2e9}]}
    return make(rows, costs)


def test_keys_and_order(run):
    assert list(run) == [
        "run_id", "run_dir", "benchmark", "contract", "methods", "margin", "comparisons", "ratings",
        "equal_length", "prediction_powered", "overoptimization", "frontier", "gates", "warnings",
    ]  # fmt: skip
    assert list(run["methods"]) == ["sft", "dpo", "orpo"]
    assert list(run["methods"]["dpo"]["metrics"]) == ["kl", "reward.gold", GOLD]
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
    assert (orpo["difference"], orpo["p"], orpo["verdict"]) == (0, 1, NOT_DECIDED)
    # dpo wins where STRONG has 1 and EVEN 0: 16 of 40, and loses on 4; the rest ties: (16 + 10) / 40 - 1/2
    assert (pair["basis"], pair["seeds"], pair["difference"]) == ("direct", 3, pytest.approx(0.15))
    cell = run["methods"]["dpo"]["metrics"][GOLD]
    assert (dpo["low"], dpo["high"]) == pytest.approx((cell["low"] - 0.5, cell["high"] - 0.5))
    # Holm over the three of the headline: the smallest p three times, the next twice.
    small, middle, _ = sorted(run["comparisons"], key=lambda c: c["p"])
    assert small["p_adjusted"] == pytest.approx(3 * small["p"])
    assert middle["p_adjusted"] == pytest.approx(2 * middle["p"])
    assert pair["bootstrap"]["low"] > 0 and pair["p_permutation"] < 0.05


def test_correction_can_undo_a_difference():
    # 27 wins of 40, Wilson at n = 39: t = (0.675 - 0.5) / 0.5 * sqrt(39) = 2.186, two-sided p = 0.0349; twice that,
    # beside another method, is no longer small.
    rows = scores("dpo", GOLD, [1.0] * 27 + [0.0] * 13) + scores("ppo", GOLD, EVEN)
    dpo, _, pair = make(rows)["comparisons"]
    assert dpo["p"] == pytest.approx(0.0349, abs=2e-4) and dpo["p_adjusted"] == pytest.approx(2 * dpo["p"])
    assert dpo["low"] > 0 and dpo["verdict"] == "dpo is not worse by more than 5 points"
    assert pair["verdict"] == NOT_COMPARED
    gold, judge = make(rows[:40] + scores("ppo", "win_rate.judge", EVEN))["comparisons"]
    assert gold["p_adjusted"] == gold["p"] and gold["verdict"] == "dpo is better"
    assert (judge["metric"], judge["verdict"], judge["p_adjusted"]) == ("win_rate.judge", "", None)


def test_rows_without_a_common_prompt():
    apart = [row | {"prompt_id": "other " + row["prompt_id"]} for row in scores("b", GOLD, EVEN)]
    found = make(scores("a", GOLD, STRONG) + apart)
    pair = found["comparisons"][-1]
    assert (pair["difference"], pair["p"], pair["p_adjusted"], pair["verdict"]) == (None, None, None, NOT_COMPARED)
    assert "a and b have no seed and prompt in common to be compared on." in verdict(found)


def test_what_a_judge_said_of_two_rows_is_a_comparison_and_no_column():
    rows = scores("a", "win_rate.judge", EVEN) + scores("b", "win_rate.judge", EVEN)
    found = make(rows + scores("a", "versus.judge:b", [1.0] * 40))
    assert list(found["methods"]["a"]["metrics"]) == ["win_rate.judge"]
    pair = found["comparisons"][-1]
    assert (pair["basis"], pair["verdict"]) == ("direct", "a is better")


def test_the_margin_and_the_method_of_a_row_are_kept():
    rows = scores("dpo:beta=1", GOLD, EVEN)
    found = summarize(
        run_id="r", run_dir="d", benchmark="b", contract={}, scores=pandas.DataFrame(rows), costs={}, gates=[],
        warnings=[], owners={"dpo:beta=1": "dpo"}, margin=0.2,
    )  # fmt: skip
    assert (found["margin"], found["methods"]["dpo:beta=1"]["method"]) == (0.2, "dpo")
    # of 40 even wins, 0.2 away from one half: 0.04 * 39 / (0.3 * 0.7) = 7.4, t = 2.7
    assert found["comparisons"][0]["verdict"] == "equal within 20 points"
    assert verdict(found)[1].startswith("This dpo:beta=1 policy is equal to SFT within 20 points: ")


def test_missing_values_lower_coverage_and_nothing_else():
    found = make(scores("dpo", "win_rate.judge", STRONG[:35] + [None] * 5))
    cell = found["methods"]["dpo"]["metrics"]["win_rate.judge"]
    assert (cell["n"], cell["coverage"]) == (35, 0.875)
    assert cell["mean"] == pytest.approx(32 / 35)
    assert any("dpo: “Win rate against SFT (judge)” has a value for only 88%" in w for w in found["warnings"])
    blank = make(scores("dpo", "win_rate.judge", [None] * 40))
    cell = blank["methods"]["dpo"]["metrics"]["win_rate.judge"]
    assert cell == {"mean": None, "low": None, "high": None, "n": 0, "coverage": 0.0}
    assert verdict(blank) == ["No method was compared with SFT."]


def test_warnings():
    gate = {"name": "reward_model", "value": 0.6, "low": 0.5, "high": 0.7, "threshold": 0.7, "passed": False}
    gate["text"] = "held-out accuracy 0.60, below 0.70"
    rows = scores("ppo", GOLD, EVEN[:20]) + scores("dpo", GOLD, EVEN[:24], EVEN[:24])
    found = make(rows, gates=[gate, gate | {"name": "fine", "passed": True}], warnings=["given"])
    given, one, two, few, failed = found["warnings"]
    assert given == "given"
    assert one.startswith("ppo: one seed; the intervals are over prompts alone")
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
    choice, dpo, orpo, pair, elo, cost = verdict(run)
    assert choice == "Use dpo: it is shown to beat SFT and to be better than orpo by the true reward."
    assert dpo.startswith("dpo beats SFT: it wins 80% by the true reward (95% interval 65 to 90), 3 seeds, adjusted p")
    assert orpo.startswith("Not decided between orpo and SFT: orpo wins 50% by the true reward")
    assert pair.startswith("dpo is better than orpo: it wins 65% head to head by the true reward (95% interval ")
    assert ", the 3 seeds of both, adjusted p = " in pair
    assert elo.startswith("Elo points over SFT by the true reward: dpo +")
    assert cost == "Training time for one seed: dpo 21 s, orpo 5.0 s."


def test_verdict_leads_with_gold_and_names_the_worse_one():
    judge = "win_rate.judge"
    lost = [1 - v for v in STRONG]
    rows = scores("a", judge, EVEN) + rewarded("a", lost, lost) + rewarded("b", STRONG, STRONG)
    found = verdict(make(rows))
    assert found[0] == "Use b: it is shown to beat SFT and to be better than a by the true reward."
    assert found[1].startswith("a is worse than SFT: it wins 20% by the true reward (95% interval 10 to 35)")
    # b's rewards are above a's on 32 of 40 and below on 8
    assert found[3].startswith("b is better than a: it wins 80% head to head by the true reward (95% interval 65 to")
    assert found[4] == "By the judge, for comparison and not tested: a 50% (35 to 65)."
    assert verdict(make(scores("a", "kl", EVEN))) == ["No method was compared with SFT."]


def test_table(run):
    found = table(run)
    assert list(found.index) == ["sft", "dpo", "orpo"]
    assert list(found.columns) == ["eos_rate", "kl", "reward.gold", GOLD, "seconds", "flops"]
    assert found.loc["dpo", GOLD] == "0.80 [0.65, 0.90]"
    assert found.loc["dpo", "eos_rate"] == "–" and found.loc["sft", "seconds"] == "–"
    assert found.loc["orpo", "flops"] == "2,000,000,000"


def test_seeds_are_told_apart():
    rows = scores("dpo", "kl", [1.0, 2.0, 3.0], [3.0, 4.0, 8.0])
    expected = interval([[1, 2, 3], [3, 4, 8]])
    cell = make(rows)["methods"]["dpo"]["metrics"]["kl"]
    assert (cell["low"], cell["high"]) == pytest.approx((expected.low, expected.high))
