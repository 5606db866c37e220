"""The answer of a study: yes, no or not decided by the statements that were written before, each from its own row."""

import copy

import pytest

from alignment_bench.analysis.answer import answer, said_of, sentences, told
from alignment_bench.analysis.axes import sentences as along_axes

FLIP, BETA = "labels.flip", "dpo.beta"


def row_of(difference, p=0.01, half=0.05, metric="win_rate.gold", **more):
    ends = {"difference": difference, "low": difference - half, "high": difference + half}
    return {"metric": metric, "p": p, "p_adjusted": 1.0, "at": [], **ends, **more}


def said(method, verdict, **more):
    return {"method": method, "verdict": verdict, "by": "win_rate.gold", **more}


@pytest.fixture
def study():
    """ppo is 10 points above dpo at flip 0.25, and dpo loses 12 from flip 0 to 0.25 where ppo loses 2."""
    pairs = [
        row_of(-0.01, 0.9, a="dpo", b="ppo", value=0),
        row_of(-0.10, a="dpo", b="ppo", value=0.25),
        row_of(-0.30, a="dpo", b="ppo", value=0.25, metric="win_rate.judge"),
    ]
    changes = [row_of(-0.12, method="dpo"), row_of(-0.02, 0.6, 0.03, method="ppo")]
    points = [{"value": 0, "n": 900}, {"value": 0.25, "n": 870}]
    flip = {
        "values": [0, 0.25],
        "pairs": pairs,
        "changes": changes,
        "interactions": [row_of(-0.10, a="dpo", b="ppo")],
        "curves": [{"method": "dpo", "metric": "win_rate.gold", "points": points}],
    }
    return {
        "name": "noise", "seeds": 3, "per_seed": [], "margin": 0.05, "model": "m", "preferences": "d",
        "axes": {FLIP: flip}, "frontiers": [], "runs": [{"failures": {}}], "warnings": [], "beside_the_first": [],
        "design": {
            "question": "?", "tuning": "as it comes.", "papers": [],
            "yes_if": [said("ppo", "higher", than="dpo", at={FLIP: 0.25})],
            "no_if": [said("ppo", "lower", than="dpo", at={FLIP: 0.25})],
        },
    }  # fmt: skip


def asked(study, yes, no=None):
    """The study with other statements; by default what refutes cannot be shown."""
    study["design"] |= {"yes_if": yes, "no_if": no or [said("ppo", "lower", than="dpo", at={FLIP: 0})]}
    return answer(study)


def test_a_pair_is_read_from_either_side(study):
    found = answer(study)
    assert found["answer"] == "yes" and [row["shown"] for row in found["yes"] + found["no"]] == [True, False]
    assert found["yes"][0]["estimate"] == "+10 points, +5 to +15, adjusted p 0.010"
    mirrored = asked(study, [said("dpo", "higher", than="ppo", at={FLIP: 0.25})],
                     [said("dpo", "lower", than="ppo", at={FLIP: 0.25})])  # fmt: skip
    assert mirrored["answer"] == "no" and mirrored["no"][0]["estimate"].startswith("-10 points, -15 to -5")


def test_yes_needs_all_and_no_needs_one(study):
    falls, other = said("dpo", "lower", along=FLIP), said("ppo", "lower", along=FLIP)
    assert asked(study, [falls])["answer"] == "yes"
    assert asked(study, [falls, other])["answer"] == "not decided"
    assert asked(study, [other], [other, falls])["answer"] == "no"
    assert asked(study, [falls], [falls])["answer"] == "not decided"  # a design that contradicts itself says nothing


def test_an_interaction_is_not_a_change(study):
    found = asked(study, [said("ppo", "higher", than="dpo", along=FLIP)])
    assert found["answer"] == "yes" and found["yes"][0]["text"].startswith(
        "ppo gains on dpo from labels.flip 0 to 0.25"
    )
    assert asked(study, [said("dpo", "higher", than="ppo", along=FLIP)])["answer"] == "not decided"


def test_equal_is_an_interval_within_the_margin_and_not_a_missing_difference(study):
    equal = said("ppo", "equal", along=FLIP)
    assert asked(study, [equal])["answer"] == "yes"  # -5 to +1 points
    study["axes"][FLIP]["changes"][1]["low"] = -0.0501
    assert asked(study, [equal])["answer"] == "not decided"


@pytest.mark.parametrize(("p", "answered"), [(0.049, "yes"), (0.05, "not decided"), (None, "not decided")])
def test_the_p_decides_of_a_test_that_was_named_alone(study, p, answered):
    row = study["axes"][FLIP]["pairs"][1]
    row["p"], row["p_adjusted"] = p, 0.0001
    assert answer(study)["answer"] == answered


