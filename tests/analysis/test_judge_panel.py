"""A run's judge as its summary takes it: members that leave a panel, rows without a number, decisions on one member."""

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.comparisons import NOT_DECIDED
from alignment_bench.analysis.grids import versus
from alignment_bench.analysis.judge_audit import panel_sentences
from alignment_bench.analysis.judge_panel import of_member, settle, weighted_mean
from alignment_bench.analysis.summary import summarize

EVEN = {"x": 1.0, "y": 1.0}


def rows(method, metric, values, seed=0):
    """The values of a metric by prompt, p0 the first."""
    return pandas.DataFrame(
        {"method": method, "seed": seed, "metric": metric, "prompt_id": [f"p{i}" for i in range(len(values))],
         "value": np.array(values, dtype=float)}
    )  # fmt: skip


def judged(method, values, member="", answered=None, same=None):
    """A judge's wins of a method; answered: 1 for a prompt with a value; same: 1 where swapping changes nothing."""
    tail = f".{member}" if member else ""
    known = [float(not np.isnan(v)) for v in values] if answered is None else answered
    found = [rows(method, f"win_rate.judge{tail}", values), rows(method, f"judge.answered{tail}", known)]
    if same is not None:
        found.append(rows(method, f"judge.position_consistency{tail}", same))
    return found


def panel(method, members, weights):
    """The members' wins of a method and the whole panel's."""
    found = [part for name, (values, same) in members.items() for part in judged(method, values, name, same=same)]
    table = np.array([values for values, _ in members.values()], dtype=float)
    weight = np.array([weights[name] for name in members])
    return [*found, *judged(method, (table * weight[:, None]).sum(0) / weight.sum())]


def values_of(scores, method, metric):
    part = scores[(scores["method"] == method) & (scores["metric"] == metric)]
    return part.sort_values("prompt_id", key=lambda names: names.str[1:].astype(int))["value"].tolist()


def together(*parts):
    return pandas.concat([frame for part in parts for frame in part], ignore_index=True)


def test_names():
    assert versus("win_rate.judge", "dpo:beta=0.5") == "versus.judge:dpo:beta=0.5"
    assert versus("judge.answered", "dpo") == "versus.judge.answered:dpo"
    assert of_member(versus("win_rate.judge", "dpo"), "m") == versus("win_rate.judge.m", "dpo") == "versus.judge.m:dpo"


def test_the_weighted_mean_has_no_value_unless_all_have_one():
    assert weighted_mean({"x": 1.0, "y": 0.0}, {"x": 3.0, "y": 1.0}) == 0.75
    assert weighted_mean({"x": 1.0, "y": None}, EVEN) is None


def test_a_member_that_flips_on_every_swap_leaves_the_mean():
    """x prefers the method on all 20 prompts, y goes by the place: the panel says 75%, and x alone 100%."""
    members = {"x": ([1.0] * 20, [1.0] * 20), "y": ([0.5] * 20, [0.0] * 20)}
    direct = [
        rows("dpo", f"versus.judge{part}:ppo", values)
        for part, values in (("", [0.25] * 20), (".x", [0.0] * 20), (".y", [0.5] * 20))
    ]
    scores = together(panel("dpo", members, EVEN), panel("ppo", members, EVEN), direct)
    found = settle(scores, EVEN)
    assert values_of(found.scores, "dpo", "win_rate.judge") == [1.0] * 20
    assert values_of(found.scores, "dpo", "versus.judge:ppo") == [0.0] * 20
    assert values_of(found.scores, "dpo", "win_rate.judge.y") == [0.5] * 20  # it is left out of the mean, not hidden
    assert found.panel["members"]["y"] == {"weight": 1.0, "flip": 1.0, "answered": 1.0, "left": "flips"}
    assert found.panel["members"]["x"]["left"] is None and found.panel["without"] == [] and found.warnings == []
    [said] = panel_sentences({"judges": {"panel": found.panel}})
    assert said == (
        "The judge y is left out of the panel: it changes its verdict on 100% of the pairs when the two responses are "
        "swapped, so it judges the place and not the response."
    )


@pytest.mark.parametrize(("flips", "count", "leaves"), [(18, 20, True), (17, 20, False), (9, 9, False), (10, 10, True)])
def test_leaving_takes_nine_swaps_of_ten_and_ten_of_them(flips, count, leaves):
    same = [0.0] * flips + [1.0] * (count - flips)
    members = {"x": ([1.0] * count, [1.0] * count), "y": ([0.5] * count, same)}
    assert (settle(together(panel("dpo", members, EVEN)), EVEN).panel["members"]["y"]["left"] == "flips") == leaves


def test_a_member_that_hardly_answers_leaves_and_the_others_have_a_number():
    gaps = [1.0] * 10 + [np.nan] * 10
    members = {"x": ([1.0] * 20, [1.0] * 20), "y": (gaps, [1.0] * 20)}
    found = settle(together(panel("dpo", members, EVEN)), EVEN)
    assert found.panel["members"]["y"]["left"] == "unanswered" and found.panel["members"]["y"]["answered"] == 0.5
    assert values_of(found.scores, "dpo", "win_rate.judge") == [1.0] * 20
    assert values_of(found.scores, "dpo", "win_rate.judge.y") == []
    assert found.warnings == [
        "no number is given where less than 90% of the pairs that a judge was asked about have a verdict: "
        "judge.y 50% of 20 on dpo"
    ]
    assert "gave a verdict on only 50% of the pairs" in panel_sentences({"judges": {"panel": found.panel}})[0]


