"""Rounds of labels and training on a whole small run: what changes, what stays, that people may label, what is told."""

import dataclasses
import json
import re

import pytest
import yaml

from alignment_bench import next_round
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.request import Request
from alignment_bench.benchmarks.studies import rounds
from alignment_bench.benchmarks.studies.rounds import chain_of, collect_pairs, labeller_of, plan_round
from alignment_bench.preferences.labellers import SimulatedPerson, label_all
from alignment_bench.preferences.labels import ITEMS, Item, read_items
from alignment_bench.results.integrity import CHECK, read_record
from alignment_bench.results.run_folder import STUDY, Run
from alignment_bench.results.store import read_jsonl, write_jsonl

GOLD = "alignment_bench.benchmarks.world:true_reward"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A folder with a benchmark of the built-in model, whose policies write text that ends, and few examples."""
    folder = tmp_path_factory.mktemp("rounds")
    few = {"examples": 32, "batch_size": 16}
    fields = {
        "extends": "quick", "name": "few", "rows": 200, "sft": few, "reward_model": {**few, "contrast": 0.0},
        "budget": 32, "evaluation": {"prompts": 4}, "methods": {"dpo": {"batch_size": 16}},
        "splits": {"selection": None, "tuning": None},
        "evaluators": {name: None for name in ("judge", "diversity", "policy_diversity", "implicit_reward", "length")},
    }  # fmt: skip
    (folder / "few.yaml").write_text(yaml.safe_dump(fields))
    return folder


@pytest.fixture(scope="module")
def first(bench, workdir):
    return Run(json.loads(bench("run", "-b", "few.yaml", "-m", "dpo", "--json", cwd=workdir).stdout)["run_dir"])


def test_rounds_have_new_pairs_and_a_new_training_reward_model_and_all_else_stays(bench, workdir, first, monkeypatch):
    """Labelled by people, in two goes; the round after it would have these pairs too."""
    again = ("run", "-b", "few.yaml", "-m", "dpo", "--continue-from", first.path, "--new-pairs", "8")
    people = (*again, "--labeller", "people", "--json")
    told = bench(*people, cwd=workdir)
    assert told.stdout == "" and re.search(r"(\d) of \1 pairs are to be labelled by people: bench label ", told.stderr)
    (folder,) = (workdir / "results" / "rounds" / "few").iterdir()
    items = read_items(folder)
    assert 1 <= len(items) <= 8 and {item.a_version.partition("@")[0] for item in items} == {"dpo"}
    label_all(folder, SimulatedPerson("ann", GOLD), "ann")
    done = bench(*people, cwd=workdir)
    summary = json.loads(done.stdout)
    run = Run(summary["run_dir"])

    old, new = first.record["contract"], run.record["contract"]
    changed = {name for name in new if new[name] != old.get(name)}
    assert changed == {"data", "reward_model", "round"}
    assert {r for r in new["reward_model"] if new["reward_model"][r] != old["reward_model"][r]} == {"training"}
    assert new["round"]["number"] == 1 and new["round"]["parent"] == first.record["run_id"]
    assert run.record["parent"] == str(first.path.resolve())
    splits = [each.record["data"]["splits"] for each in (first, run)]
    assert {name: part["pairs"] - splits[0][name]["pairs"] for name, part in splits[1].items()} == {
        "sft": 0, "training": len(items), "evaluation": 0, "heldout": 0,
    }  # fmt: skip
    assert splits[1]["training"]["prompts"] == splits[0]["training"]["prompts"]
    held_out = {g.prompt_id for cell in first.cells() for g in cell.generations()}
    assert held_out == {g.prompt_id for cell in run.cells() for g in cell.generations()}
    asked = {row["prompt_id"] for path in folder.glob("policies/*/candidates.jsonl") for row in read_jsonl(path)}
    assert len(asked) == 8 and not asked & held_out
    sft = [next(cell for cell in each.cells() if cell.method == "sft").generations() for each in (first, run)]
    assert sft[0] == sft[1]
    assert any("continues run" in line and "(people), are not among the costs" in line for line in summary["warnings"])

    study = read_record(workdir / "results" / "studies" / "few-rounds" / first.record["run_id"] / STUDY)
    (dpo,) = (c for c in study["axes"]["round"]["curves"] if (c["method"], c["metric"]) == ("dpo", "win_rate.gold"))
    means = [each.summary["methods"]["dpo"]["metrics"]["win_rate.gold"]["mean"] for each in (first, run)]
    assert [(p["value"], p["mean"]) for p in dpo["points"]] == [*enumerate(means)]
    assert [each["told"] for each in study["runs"]] == ["round 0", "round 1"]

    resumed = bench(*people, cwd=workdir)
    assert "made in" not in resumed.stderr
    assert {**json.loads(resumed.stdout), CHECK: 0} == {**summary, CHECK: 0}
    monkeypatch.chdir(workdir)
    in_python = next_round(first.path, "few.yaml", "dpo", labeller="people", new_pairs=8)
    assert in_python is not None and in_python.path.resolve() == run.path.resolve() and not in_python.failures

    assert [each.path.name for each in chain_of(run)] == [first.path.name, run.path.name]
    spec = load_spec(str(workdir / "few.yaml"))
    second = plan_round(Request(spec, ("dpo",), 1, workdir / "results"), run.path, "simulated", 4)
    assert second.number == 2 and second.request.spec.more_pairs == (str((folder / "labels").resolve()),)
    assert second.about["policies"] != new["round"]["policies"]


def test_bad_input_is_one_sentence_before_anything_is_made(bench, workdir, first):
    base = ("run", "-b", "few.yaml", "--continue-from", first.path)
    for given, said in (
        (("-m", "dpo", "--set", "budget=16"), "was made with another configuration (differs in budget)"),
        (("-m", "dpo", "--set", "rows=150"), "was made with another configuration (differs in data)"),
        (("-m", "dpo", "--set", "reward_model.model=builtin/base_model"), "(differs in reward_model.model)"),
        (("-m", "orpo"), "has no policy of orpo to sample from; give rows that it trained with --method"),
        (("-m", "best_of_n"), "has no policy of best_of_n to sample from"),
        (("-m", "dpo", "--labeller", "judge"), "--labeller judge needs a judge, which few has not; give one with"),
        (("-m", "dpo", "--labeller", "ann"), "--labeller ann is not known; give simulated, judge or people"),
        (("-m", "dpo", "--set", "evaluators.gold=null"), "no evaluator of benchmark few does; give --labeller judge"),
        (("-m", "dpo", "--set", "more_pairs=[x]"), "more_pairs names x, which"),
        (("-m", "dpo", "--vary", "budget=16,32"), "--vary makes runs that begin"),
    ):
        assert said in bench(*base, *given, cwd=workdir, code=2).stderr
    nowhere = bench("run", "-b", "few.yaml", "-m", "dpo", "--continue-from", "nowhere", cwd=workdir, code=2)
    assert "nowhere" in nowhere.stderr
    assert "--new-pairs goes with" in bench(
        "run", "-b", "few.yaml", "-m", "dpo", "--new-pairs", "4", cwd=workdir, code=2
    ).stderr  # fmt: skip
    assert not (workdir / "results" / "rounds" / "none").exists()


def test_policies_share_the_prompts_out_and_their_pairs_are_one_collection(workdir, first, monkeypatch):
    """Of two policies each answers every second of 8 prompts; what each gave is joined in the order of the rows."""
    spec = load_spec(str(workdir / "few.yaml"))
    found = plan_round(Request(spec, ("dpo",), 1, workdir / "results" / "two"), first.path, "people", 8)
    (policy,) = found.policies.values()
    monkeypatch.setattr(rounds.Next, "policies", {"a": policy, "b": dataclasses.replace(policy, key="other")})
    asked = {}

    def collect(opened, version, prompts, settings, folder, about):
        row = version.partition("@")[0]
        asked[row] = [messages[-1]["content"] for messages, _ in prompts]
        folder.mkdir(parents=True)
        write_jsonl(folder / ITEMS, [Item(f"{row}{n}", m, "x", "y", version) for n, (m, _) in enumerate(prompts)])
        assert (settings.k, settings.max_new_tokens, about["model_hash"]) == (2, 39, found.policies[row].key)
        return {"prompts": len(prompts), "pairs": len(prompts)}

    monkeypatch.setattr(rounds, "collect", collect)
    assert collect_pairs(found) == 8
    assert [len(asked[row]) for row in "ab"] == [4, 4] and not set(asked["a"]) & set(asked["b"])
    assert [item.id for item in read_items(found.folder)] == [f"{row}{n}" for row in "ab" for n in range(4)]
    training = {prompt.messages[-1]["content"] for prompt in found.made.pipeline.prompts.prompts}
    assert {*asked["a"], *asked["b"]} < training


def test_a_judge_labels_as_the_benchmark_has_it_but_for_what_concerns_a_run(bench, workdir, first):
    """A round that it labels is planned without asking it; its settings are kept beside the labels as JSON."""
    arguments = ("-m", "dpo", "--judge", "builtin/judge_model", "--labeller", "judge", "--new-pairs", "4", "--dry-run")
    planned = bench("run", "-b", "few.yaml", "--continue-from", first.path, *arguments, cwd=workdir)
    assert "(dpo) answer 4 of" in planned.stdout and "labelled by judge" in planned.stdout
    settings = {"model": ["builtin/judge_model"], "prompt": "compact", "repeats": 30, "limit": 2}
    spec = load_spec(str(workdir / "few.yaml"), settings=[f"evaluators.judge={json.dumps(settings)}"])
    found = plan_round(Request(spec, ("dpo",), 1, workdir / "results"), first.path, "judge", 4)
    judge = labeller_of(found).judge
    assert (judge.prompt, judge.limit, judge.repeats, judge.cache) == ("compact", None, 0, None)
    assert json.dumps(dataclasses.asdict(judge)) and judge.models[0].endswith("judge_model")
    assert found.about["labelled_by"] == "judge" and not found.folder.exists()
