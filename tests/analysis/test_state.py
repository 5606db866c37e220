"""The state of the methods: above, below, equal or not decided as the record tests it, and from where."""

import pytest
from matplotlib.colors import to_hex

from alignment_bench.analysis.state import of_run, of_study
from alignment_bench.reports.render import fill
from alignment_bench.reports.state import FILLS, state_chart, state_page

GOLD = "win_rate.gold"


def pair(a, b, difference, adjusted=0.01, half=0.02, metric=GOLD, **more):
    ends = {"difference": difference, "low": difference - half, "high": difference + half}
    return {"a": a, "b": b, "metric": metric, "p_adjusted": adjusted, "at": [None], **ends, **more}


def axis(values, pairs):
    curve = {"method": "dpo", "metric": GOLD, "at": [None], "points": []}
    return {"values": values, "pairs": pairs, "curves": [curve], "changes": [], "interactions": []}


@pytest.fixture
def study():
    pairs = [
        pair("dpo", "ppo", -0.125, value=0),
        pair("dpo", "ppo", 0.25, value=0.25),
        pair("dpo", "kto", 0.0, 0.9, value=0),
        pair("dpo", "kto", 0.0625, 0.06, value=0.25),
        pair("dpo", "kto", 0.5, metric="win_rate.judge", value=0.25),
        pair("kto", "ppo", 0.5, value=0),
    ]
    axes = {"labels.flip": axis([0, 0.25], pairs), "ppo.beta": axis([1], [])}
    on = {"benchmark": "quick", "model": "builtin/base_model", "preferences": "builtin/world"}
    return {**on, "margin": 0.05, "frontiers": [], "axes": axes, "warnings": []}


def states(situation):
    return {label: (cell["state"], cell["difference"]) for label, cell in situation["cells"].items()}


def test_each_value_of_an_axis_is_a_situation_seen_from_the_other_method(study):
    clean, flipped = of_study(study)
    assert (clean["name"], flipped["name"], clean["metric"]) == ("labels.flip 0", "labels.flip 0.25", GOLD)
    assert states(clean) == {"ppo": ("above", 0.125), "kto": ("equal", 0.0)}
    assert states(flipped) == {"ppo": ("below", -0.25), "kto": ("not decided", -0.0625)}
    cell = flipped["cells"]["kto"]
    assert (cell["low"], cell["high"]) == pytest.approx((-0.0825, -0.0425))
    elsewhere = of_study({**study, "model": "Somebody/Some-135M/"})
    assert [each["name"] for each in elsewhere][1] == "quick with Some-135M, labels.flip 0.25"
    own = of_study({**study, "preferences": "mine.jsonl"})
    assert [each["name"] for each in own][0] == "quick with base_model, labels.flip 0"


@pytest.mark.parametrize(("p", "half", "state"), [
    (0.049, 0.02, "above"), (0.05, 0.02, "not decided"), (0.05, 0.0099, "equal"), (0.05, 0.0101, "not decided"),
    (float("nan"), 0.0099, "equal"), (0.01, float("nan"), "not decided"),
])  # fmt: skip
def test_shown_by_the_corrected_p_and_equal_by_the_interval(study, p, half, state):
    study["axes"]["labels.flip"]["pairs"] = [pair("ppo", "dpo", 0.04, p, half, value=0)]  # margin 0.05
    (found,) = of_study(study)
    assert found["cells"]["ppo"]["state"] == state


def test_a_test_that_was_named_before_is_corrected_for_those_alone(study):
    rows = [pair("ppo", "dpo", 0.1, 0.9, value=0, p=0.02), pair("kto", "dpo", 0.1, 0.9, value=0, p=0.02)]
    study["axes"]["labels.flip"]["pairs"] = rows
    above = {"method": "ppo", "than": "dpo", "at": {"labels.flip": 0}, "verdict": "higher", "by": GOLD}
    (found,) = of_study(study | {"design": {"yes_if": [above], "no_if": [above | {"verdict": "lower"}]}})
    assert states(found) == {"ppo": ("above", 0.1), "kto": ("not decided", 0.1)}
    rows[0]["p"] = 0.05
    (found,) = of_study(study | {"design": {"yes_if": [above], "no_if": [above | {"verdict": "lower"}]}})
    assert states(found)["ppo"] == ("not decided", 0.1)


