"""A benchmark's YAML: `extends`, `--set`, errors that name file, line and field, and the published schema."""

import json

import jsonschema
import pytest
import yaml

from alignment_bench.benchmarks.definition.options import Options, chosen_spec
from alignment_bench.benchmarks.definition.rows import method_row
from alignment_bench.benchmarks.definition.schema import PUBLISHED, text
from alignment_bench.benchmarks.definition.spec import load_spec, suites
from alignment_bench.errors import InputError

PARENT = """\
name: parent
model: builtin/base_model
preferences: builtin/world
max_prompt_tokens: 64
max_response_tokens: 40
sft: {examples: 8, lr: 1.0e-3}
reward_model: {examples: 8, lr: 1.0e-3}
budget: 8
methods:
  dpo: {beta: 0.5, lr: 1.0e-4}
evaluators:
  reward_model: {}
  length: {}
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "parent.yaml").write_text(PARENT)

    def child(content, name="child.yaml"):
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    return child


def refused(path, *settings, methods=()):
    with pytest.raises(InputError) as told:
        spec = load_spec(path, settings=settings)
        for item in methods:
            method_row(spec, item)
    return str(told.value)


def test_a_child_says_only_what_is_different(write):
    path = write(
        "extends: parent.yaml\nname: child\nbudget: 16\nsft: {lr: 2.0e-3}\nmethods:\n  dpo: {beta: 0.1}\n"
        "  orpo: {weight: 0.5}\nevaluators:\n  length: null\n  diversity: {}\n"
    )
    spec = load_spec(path)
    assert (spec.name, spec.budget, spec.sft.lr, spec.sft.examples) == ("child", 16, 2e-3, 8)
    assert spec.methods == {"dpo": {"beta": 0.1, "lr": 1e-4}, "orpo": {"weight": 0.5}}
    assert spec.evaluators == {"reward_model": {}, "diversity": {}}
    own = load_spec(write("extends: quick\nname: mine\nbudget: 100\n", "mine.yaml"))
    assert own.budget == 100 and own.methods == load_spec("quick").methods


def test_a_null_never_leaves_a_fields_default_there_unsaid(write):
    rule = "extends: quick\nname: child\nselect: {at_most_kl: null}\n"
    assert refused(write(rule), "budget=9").endswith(
        "child.yaml, line 3: select.at_most_kl is never null; leave it out for 1.0, or give another (mean KL to SFT in "
        "nats above which a trial is not picked, unless all are; none sets no limit)"
    )
    said = refused("quick", "select.at_most_kl=2", "select.at_most_kl=null")
    assert said.startswith("--set select.at_most_kl=null: select.at_most_kl is never null")
    kept = load_spec("quick", settings=["select.at_most_kl=null", "select.at_most_kl=none", "training_pairs.most=null"])
    assert kept.select.limit is None and kept.training_pairs.most is None
    assert load_spec("quick", settings=["splits.selection=null"]).splits.selection == 0  # nothing, as null says
    assert load_spec("quick", settings=["methods.dpo.lr=null"]).methods["dpo"].get("lr") is None  # an entry, left out


def test_settings_of_the_command_line_go_over_all(write):
    path = write("extends: parent.yaml\nname: child\n")
    spec = load_spec(path, settings=["methods.dpo.beta=0.05", "sft.lr=1e-5", "rows=100", "evaluation.prompts=7"])
    assert spec.methods["dpo"] == {"beta": 0.05, "lr": 1e-4} and spec.sft.lr == 1e-5
    assert spec.rows == 100 and spec.evaluation.prompts == 7
    assert load_spec(path, settings=["methods.ppo.kl_estimator=k3"]).methods["ppo"] == {"kl_estimator": "k3"}
    assert load_spec(path, {"preferences": "a/b"}, ["preferences=c/d"]).preferences == "a/b"


def test_errors_name_file_line_and_field(write):
    child = "extends: parent.yaml\nname: child\n"
    assert "child.yaml, line 3: there is no field 'bugdet'; did you mean 'budget'?" in refused(
        write(child + "bugdet: 3\n")
    )
    told = refused(write(child + "sft:\n  lr: fast\n"))
    assert "child.yaml, line 4: sft.lr: input should be a valid number" in told and "not 'fast'" in told
    parent = write(PARENT.replace("budget: 8", "budget: 0"), "other.yaml")
    told = refused(parent)
    assert f"{parent}, line 8: budget: input should be greater than 0, not 0" in told
    told = refused(write("extends: other.yaml\nname: child\n"))  # what is wrong stands in the file that is extended
    assert f"{parent}, line 8: budget" in told
    told = refused(write(child + "methods:\n  dpo:\n    betta: 1\n"), methods=["dpo"])
    assert "child.yaml, line 5, methods.dpo: dpo has no parameter 'betta'; did you mean 'beta'?" in told
    told = refused(write(child + "method_defaults: {lr: -1}\n"), methods=["ppo"])
    assert "child.yaml, line 3, method_defaults: lr: input should be greater than 0" in told
    assert "child.yaml, line 3: name is given twice, first in line 2" in refused(write(child + "name: again\n"))
    assert "child.yaml, line 2: not valid YAML" in refused(write("a: [1\nb: 2"))
    assert "there is no benchmark 'qick', by name or as a YAML file; did you mean 'quick'?" in refused(
        write("extends: qick\n")
    )
    write("extends: child.yaml\n", "loop.yaml")
    assert "extends child.yaml, which extends it; remove one of the two" in refused(write("extends: loop.yaml\n"))


def test_errors_name_the_option(write):
    path = write("extends: parent.yaml\nname: child\n")
    assert "--set sft.lrr=1: there is no field 'sft.lrr'; did you mean 'lr'?" in refused(path, "sft.lrr=1")
    told = refused(path, "collected.kk=4")  # before the reward that is missing beside it
    assert "--set collected.kk=4: there is no field 'collected.kk'; " in told
    assert "--set budget=-1: budget: input should be greater than 0, not -1" in refused(path, "budget=-1")
    assert "--set bugdet=1: there is no field 'bugdet'; did you mean 'budget'?" in refused(path, "bugdet=1")
    assert "--set budget.x=1: budget is not a mapping but 8, so it has no fields" in refused(path, "budget.x=1")
    told = refused(path, "methods.dpo.betta=1", methods=["dpo"])
    assert "--set methods.dpo.betta=1, methods.dpo: dpo has no parameter 'betta'; did you mean 'beta'?" in told
    assert "--set budget has no field or no value" in refused(path, "budget")
    assert "value '[1' cannot be read" in refused(path, "budget=[1")


def test_a_value_of_none_of_several_types_is_told_at_its_field(write):
    told = refused(write("extends: parent.yaml\nname: child\n"), "tuning.gradient_checkpointing=maybe")
    assert "tuning.gradient_checkpointing: input should be a valid boolean or 'auto', not 'maybe'" in told


def test_set_through_the_command(bench, write, tmp_path):
    path = write("extends: parent.yaml\nname: child\n")
    done = bench("run", "-b", path, "-m", "dpo", "--set", "methods.dpoo.beta=1", cwd=tmp_path, code=2)
    assert "--set methods.dpoo.beta=1: methods.dpoo is not a method; did you mean 'dpo'?" in done.stderr
    done = bench("run", "-b", path, "-m", "dpo", "--set", "evaluators.golden.x=1", cwd=tmp_path, code=2)
    assert "--set evaluators.golden.x=1: there is no evaluator 'golden'; did you mean 'gold'?" in done.stderr
    path = write("extends: parent.yaml\nname: child\nevaluators:\n  length: {unit: words}\n")
    done = bench("run", "-b", path, "-m", "dpo", cwd=tmp_path, code=2)
    assert "child.yaml, line 4, evaluators.length: length: got an unexpected keyword argument 'unit'" in done.stderr


def test_the_published_schema_is_up_to_date_and_names_no_folder_of_this_machine():
    assert PUBLISHED.read_text(encoding="utf-8") == text(), (
        "write it: python -m alignment_bench.benchmarks.definition.schema"
    )
    assert str(PUBLISHED.parents[2].resolve()) not in text()


@pytest.mark.parametrize("name", suites())
def test_suites_are_valid_and_name_the_schema(name):
    path = suites()[name]
    assert path.read_text().splitlines()[0] == f"# yaml-language-server: $schema={PUBLISHED.name}"
    validator(yaml.safe_load(path.read_text()))
    missing = {f: "x" for f in ("model", "preferences") if f not in yaml.safe_load(path.read_text())}
    assert load_spec(name, missing).name == name


def validator(value):
    jsonschema.validate(value, json.loads(PUBLISHED.read_text()), jsonschema.Draft202012Validator)


def test_the_schema_refuses_what_we_refuse():
    validator({"name": "a", "extends": "quick", "methods": {"dpo": {"beta": 0.1}, "theirs": {"x": 1}, "ppo": None}})
    for wrong in (
        {"budget": 3},
        {"name": "a", "bugdet": 3},
        {"name": "a", "budget": 0},
        {"name": "a", "sft": {"lrr": 1}},
        {"name": "a", "methods": {"dpo": {"betta": 0.1}}},
        {"name": "a", "methods": {"dpo": {"beta": 0}}},
        {"name": "a", "tuning": {"precision": "fp8"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator(wrong)


def test_columns_of_the_preferences_come_from_the_file_or_over_it(write):
    spec = chosen_spec(write("extends: quick\nname: mine\ncolumns: {prompt: q}\n"), ("dpo",), Options())
    assert spec.columns == {"prompt": "q"}
    spec = chosen_spec("quick", ("dpo",), Options(columns={"chosen": "a"}))
    assert spec.columns == {"chosen": "a"} and chosen_spec("quick", ("dpo",), Options(columns={})).columns == {}


def test_a_name_that_no_folder_can_have_is_told_in_words(write):
    with pytest.raises(InputError, match="line 2: name: give letters, digits, dots, dashes .*'mine quick'"):
        load_spec(write("extends: quick\nname: mine quick\n"))
