"""The opening sentence: what may be recommended from what is shown, worked out case by case."""

import pytest

from alignment_bench.analysis.choice import choose
from alignment_bench.analysis.comparisons import NOT_DECIDED
from alignment_bench.analysis.verdict import recommendation

GOLD = "win_rate.gold"


def rows_of(*verdicts, seeds=3):
    """Comparisons of a, b, c with SFT and each other: (a, b, who is better, "equal", or None)."""
    return [
        {
            "a": a, "b": b, "metric": GOLD, "difference": 0.1 if better == a else -0.1, "seeds": seeds,
            "basis": "sft" if b == "sft" else "direct", "equal": better == "equal",
            "verdict": f"{better} is better" if better in (a, b) else NOT_DECIDED,
        }
        for a, b, better in verdicts
    ]  # fmt: skip


def said(rows, cost=None, runs=None):
    names = dict.fromkeys(row["a"] for row in rows)
    methods = {
        name: {"seeds": (runs or {}).get(name, 3), "cost": {"seconds": (cost or {}).get(name)}} for name in names
    }
    return recommendation({"comparisons": rows, "methods": methods, "margin": 0.05}, [GOLD])


def test_nobody_beats_sft():
    rows = rows_of(("a", "sft", None), ("b", "sft", "sft"), ("a", "b", "a"))
    assert said(rows).startswith("No method is shown to beat SFT by the true reward; more prompts and seeds")


def test_that_one_alone_beats_sft_says_nothing_about_the_other():
    """Significant beside not significant: of two equal methods this came out in a third of all runs."""
    rows = rows_of(("a", "sft", "a"), ("b", "sft", None), ("a", "b", None))
    assert choose(rows).use is None
    assert said(rows) == (
        "No single method is recommended: a is shown to beat SFT by the true reward; not decided: a against b."
    )


def test_one_that_beats_all_is_used():
    rows = rows_of(("a", "sft", "a"), ("b", "sft", "b"), ("a", "b", "b"))
    assert said(rows) == "Use b: it is shown to beat SFT and to be better than a by the true reward."
    assert said(rows_of(("a", "sft", "a"))) == "Use a: it is shown to beat SFT by the true reward."


def test_every_undecided_pair_of_a_first_row_is_named():
    rows = rows_of(
        ("a", "sft", "a"), ("b", "sft", "b"), ("c", "sft", "c"), ("a", "b", None), ("a", "c", "a"), ("b", "c", None)
    )
    assert said(rows) == (
        "No single method is recommended: a and b are shown to beat SFT by the true reward; a is better than c; "
        "not decided: a against b, b against c."
    )
    one = rows_of(
        ("a", "sft", "a"), ("b", "sft", None), ("c", "sft", "c"), ("a", "b", None), ("a", "c", "a"), ("b", "c", None)
    )
    assert said(one) == (
        "Use a over c: it is shown to beat SFT and to be better by the true reward; not decided: a against b."
    )


def test_cost_decides_only_between_rows_shown_to_be_equal():
    rows = rows_of(("a", "sft", "a"), ("b", "sft", "b"), ("a", "b", "equal"))
    assert said(rows, {"a": 90.0, "b": 30.0}) == (
        "a and b are shown to beat SFT by the true reward and are equal within 5 points, so choose between them by "
        "cost (a 1 min 30 s, b 30 s)."
    )
    third = rows_of(
        ("a", "sft", "a"), ("b", "sft", "b"), ("c", "sft", "c"), ("a", "b", "equal"), ("a", "c", None), ("b", "c", None)
    )
    text = said(third)
    assert "by cost" not in text and text.endswith(
        "equal within the margin: a and b; not decided: a against c, b against c."
    )


def test_a_winner_that_loses_to_one_not_shown_to_beat_sft_ends_in_a_sentence():
    """With unequal seeds a beats SFT and c beats a, while c is not shown to beat SFT; this was an IndexError."""
    rows = rows_of(("a", "sft", "a"), ("c", "sft", None), ("a", "c", "c"))
    assert choose(rows).first == []
    assert said(rows) == (
        "No method is recommended: a is shown to beat SFT by the true reward, and c to be better still, but not to "
        "beat SFT."
    )