def test_values_of_other_axes_and_settings_are_told(study):
    study["axes"]["reward_model.pairs"] = axis([300, 3000], [])
    study["axes"]["labels.flip"]["pairs"] = [
        pair("dpo", "ppo:beta=0", -0.1, value=0, at=[None, 1]),
        pair("dpo", "ppo:beta=1:clip=2", 0.1, value=0, at=[None, 1]),
    ]
    (found,) = of_study(study)
    assert found["name"] == "labels.flip 0, reward_model.pairs 3000"
    source = {"name": "noise", "link": "studies/noise.md", "made": "2026", "said": "Yes.", "situations": [found]}
    text = fill("state.md.j2", state_page([source], ["dpo", "ppo", "wpo", "apo_zero"]))
    row = next(line for line in text.splitlines() if line.startswith("| labels.flip 0"))
    assert "beta=0: above +10 (+8 to +12); beta=1, clip=2: below −10 (−12 to −8)" in row
    assert "[noise](studies/noise.md)" in row and "In no published study: apo_zero, wpo" in text


def test_axes_that_are_nothing_to_policies_are_one_situation(study):
    """Such as those of the reward model that evaluates: the truth is the same at every value."""
    rows = [pair("ppo", "dpo", 0.1, value=value) for value in (0, 0.25)]
    study["axes"]["labels.flip"]["pairs"] = rows
    assert [found["name"] for found in of_study(study)] == ["every value of labels.flip"]
    rows[0]["p_adjusted"] = 0.9  # the same test, corrected for others
    (found,) = of_study(study)
    assert states(found) == {"ppo": ("above", 0.1)}
    rows[1]["low"] -= 0.01
    assert [found["name"] for found in of_study(study)] == ["labels.flip 0", "labels.flip 0.25"]
    parts = [
        {"at": {"labels.flip": n}, "comparisons": [pair("ppo", "dpo", 0.1, kl=[1, 2], crosses=False)]} for n in (0, 1)
    ]
    study |= {"frontiers": parts, "axes": {"labels.flip": axis([0, 0.25], [])}}
    assert [found["name"] for found in of_study(study)] == ["equal KL, every value of labels.flip"]
    parts.append({"at": {"labels.flip": 0}, "comparisons": [pair("ppo", "dpo", 0.2, kl=[1, 2], crosses=False)]})
    study["axes"]["labels.flip"]["values"].append(0.4)
    parts[2]["at"] = {"labels.flip": 2}
    assert [found["name"] for found in of_study(study)] == [
        "equal KL, labels.flip 0; labels.flip 0.25",
        "equal KL, labels.flip 0.4",
    ]


def test_a_method_that_a_situation_lacks_was_not_tried_in_it(study):
    source = {"name": "noise", "link": "l", "made": "m", "said": "s", "situations": [*of_study(study)]}
    study["axes"]["labels.flip"]["pairs"] = [pair("ppo", "dpo", 0.04, value=0)]
    other = {**source, "situations": [*of_study(study)]}
    page = state_page([source, other], ["dpo", "ppo", "kto"])
    assert page["methods"] == ["ppo", "kto"] and page["untried"] == []  # ppo has the more cells
    assert page["states"] == ("above", "equal", "below", "not decided")
    assert page["counts"] == {"ppo": [2, 0, 1, 0], "kto": [0, 1, 0, 1]}
    assert [row["cells"][1] for row in page["rows"]] == ["equal +0 (−2 to +2)", "? −6 (−8 to −4)", "–"]


def test_at_equal_kl_the_level_is_the_frontiers_and_what_crosses_is_left_out(study):
    shown = pair("dpo", "ppo", -0.1, 0.039, kl=[1, 2], crosses=False)
    study["axes"]["training_reward"] = axis([None, "f"], [])
    study["axes"]["labels.flip"]["pairs"] = []
    rows = [
        shown,
        pair("dpo", "kto", -0.1, 0.045, kl=[1, 2], crosses=False),
        pair("rloo", "dpo", 0.1, kl=None),
        pair("dpo", "orpo", 0.1, kl=[1, 2], crosses=True),
        pair("dpo", "ppo", 9.0, metric="reward.gold", kl=[1, 2]),
    ]
    study["frontiers"] = [{"at": {"training_reward": 0}, "comparisons": rows}]  # fmt: skip
    (found,) = of_study(study)
    assert found["name"] == "equal KL, training_reward null"
    assert states(found) == {"ppo": ("above", 0.1), "kto": ("not decided", 0.1)}
    (found,) = of_study({**study, "benchmark": "sentiment", "model": "Somebody/Some-135M"})
    assert found["name"] == "sentiment with Some-135M, equal KL, training_reward null"


def test_a_study_of_models_names_none_of_them_before(study):
    study["axes"] = {"model": axis(["a/b", "c/d"], [pair("dpo", "ppo", -0.125, value="c/d", at=[])])}
    assert [each["name"] for each in of_study({**study, "model": "a/b"})] == ["model c/d"]