def test_tests_that_were_named_before_are_corrected_for_each_other_and_for_no_others(study):
    """Holm of 0.02 and 0.03: 2 x 0.02 and the larger of that and 0.03; a row that is named twice counts once."""
    first, second = study["axes"][FLIP]["pairs"][1], study["axes"][FLIP]["changes"][0]
    first["p"], second["p"] = 0.02, 0.03
    above, falls = said("ppo", "higher", than="dpo", at={FLIP: 0.25}), said("dpo", "lower", along=FLIP)
    found = asked(study, [above, falls], [said("ppo", "lower", than="dpo", at={FLIP: 0.25})])
    assert [row["estimate"][-5:] for row in found["yes"]] == ["0.040", "0.040"] and found["answer"] == "yes"
    second["p"] = 0.05
    found = asked(study, [above, falls], [said("ppo", "lower", than="dpo", at={FLIP: 0.25})])
    assert [row["shown"] for row in found["yes"]] == [True, False]
    assert "the 2 tests that were named before are corrected for each other, the others" in sentences(study)[1]
    found = asked(study, [above, falls], [said("ppo", "equal", along=FLIP)])  # no test, but an interval
    assert [row["estimate"][-5:] for row in found["yes"]] == ["0.040", "0.050"]
    found = asked(study, [above, falls], [said("ppo", "lower", along=FLIP)])  # a third test, of 0.6
    assert [row["estimate"][-5:] for row in found["yes"]] == ["0.060", "0.100"]


def test_each_statement_has_its_own_score_and_what_is_missing_is_not_shown(study):
    by = [said("ppo", "higher", than="dpo", at={FLIP: 0.25}) | {"by": name} for name in ("win_rate.judge", "length")]
    found = asked(study, by)
    assert [row["estimate"][:10] for row in found["yes"]] == ["+30 points", "not measur"]
    assert found["answer"] == "not decided"


def test_at_equal_kl_the_part_and_the_level_are_the_frontiers(study):
    row = row_of(0.2, 0.039, a="ppo", b="dpo", kl=[1, 2])
    study["frontiers"] = [{"at": {FLIP: 0}, "comparisons": [row_of(-0.2, a="ppo", b="dpo", kl=[1, 2])]},
                          {"at": {FLIP: 1}, "comparisons": [row]}]  # fmt: skip
    above = said("ppo", "higher", than="dpo", at={FLIP: 0.25}, equal_kl=True)
    below = [said("ppo", "lower", than="dpo", at={FLIP: 0.25}, equal_kl=True)]
    found = asked(study, [above], below)
    assert found["answer"] == "yes" and found["yes"][0]["estimate"].endswith("0.049")  # 0.039 / 0.04 of 0.05
    row["p"] = 0.045  # below 0.05, above the 0.04 of equal KL
    assert asked(study, [above], below)["answer"] == "not decided"
    row |= {"p": 0.001, "kl": None}  # no KL in common
    assert asked(study, [above], below)["answer"] == "not decided"


def test_places_on_other_axes_count(study):
    for name in ("pairs", "interactions"):
        study["axes"][FLIP][name] = [{**row, "at": [None]} for row in study["axes"][FLIP][name]]
    study["axes"][BETA] = {"values": [0.1, 0.5], "changes": [], "interactions": [], "pairs": [], "curves": []}
    rows = [row_of(-0.12, method="dpo") | {"at": [0]}, row_of(0.12, method="dpo") | {"at": [1]}]
    study["axes"][FLIP]["changes"] = rows
    assert asked(study, [said("dpo", "higher", along=FLIP, at={BETA: 0.5})])["answer"] == "yes"
    assert asked(study, [said("dpo", "higher", along=FLIP, at={BETA: 0.1})])["answer"] == "not decided"


def test_a_study_without_axes_compares_with_its_first_method(study):
    study |= {"axes": {}, "beside_the_first": [row_of(-0.2, a="ppo:clip=1", b="ppo")]}
    study["design"] |= {
        "yes_if": [said("ppo:clip=1", "lower", than="ppo")],
        "no_if": [said("ppo:clip=1", "higher", than="ppo")],
    }
    assert answer(study)["answer"] == "yes"


def test_three_sentences_from_the_record_alone(study):
    before = copy.deepcopy(study)
    found, sure, rest = sentences(study)
    assert found == (
        "Yes. Shown: ppo is above dpo at labels.flip 0.25 by win rate by the true reward (+10 points, +5 to +15, "
        "adjusted p 0.010)."
    )
    assert sure.startswith(
        "How sure: 3 seeds of each method, 870 held-out responses behind each mean, one SFT and one set"
    )
    assert "reward models in a run, no cell failed, all gates passed" in sure
    assert sure.endswith(
        "; the test that was named before needs no correction, the others are corrected for all of the study "
        "by their score."
    )
    assert rest == "It shows nothing of another model than m, other data than d, or other settings (as it comes)."
    assert study == before and sentences(study) == [found, sure, rest]
    study |= {"per_seed": ["reward_model"], "warnings": ["gate x not passed: y"], "runs": [{"failures": {"a": "b"}}]}
    study["axes"][FLIP]["pairs"][1]["p"] = 0.2
    found, sure, rest = sentences(study)
    assert found.startswith("Not decided. Not shown: ppo is above") and found.endswith("adjusted p 0.200).")
    assert "another reward model" in sure and "1 cell failed" in sure and "1 gate not passed" in sure
    assert rest.endswith(" (as it comes); nor is anything shown that was to make it a no.")
    falls = said("dpo", "lower", along=FLIP)
    asked(study, [falls], [falls])  # contradicts itself, and shows what was to make it a no
    assert sentences(study)[0].startswith("Not decided. Shown: ") and sentences(study)[2].endswith("(as it comes).")