def test_one_seed_speaks_of_policies_and_recommends_none():
    rows = rows_of(("a", "sft", "a"), ("b", "sft", None), ("a", "b", "a"), seeds=1)
    assert said(rows, {"a": 60.0, "b": 30.0}, {"a": 1, "b": 1}) == (
        "No method is recommended, for each was trained once: this a policy is shown to beat SFT by the true reward, "
        "and this a policy to be better than this b policy; each further seed of all would train for about "
        "1 min 30 s."
    )
    none = rows_of(("a", "sft", None), seeds=1)
    assert said(none, runs={"a": 1}) == (
        "No method is recommended, for each was trained once: no policy is shown to beat SFT by the true reward."
    )


def test_a_row_with_one_seed_is_left_out_beside_others():
    rows = rows_of(("a", "sft", "a"), ("b", "sft", "b"), ("a", "b", None))
    rows += rows_of(("c", "sft", "c"), ("a", "c", "c"), ("b", "c", "c"), seeds=1)
    text = said(rows, runs={"a": 3, "b": 3, "c": 1})
    assert text == (
        "No single method is recommended: a and b are shown to beat SFT by the true reward; not decided: a against b; "
        "c, with one seed, is left out."
    )


def test_two_methods_that_share_one_seed_are_not_compared_as_methods():
    rows = rows_of(("a", "sft", "a"), ("b", "sft", "b")) + rows_of(("a", "b", "a"), seeds=1)
    assert "Use a" not in said(rows)


def test_an_older_run_recommends_nothing_from_win_rates_against_sft():
    rows = [{k: row[k] for k in ("a", "b", "metric", "difference", "verdict")} for row in rows_of(
        ("a", "sft", "a"), ("b", "sft", None), ("a", "b", "a"))]  # fmt: skip
    assert said(rows).startswith("No single method is recommended: a is shown to beat SFT")


@pytest.mark.parametrize("name", ["a", "b"])
def test_open_leaves_out_what_is_known_in_either_direction(name):
    rows = rows_of(("a", "sft", "a"), ("b", "sft", "b"), ("c", "sft", "c"), ("a", "c", "c"), ("b", "c", "equal"),
                   ("a", "b", None))  # fmt: skip
    assert choose(rows).open(name) == [{"a": "b", "b": "a"}[name]]


def test_no_winner_is_named_where_a_learnt_scorer_leads_and_responses_went_far():
    rows = [{**row, "metric": "win_rate.reward_model"} for row in rows_of(("a", "sft", "a"))]
    made = {
        "comparisons": rows, "methods": {"a": {"seeds": 3, "cost": {}}}, "margin": 0.05,
        "far": {"a": {"far": 0.5, "very_far": 0.0, "responses": 300}},
    }  # fmt: skip
    said = recommendation(made, ["win_rate.reward_model"])
    assert said.startswith("No winner is named by the evaluation reward model")
    near = made | {"far": {"a": {"far": 0.1, "very_far": 0.0, "responses": 300}}}
    assert recommendation(near, ["win_rate.reward_model"]).startswith("Use a: it is shown to beat SFT")


def test_a_reward_model_that_fails_its_gate_is_told_in_the_opening_sentence():
    learnt, name = "win_rate.reward_model", "reward_model.evaluation"
    rows = [{**row, "metric": learnt} for row in rows_of(("a", "sft", "a"))]
    summary = {"comparisons": rows, "methods": {"a": {"seeds": 3, "cost": {}}}, "margin": 0.05}

    def opening(gates):
        return recommendation({**summary, "gates": gates}, [learnt])

    plain = "Use a: it is shown to beat SFT by the evaluation reward model."
    assert opening([{"name": name, "passed": True}, {"name": "reward_model.training", "passed": False}]) == plain
    assert opening([{"name": name, "passed": False}]) == f"{plain[:-1]}, whose gate is not passed."
    gold = {**summary, "comparisons": rows_of(("a", "sft", "a")), "gates": [{"name": name, "passed": False}]}
    assert recommendation(gold, [GOLD]) == "Use a: it is shown to beat SFT by the true reward."
