"""A study's definition: what its axes are, which runs and rows it takes, and bad input in one sentence."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from alignment_bench.benchmarks.cost.rough import Estimate
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.harness import Outcome
from alignment_bench.benchmarks.plan import TO_DO, Planned
from alignment_bench.benchmarks.stages.steps import Step
from alignment_bench.benchmarks.studies.axes import Study, make_axis, read_study, varied
from alignment_bench.benchmarks.studies.study import ALIKE, Planning, of_tuning, warnings_of
from alignment_bench.errors import InputError
from alignment_bench.results.integrity import write_record
from alignment_bench.results.run_folder import TUNE, Run

EXAMPLE = Path(__file__).parents[3] / "examples" / "frontier.yaml"


@pytest.fixture
def read(tmp_path):
    def read_from(**fields):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"name": "noise", "methods": ["dpo", "ppo"], **fields}, sort_keys=False))
        return read_study(str(path))

    return read_from


def test_fields_of_the_benchmark_are_runs_and_settings_of_a_method_are_rows(read):
    found = read(axes={"labels.flip": [0, 0.25], "methods.dpo.beta": [0.1, 0.5]}, settings={"budget": 96}, seeds=2)
    runs = found.runs()
    assert [(run.at, run.spec.labels.flip, run.spec.budget) for run in runs] == [
        ({"labels.flip": 0}, 0.0, 96),
        ({"labels.flip": 1}, 0.25, 96),
    ]
    assert runs[0].labels == {
        "dpo:beta=0.1": ("dpo", {"dpo.beta": 0}),
        "dpo:beta=0.5": ("dpo", {"dpo.beta": 1}),
        "ppo": ("ppo", {}),
    }
    assert runs[1].spec.model_dump(exclude={"labels"}) == runs[0].spec.model_dump(exclude={"labels"})


def test_axes_are_crossed_and_the_short_form_is_the_same_study(read):
    found = read(axes={"labels.flip": [0, 0.25], "budget": [48, 96, 192]})
    assert [(r.spec.labels.flip, r.spec.budget) for r in found.runs()] == [
        (f, b) for f in (0.0, 0.25) for b in (48, 96, 192)
    ]
    short = varied(load_spec("quick"), ["dpo", "ppo"], 1, ["labels.flip=0,0.25", "budget=48,96,192"])
    assert [r.spec.model_dump() for r in short.runs()] == [r.spec.model_dump() for r in found.runs()]
    assert short.name == "quick-labels.flip-budget" and short.id == found.id
    assert found.id != read(axes={"labels.flip": [0, 0.3], "budget": [48, 96, 192]}).id


def test_a_row_that_was_asked_for_with_settings_keeps_them(read):
    labels = read(methods=["dpo:lr=0.001"], axes={"dpo.beta": [0.1, 1e-05]}).runs()[0].labels
    assert list(labels) == ["dpo:lr=0.001:beta=0.1", "dpo:lr=0.001:beta=1e-05"]
    assert {item for item, _ in labels.values()} == {"dpo:lr=0.001"}


def test_worlds_of_per_seed(read):
    one = read(per_seed=["sft"], seeds=3)
    assert [run.world for run in one.runs()] == [{"sft": 0}, {"sft": 1}, {"sft": 2}]
    assert [run.spec.sft.seed for run in one.runs()] == [0, 1, 2]
    found = read(per_seed=["sft", "reward_model", "split"], seeds=2, settings={"split_seed": 7})
    worlds = [(r.spec.sft.seed, r.spec.reward_model.seed, r.spec.split_seed) for r in found.runs()]
    assert worlds == [(0, 0, 7), (1, 1, 8), (1, 0, 7), (0, 1, 7), (0, 0, 8)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"axes": {"labels.flop": [0, 1]}}, r"line 6: there is no field 'labels.flop'; .*flip"),
        ({"axes": {"nothing": [0, 1]}}, r"line 6: there is no field 'nothing'"),
        ({"axes": {"labels.flip": [0, 0.9]}}, r"line 6: labels.flip: .*less than or equal to 0.5, not 0.9$"),
        ({"axes": {"dpo.beta": [0.1, -1]}}, r"line 6: beta: .*greater than 0, not -1"),
        ({"axes": {"dpo.betta": [0.1, 1]}}, r"line 6: dpo has no parameter 'betta'; .*beta"),
        ({"axes": {"labels.flip": [0.1]}}, r"line 6: labels.flip has fewer than two values; an axis needs two"),
        ({"axes": {"labels.flip": []}}, r"line 6: labels.flip has fewer than two values; an axis needs two"),
        ({"axes": {"labels.flip": [0.1, 0.2, 0.1]}}, r"line 6: labels.flip has a value twice"),
        ({"axes": {"dpo.beta": [1, 2], "methods.dpo.beta": [1, 2]}}, r"line 9: dpo.beta is an axis already .*line 6"),
        ({"axes": {"orpo.weight": [0.1, 1]}}, r"line 6: orpo.weight is a setting of orpo, which is not compared here"),
        ({"axes": {}}, "study noise varies nothing"),
        ({"per_seed": ["sft", "judge"], "seeds": 2}, r"line 5: per_seed.1: input should be 'sft', 'reward_model' or"),
        ({"per_seed": ["sft"]}, "per_seed needs two seeds or more"),
        ({"per_seed": ["sft", "sft"], "seeds": 2}, "names a stage twice"),
        ({"per_seed": ["sft"], "seeds": 2, "axes": {"sft.seed": [0, 1]}}, "sft.seed is varied by per_seed as well"),
        ({"methods": ["dpo:beta=1"], "axes": {"dpo.beta": [1, 2]}}, "dpo:beta=1 sets beta itself"),
        ({"methods": []}, "methods: list should have at least 1 item"),
        ({"methods": ["dpq"], "axes": {"budget": [16, 32]}}, "there is no method 'dpq'"),
        ({"benchmark": "quik", "axes": {"budget": [16, 32]}}, "there is no benchmark 'quik'"),
        ({"axes": {"budget": 16}}, r"line 6: axes.budget: input should be a valid list, not 16"),
        ({"axis": {"budget": [16]}}, "there is no field 'axis'; .*axes"),
        ({"tuned": ".", "axes": {"rows": [16, 32]}}, "tuned is told of along the axis budget; add that under axes"),
        ({"tuned": "nowhere", "axes": {"budget": [16, 32]}}, "nowhere holds no tune.json; give under tuned the folder"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_trains(read, fields, said):
    with pytest.raises(InputError) as error:
        read(**fields).runs()
    assert re.search(said, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("labels.flip", "--vary labels.flip has no field or no values"),
        ("=1,2", "--vary =1,2 has no field or no values"),
        ("labels.flip=0.1", "--vary labels.flip=0.1: labels.flip has fewer than two values"),
        ("rows=0,10", "--vary rows=0,10: rows: input should be greater than 0, not 0"),
        ("dpo.beta=1,x", "--vary dpo.beta=1,x: beta: input should be a valid number"),
    ],
)
def test_bad_input_of_the_short_form(vary, said):
    with pytest.raises(InputError, match=re.escape(said)):
        varied(load_spec("quick"), ["dpo"], 1, [vary]).runs()


def test_a_tuning_is_told_of_where_its_run_has_the_contract_of_the_studys(read, tmp_path):
    """Flips change the data, so at half of them nothing is equal; the smaller budget is not that of the tuning."""
    write_record(tmp_path / TUNE, {"study": "t", "run": str(tmp_path / "run"), "rows": {"dpo": "dpo:lr=1"}})
    fields = {"axes": {"labels.flip": [0, 0.25], "budget": [48, 96]}, "tuned": str(tmp_path)}
    with pytest.raises(InputError, match="there is no finished run of the winners"):
        read(**fields)
    winners, compared = Run(tmp_path / "run"), [{"a": "dpo:lr=1", "b": "sft"}]
    winners.path.mkdir()
    agreed = {**dict.fromkeys(ALIKE, "same"), "budget": 96, "methods": {"dpo": {"lr": 1}}}
    tuned = {"tuned": {"trials": {"dpo:lr=1": 12}}}
    winners.write_summary({"contract": agreed | tuned, "comparisons": compared})
    found = read(**fields)
    assert found.id != read(axes=fields["axes"]).id
    runs = found.runs()
    outcomes = [
        Outcome(winners, {"contract": {**agreed, "budget": r.spec.budget, "data": f"flips {r.at['labels.flip']}"}}, {})
        for r in runs
    ]
    assert of_tuning(found, runs, outcomes)["at"] == []
    outcomes[1].summary["contract"]["data"] = "same"
    assert of_tuning(found, runs, outcomes) == {
        "folder": str(tmp_path), "trials": {"dpo": 12}, "rows": {"dpo": "dpo:lr=1"}, "comparisons": compared,
        "at": [{"labels.flip": 0}],
    }  # fmt: skip
    assert of_tuning(read(axes=fields["axes"]), runs, outcomes) is None


def test_a_gate_of_a_stage_that_all_runs_share_is_told_once(read):
    found = read(axes={"reward_model.model": [None, "builtin/judge_model"]}, seeds=3)
    runs = found.runs()
    assert [run.spec.reward_model.model for run in runs] == [None, "builtin/judge_model"]

    def outcome(text, failures):
        gates = [{"name": "same", "passed": False, "text": "low"}, {"name": "own", "passed": False, "text": text}]
        return Outcome(None, {"gates": [*gates, {"name": "good", "passed": True, "text": "high"}]}, failures)

    assert warnings_of(found, runs, [outcome("0.5", {}), outcome("0.6", {"dpo seed 1": "no number"})]) == [
        "dpo seed 1 failed (reward_model.model builtin/judge_model): no number",
        "gate same not passed: low",
        "gate own not passed (reward_model.model null): 0.5",
        "gate own not passed (reward_model.model builtin/judge_model): 0.6",
    ]


def test_the_example_is_a_study():
    runs = read_study(str(EXAMPLE)).runs()
    assert [run.spec.labels.flip for run in runs] == [0, 0.1, 0.25] and len(runs[0].labels) == 6


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match="there is no study nowhere.yaml"):
        read_study("nowhere.yaml")


def test_an_axis_of_a_plugin_field_needs_the_method():
    with pytest.raises(InputError, match="which is not compared here"):
        make_axis("ppo.beta", [1, 2], "here", ["dpo"])
    assert make_axis("dpo.beta", [1, 2], "here", ["dpo"]).method == "dpo"
    assert make_axis("method_defaults.lr", [1, 2], "here", ["dpo"]).method is None
    assert Study("x", load_spec("quick"), ("dpo",), 1, (make_axis("rows", [9, None], "here", ["dpo"]),)).runs()


@pytest.mark.parametrize(
    ("field", "kind", "stages"),
    [
        ("collected.sharpness", "sft", 2),
        ("template", "sft", 2),
        ("budget", "sft", 1),
        ("budget", "reference", 2),  # whose pairs are those that the budget draws
        ("labels.flip", "sft", 1),
        ("labels.flip", "reward_model", 2),
    ],
)
def test_a_plan_counts_a_stage_once_where_its_runs_share_it(field, kind, stages):
    values = {"collected.sharpness": "4,8", "template": "chat,text", "budget": "8,16", "labels.flip": "0,0.25"}[field]
    found = varied(load_spec("sentiment", {"model": "builtin/base_model"}), ["dpo"], 1, [f"{field}={values}"])
    planned = Planned(Step("a stage", kind, lambda made: None), TO_DO)
    both = Planning(
        [
            (run, SimpleNamespace(to_do=[planned], at_once=1, beside={"start": Estimate("", 3.0)}))
            for run in found.runs()
        ]
    )
    assert len(both.to_do) == stages and both.seconds == (2 * 3.0, stages)
