"""A tuning in words and figures: sensitivity, picks, warnings, and the sentences of a run at tuned settings."""

import pytest

from alignment_bench.analysis.findings import findings
from alignment_bench.analysis.tuning import not_tuned_alike, of_method, rule_in_words, tuned_with, untuned
from alignment_bench.analysis.verdict import verdict

RULE = {"by": "selection_reward_model", "at_most_kl": 1.0, "margin": 0.0}


def trial(number, proxy, gold, kl, lr, failed=None):
    scores = {} if failed else {"selection_reward_model": proxy, "gold": gold}
    return {"number": number, "scores": scores, "kl": kl, "settings": {"lr": lr}, "failed": failed}


TRIALS = [trial(0, 0.6, 0.6, 0.2, 1.0), trial(1, 0.9, 0.3, 4.0, 4.0), trial(2, 0.7, 0.65, 0.9, 2.0),
          trial(3, 0.45, 0.5, 0.1, 0.5)]  # fmt: skip


def test_what_a_methods_trials_show_by_hand():
    """By the proxy alone trial 1, which over-optimizes; within 1 nat trial 2. The rule prefers 3 < 0 < 2 within the
    limit, and 1 least of all: after k draws of these four, gold is that of the preferred one."""
    found = of_method(TRIALS, RULE, ["selection_reward_model", "gold"])
    assert found["picked"] == 2
    assert found["picks"] == {
        "selection_reward_model": {"alone": 1, "within": 2}, "gold": {"alone": 2, "within": 2}
    }  # fmt: skip
    assert found["sensitivity"]["gold"] == {"best": 0.65, "median": 0.55, "worst": 0.3, "beat_sft": 0.5}
    assert found["sensitivity"]["selection_reward_model"]["beat_sft"] == 0.75
    one, two = found["expected"]["gold"][:2]
    assert one == pytest.approx((0.3 + 0.5 + 0.6 + 0.65) / 4)
    assert two == pytest.approx((1 * 0.3 + 3 * 0.5 + 5 * 0.6 + 7 * 0.65) / 16)
    assert found["warnings"] == []


def test_a_pick_with_the_highest_kl_or_at_the_end_of_what_was_tried_is_warned_of():
    alone = of_method(TRIALS, {**RULE, "at_most_kl": None}, ["gold"])
    assert alone["picked"] == 1 and alone["picks"]["gold"]["within"] is None
    assert alone["warnings"] == [
        "The pick has the highest KL of all trials (4.00 nats), where a scorer that can be over-optimized errs most.",
        "The pick has the highest lr that was tried (4); a wider range may hold better.",
    ]
    low = of_method(TRIALS, {**RULE, "at_most_kl": 0.15}, ["gold"])
    assert low["warnings"] == ["The pick has the lowest lr that was tried (0.5); a wider range may hold better."]


def test_trials_that_failed_or_are_all_beyond_the_limit_are_told():
    failed = [trial(n, 0, 0, None, n, failed="no number") for n in range(2)]
    found = of_method(failed, RULE, ["gold"])
    assert found["picked"] is None and found["sensitivity"] == {} and found["expected"] == {}
    assert found["warnings"] == [
        "2 of 2 trials failed.",
        "No trial has a score by the selection reward model, so the benchmark's own settings are kept.",
    ]
    beyond = of_method([TRIALS[1], trial(2, 0.95, 0.2, 9.0, 8.0), failed[0]], RULE, ["gold"])
    assert beyond["warnings"][:2] == [
        "1 of 3 trials failed.",
        "Every trial is beyond 1 nats of KL; the pick is the one that comes nearest (4.00).",
    ]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (RULE, "the selection reward model with KL at most 1 nat"),
        ({"by": "judge", "at_most_kl": 2.5, "margin": 0.02},
         "the judge with KL at most 2.5 nats (within 0.02 of the best the lowest KL)"),
        ({"by": "judge", "at_most_kl": None, "margin": 0.0}, "the judge alone"),
        ({"by": "gold", "at_most_kl": None, "margin": 0.0}, "the true reward"),
    ],
)  # fmt: skip
def test_the_rule_in_words(rule, words):
    assert rule_in_words(rule) == words


def summary(trials, *rows):
    tuned = {"trials": trials, "optimizer": "halton", "rule": RULE}
    methods = {name: {"seeds": 3, "metrics": {}, "cost": {}} for name in ("sft", *rows)}
    return {
        "methods": methods, "contract": {"tuned": tuned} if trials else {}, "comparisons": [], "gates": [],
        "warnings": [], "benchmark": "b",
    }  # fmt: skip


def test_a_tuned_run_says_so_and_marks_rows_that_were_not_tuned_alike():
    how = "(halton), picked by the selection reward model with KL at most 1 nat."
    alike = summary({"dpo": 12, "ppo": 12}, "dpo", "ppo")
    assert tuned_with(alike) == [f"Tuned with 12 trials each {how}"] and not_tuned_alike(alike) == []
    mixed = summary({"dpo": 12, "ppo": 3, "kto": 9}, "dpo", "ppo", "dpo:beta=0.5")
    assert tuned_with(mixed) == [f"Tuned: ppo with 3 trials; dpo with 12 trials {how}"]
    assert untuned(mixed) == ["dpo:beta=0.5"]
    said = "dpo:beta=0.5 was not tuned like the others: part of a difference may be its settings'."
    assert not_tuned_alike(mixed) == [said]
    found = findings(mixed)
    assert tuned_with(mixed)[0] in found.certainty and said in found.confounds
    assert [tuned_with(mixed)[0], said] == verdict(mixed)[-2:]


def test_a_run_without_tuning_says_nothing_of_it():
    plain = summary({}, "dpo")
    assert tuned_with(plain) == not_tuned_alike(plain) == untuned(plain) == []
    assert untuned({**plain, "contract": None}) == []