def test_a_runs_direct_comparisons_by_its_headline_alone():
    rows = [
        pair("ppo", "dpo", 0.08, basis="direct", equal=False),
        pair("dpo", "ipo", 0.01, 0.3, 0.02, basis="direct", equal=True),
        pair("dpo", "kto", 0.01, 0.3, 0.02, basis="direct", equal=False),  # its own, stricter test says not
        pair("dpo", "sft", 0.1, basis="sft", equal=False),
        pair("ppo", "dpo", 0.3, metric="win_rate.judge", basis="direct", equal=False),
    ]
    (found,) = of_run({"comparisons": rows, "margin": 0.05, "gates": []}, "tuned")
    assert states(found) == {"ppo": ("above", 0.08), "ipo": ("equal", -0.01), "kto": ("not decided", -0.01)}
    assert found["name"] == "tuned"
    assert [*of_run({"comparisons": rows[3:4], "margin": 0.05, "gates": []}, "tuned")] == []


def test_a_scorer_that_is_not_the_truth_is_named_and_one_that_fails_its_gate_decides_nothing(study):
    learnt = "win_rate.reward_model"
    passed, failed = ({"name": "reward_model.evaluation", "passed": good} for good in (True, False))
    other = {"name": "reward_model.training", "passed": False}

    def run(gates, metric=learnt):
        rows = [pair("ppo", "dpo", 0.08, metric=metric, basis="direct", equal=False)]
        rows.append(pair("ipo", "dpo", 0.01, 0.9, metric=metric, basis="direct", equal=True))
        (found,) = of_run({"comparisons": rows, "margin": 0.05, "gates": gates}, "tuned")
        return found["name"], [cell["state"] for cell in found["cells"].values()]

    by = "tuned, by the evaluation reward model"
    assert run([passed, other]) == (by, ["above", "equal"])
    assert run([other, failed]) == (f"{by}, whose gate is not passed", ["not decided", "not decided"])
    assert run([failed], GOLD) == ("tuned", ["above", "equal"])
    assert run([failed], "win_rate.judge") == ("tuned, by the judge", ["above", "equal"])
    for part in (*study["axes"]["labels.flip"]["pairs"], *(axis["curves"][0] for axis in study["axes"].values())):
        part["metric"] = learnt
    clean, _ = of_study(study)
    assert clean["name"] == "labels.flip 0, by the evaluation reward model" and states(clean)["ppo"][0] == "above"
    told = "gate reward_model.{} not passed (labels.flip 0): of 0.7"
    clean, _ = of_study({**study, "warnings": [told.format("training")]})
    assert states(clean)["ppo"][0] == "above"
    clean, _ = of_study({**study, "warnings": [told.format("evaluation")]})
    assert clean["name"].endswith(", whose gate is not passed") and states(clean)["ppo"] == ("not decided", 0.125)


def test_the_picture_has_every_cell_in_its_colour_and_in_words(study):
    study["axes"]["labels.flip"]["pairs"] = [
        pair("dpo", "ppo:beta=0", -0.1, value=0),
        pair("dpo", "ppo:beta=1", 0.1, value=0),
        pair("dpo", "kto", -0.04, 0.3, 0.06, value=0.25),
    ]
    source = {"name": "noise", "link": "l", "made": "m", "said": "s", "situations": [*of_study(study)]}
    chart = state_chart([source])
    assert chart.text.endswith(
        "noise: labels.flip 0, ppo above +10; noise: labels.flip 0, ppo below −10; noise: labels.flip 0.25, kto not "
        "decided +4"
    )
    above, below, open_ = chart.drawing.axes[0].patches
    (both, alone) = (above.get_width() + below.get_width(), open_.get_width())
    assert both == alone == 1 and below.get_x() == above.get_x() + 0.5  # two settings share a cell
    assert [to_hex(bar.get_facecolor()) for bar in (above, below)] == [FILLS["above"], FILLS["below"]]
    assert [text.get_text() for text in chart.drawing.axes[0].texts] == ["+10", "−10", "+4?"]
    more = pair("dpo", "ppo:beta=2", 0.12, 0.9, value=0)
    study["axes"]["labels.flip"]["pairs"].insert(1, more)
    chart = state_chart([{**source, "situations": [*of_study(study)]}])
    assert len(chart.drawing.axes[0].patches) == 4 and "ppo not decided −12" in chart.text
    assert [text.get_text() for text in chart.drawing.axes[0].texts] == ["−12 to +10", "+4?"]