def test_a_panel_of_which_nobody_is_left_has_no_number():
    members = {name: ([0.5] * 20, [0.0] * 20) for name in EVEN}
    found = settle(together(panel("dpo", members, EVEN)), EVEN)
    assert (
        values_of(found.scores, "dpo", "win_rate.judge") == []
        and len(panel_sentences({"judges": {"panel": found.panel}})) == 2
    )


def test_weights_stay_when_a_member_leaves():
    """Weights 3, 1 and 4, the last one leaves: (3 * 1 + 1 * 0) / 4; a prompt that x leaves open has no value."""
    weights = {"x": 3.0, "y": 1.0, "z": 4.0}
    one_open = [1.0] * 19 + [np.nan]
    members = {"x": (one_open, [1.0] * 19), "y": ([0.0] * 20, [1.0] * 20), "z": ([0.5] * 20, [0.0] * 20)}
    found = settle(together(panel("dpo", members, weights)), weights)
    values = values_of(found.scores, "dpo", "win_rate.judge")
    assert values[:19] == [0.75] * 19 and np.isnan(values[19])
    assert values_of(found.scores, "dpo", "judge.answered") == [1.0] * 19 + [0.0]


def test_decisions_that_hang_on_one_member_are_named():
    """x and y prefer dpo, z prefers SFT as clearly: two of three decide, and without x or y nothing is decided."""
    weights = {"x": 1.0, "y": 1.0, "z": 1.0}
    wins, losses = [1.0] * 38 + [0.0] * 2, [0.0] * 38 + [1.0] * 2
    members = {"x": (wins, [1.0] * 40), "y": (wins, [1.0] * 40), "z": (losses, [1.0] * 40)}
    found = settle(together(panel("dpo", members, weights)), weights).panel["without"]
    assert [(row["member"], row["with"], row["without"]) for row in found] == [
        ("x", "dpo is better", NOT_DECIDED), ("y", "dpo is better", NOT_DECIDED)
    ]  # fmt: skip
    undecided = {"member": "x", "a": "dpo", "b": "ppo", "with": NOT_DECIDED, "without": "dpo is better"}
    said = panel_sentences({"judges": {"panel": {"members": {}, "without": [found[0], undecided]}}})
    assert said == [
        "The panel's decision on dpo against SFT hangs on x: dpo is better with it, not decided without it."
    ]


@pytest.mark.parametrize(("valid", "kept"), [(89, False), (90, True)])
def test_below_nine_of_ten_valid_answers_there_is_no_number_and_no_sentence(valid, kept):
    """Of what was asked: a further 100 prompts with identical responses count one half, and do not help."""
    wins = [1.0] * valid + [np.nan] * (100 - valid) + [0.5] * 100
    answered = [1.0] * valid + [0.0] * (100 - valid)
    sft = [rows("sft", "win_rate.judge", [0.5] * 200)]
    found = settle(together(sft, judged("dpo", wins, answered=answered)), {"m": 1.0})
    summary = summarize(
        run_id="r", run_dir="", benchmark="b", contract={}, scores=found.scores, costs={"dpo": [], "sft": []}, gates=[],
        warnings=found.warnings,
    )  # fmt: skip
    assert ("win_rate.judge" in summary["methods"]["dpo"]["metrics"]) == kept
    assert ("win_rate.judge" in summary["methods"]["sft"]["metrics"]) == kept  # it alone is no column
    assert bool(summary["comparisons"]) == kept
    told = [line for line in summary["warnings"] if "no number is given" in line]
    assert len(told) == (not kept) and (kept or "judge 89% of 100 on dpo" in told[0])


def test_a_judge_that_answered_nothing_is_no_row_of_one_half():
    """0 of 1,014 verdicts, and 200 identical responses; the other method and the direct comparison keep theirs."""
    nothing = judged("dpo", [np.nan] * 1014 + [0.5] * 200, answered=[0.0] * 1014)
    direct = [
        rows("ppo", "versus.judge:dpo", [1.0] * 5), rows("ppo", "versus.judge.answered:dpo", [1.0] * 5),
        rows("ppo", "versus.judge:orpo", [0.5] * 5), rows("ppo", "versus.judge.answered:orpo", [0.0] * 4),
    ]  # fmt: skip
    scores = together(nothing, judged("ppo", [1.0] * 40), judged("orpo", [1.0] * 40), direct)
    found = settle(scores, {"m": 1.0})
    assert values_of(found.scores, "dpo", "win_rate.judge") == []
    assert values_of(found.scores, "ppo", "win_rate.judge") == [1.0] * 40
    assert values_of(found.scores, "ppo", "versus.judge:dpo") == [1.0] * 5
    assert values_of(found.scores, "ppo", "versus.judge:orpo") == []
    [missing, told] = found.warnings
    assert missing == (
        "the judge did not compare dpo and orpo directly; name them together in one bench run to have it do so"
    )
    assert told.endswith("judge 0% of 1,014 on dpo; judge 0% of 4 on ppo against orpo")
    assert settle(scores, {"m": 1.0}, direct=False).warnings == [told]


def test_direct_comparisons_are_no_columns():
    scores = together(
        judged("dpo", [1.0] * 40), judged("ppo", [1.0] * 40), [rows("dpo", "versus.judge:ppo", [1.0] * 5)]
    )
    summary = summarize(
        run_id="r", run_dir="", benchmark="b", contract={}, scores=scores, costs={"dpo": [], "ppo": []}, gates=[],
        warnings=[],
    )  # fmt: skip
    assert set(summary["methods"]["dpo"]["metrics"]) == {"win_rate.judge", "judge.answered"}
    assert not any("versus" in line for line in summary["warnings"])