def test_what_is_shown_stands_first_and_a_reverse_that_is_shown_is_told(study):
    rises, falls = (said("dpo", verdict, along=FLIP) for verdict in ("higher", "lower"))
    asked(study, [rises, falls, said("ppo", "lower", along=FLIP)])
    assert sentences(study)[0] == (
        "Not decided. Shown: dpo falls from labels.flip 0 to 0.25 by win rate by the true reward (-12 points, -17 to "
        "-7, adjusted p 0.030). Not shown: dpo rises from labels.flip 0 to 0.25 by win rate by the true reward (-12 "
        "points, -17 to -7, adjusted p 0.030, the reverse is shown); ppo falls from labels.flip 0 to 0.25 by win rate "
        "by the true reward (-2 points, -5 to +1, adjusted p 1.000)."
    )
    equal = answer(study | {"design": {"yes_if": [said("dpo", "equal", along=FLIP)], "no_if": [falls]}})
    assert equal["answer"] == "no" and not equal["yes"][0]["reverse"]  # equality has two reverses, each a statement


def test_what_the_answer_tells_is_not_told_again_as_not_shown(study):
    """Both changes and the interaction are undecided once corrected for all; the design asks about two of them."""
    for part in ("changes", "interactions", "pairs"):
        study["axes"][FLIP][part] = [{"seeds": 3, "verdict": "not decided", **row} for row in study["axes"][FLIP][part]]
    flip = study["axes"][FLIP]
    asked(study, [said("dpo", "lower", along=FLIP)], [said("ppo", "lower", than="dpo", along=FLIP)])
    assert told(study) == {id(flip["changes"][0])}  # that ppo falls behind is not shown, so no word of it stands above
    (line,) = along_axes(study, told(study))
    assert "a change of ppo" in line and "that dpo and ppo change differently" in line and "a change of dpo" not in line
    assert "a change of dpo (-12" in along_axes(study)[0]
    asked(study, [said("ppo", "higher", than="dpo", along=FLIP)], [said("dpo", "lower", along=FLIP)])
    assert told(study) == {id(flip["interactions"][0]), id(flip["changes"][0])}
    (line,) = along_axes(study, told(study))
    assert "a change of ppo" in line and "change differently" not in line


def test_a_statement_in_words(study):
    kl = said("ppo", "higher", than="dpo", at={FLIP: 0}, equal_kl=True)
    assert said_of(kl, study["axes"]) == (
        "ppo is above dpo at labels.flip 0 at equal KL to SFT by win rate by the true reward"
    )
    longer = said("ppo", "higher", along=FLIP) | {"by": "length"}
    assert said_of(longer, study["axes"]) == "ppo rises from labels.flip 0 to 0.25 by length"
    chosen = said("ppo", "higher", along=FLIP) | {"by": "implicit_reward.chosen"}
    assert said_of(chosen, study["axes"]).endswith("0.25 by the log-probability of chosen replies over SFT's")
    gold = said("ppo", "higher", along=FLIP) | {"by": "reward.gold"}
    assert said_of(gold, study["axes"]).endswith("0.25 by the true reward")
    other = said("ppo", "higher", along=FLIP) | {"by": "refusals"}
    assert said_of(other, study["axes"]).endswith("by Refusals")
    facet = said("ppo", "higher", along=FLIP) | {"by": "reward.gold.harmless"}
    assert said_of(facet, study["axes"]).endswith("0.25 by the true reward, harmless")
    own = said("ppo", "higher", along=FLIP) | {"by": "measure.friendly"}
    assert said_of(own, study["axes"]).endswith("0.25 by the measure friendly")
    proxy = said("ppo", "higher", along=FLIP) | {"by": "reward.reward_model.training"}
    assert said_of(proxy, study["axes"]).endswith("0.25 by the training reward")
    for more, text in (
        ({"than": "dpo", "at": {FLIP: 0}}, "ppo is equal within the margin to dpo at labels.flip 0 by"),
        ({"than": "dpo", "along": FLIP}, "ppo changes, within the margin, as much as dpo from labels.flip 0 to"),
        ({"along": FLIP}, "ppo stays equal within the margin from labels.flip 0 to 0.25 by"),
    ):
        assert said_of(said("ppo", "equal", **more), study["axes"]).startswith(text)
