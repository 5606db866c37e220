"""A whole tiny `bench run` through the command line, twice, with a third party's plugin; and bad input."""

import json
import math
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from alignment_bench.benchmarks.data.corpus import WORLD_SEED
from alignment_bench.benchmarks.world import preference_rows
from alignment_bench.models import tuning
from alignment_bench.results.adapters import base_of
from alignment_bench.results.progress import PROGRESS, Recorder
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import finished, folder_digest


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, make_tiny):
    folder = tmp_path_factory.mktemp("work")
    make_tiny(folder / "model", std=0.05)
    return folder


def test_run_again_and_grow(bench, workdir, write_tiny, monkeypatch):
    """One run; the same again trains nothing; a seed and a method more train only that; the report is rebuilt."""
    spec, partials = write_tiny(workdir), {}
    begin = Recorder.begin
    monkeypatch.setattr(
        Recorder, "begin", lambda self, name, at=None: (partials.setdefault(name, at), begin(self, name, at))
    )
    base = ["run", "-b", spec, "--model", workdir / "model"]
    first = bench(*base, "-m", "ppo,dpo", "--json", cwd=workdir)
    summary = json.loads(first.stdout)
    assert list(summary["methods"]) == ["sft", "ppo", "dpo"]
    for name in ("ppo", "dpo"):
        row = summary["methods"][name]
        assert row["seeds"] == 1
        for metric in (
            "win_rate.reward_model",
            "win_rate.gold",
            "reward.reward_model",
            "reward.gold",
            "kl",
            "length",
            "eos_rate",
        ):
            assert row["metrics"][metric]["n"] == 6
        assert row["cost"]["examples"] == 16 and row["cost"]["seconds"] > 0 and row["cost"]["flops"] > 0
    assert summary["methods"]["sft"]["metrics"]["kl"]["mean"] == 0.0
    assert summary["methods"]["sft"]["metrics"]["win_rate.gold"]["mean"] == 0.5
    assert summary["methods"]["ppo"]["cost"]["reward_queries"] == 16
    assert [g["name"] for g in summary["gates"]] == [
        "sft_loss_drop",
        "reward_model.training",
        "reward_model.evaluation",
    ]
    assert "made in" in first.stderr

    run = Run(Path(summary["run_dir"]))
    assert (run.report_path / "index.html").exists() and (run.report_path / "report.md").exists()
    cells = {(c.method, c.seed): c for c in run.cells()}
    assert set(cells) == {("sft", 0), ("ppo", 0), ("dpo", 0)}
    AutoModelForCausalLM.from_pretrained(cells["dpo", 0].path / "policy")
    weights = {key: folder_digest(cell.path / "policy") for key, cell in cells.items() if key[0] != "sft"}
    assert len(cells["ppo", 0].metrics()) == 2

    progress = run.progress
    assert progress.state == "done" and set(progress.cells.values()) == {"done"} and len(progress.cells) == 3
    assert all(step.seconds is not None for step in progress.steps)
    assert [p.parent for p in run.path.parent.rglob(PROGRESS)] == [run.path]  # none where it was before that folder
    assert [*run.path.parent.iterdir()] == [run.path]
    trained = {step.label for step in progress.steps if step.trains}
    assert {name for name, at in partials.items() if at} == trained and len(trained) == 5
    for name in trained:  # each lies under its key now
        partial = workdir / partials[name]
        assert finished(partial).is_dir(), name

    held, waits = Run.held, []
    monkeypatch.setattr(Run, "held", lambda self, told=None: (waits.append(told), held(self, told))[1])
    again = bench(*base, "-m", "ppo,dpo", "--wait", "--json", cwd=workdir)
    assert callable(waits[0])
    assert all(step.seconds is None and step.expected for step in run.progress.steps if step.trains)  # found on disk
    assert "made in" not in again.stderr and json.loads(again.stdout) == summary

    less = bench(*base, "-m", "ppo,dpo", "--set", "tuning.micro_tokens=300", "--json", cwd=workdir)
    assert "made in" not in less.stderr and json.loads(less.stdout)["run_dir"] == summary["run_dir"]

    grown = bench(*base, "-m", "ppo,orpo", "--seeds", "2", "--json", cwd=workdir)
    made = [line.partition(":")[0] for line in grown.stderr.splitlines() if "made in" in line]
    assert made == [f"{cell}, training" for cell in ("orpo seed 0", "ppo seed 1", "orpo seed 1")]
    larger = json.loads(grown.stdout)
    assert larger["run_dir"] == summary["run_dir"]
    assert {n: r["seeds"] for n, r in larger["methods"].items()} == {"sft": 2, "ppo": 2, "dpo": 1, "orpo": 2}
    assert {k: folder_digest(cells[k].path / "policy") for k in weights} == weights

    page = bench("report", workdir / "results", cwd=workdir).stdout
    assert "index.html" in page


def test_a_third_party_method_and_evaluator(bench, workdir, write_tiny):
    if "slic" not in {e.name for e in entry_points(group="alignment_bench.methods")}:
        pytest.skip("the example plugin is not installed (pip install ./tests/plugin, as make test does)")
    spec = write_tiny(workdir, evaluators={"sentences": {"marks": "."}})
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "ppo,slic", "--json", cwd=workdir)
    row = json.loads(done.stdout)["methods"]["slic"]
    assert "slic seed 0, training: made in" in done.stderr and "slic seed 0, training: found" not in done.stderr
    assert row["metrics"]["sentences"]["n"] == 6 and "win_rate.gold" in row["metrics"]
    spec = write_tiny(workdir, methods={"slic": {"delta": -1.0}})
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "slic", cwd=workdir, code=2)
    assert "methods.slic: delta: input should be greater than 0, not -1.0" in done.stderr


def test_rows_of_one_method_with_other_settings_starts_and_data(bench, workdir, write_tiny):
    """Typed settings make rows; a start from the base is told apart even where only the YAML says so; best of two."""
    rated = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in preference_rows(120, seed=WORLD_SEED)
        for side in ("chosen", "rejected")
    ]
    (workdir / "rated.jsonl").write_text("\n".join(map(json.dumps, rated)))
    spec = write_tiny(workdir, unpaired=str(workdir / "rated.jsonl"), methods={"orpo": {"start": "base"}})
    names = "dpo:beta=0.05,dpo:beta=0.5:batch_size=8,orpo,orpo:start=sft,kto:data=unpaired,best_of_n:n=2"
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", names, "--json", cwd=workdir)
    summary = json.loads(done.stdout)
    assert list(summary["methods"]) == [
        "sft", "dpo:beta=0.05", "dpo:beta=0.5:batch_size=8", "orpo:start=base", "orpo:start=sft",
        "kto:data=unpaired", "best_of_n:n=2",
    ]  # fmt: skip
    run = Run(Path(summary["run_dir"]))
    assert run.record["methods"]["dpo:beta=0.5:batch_size=8"]["params"]["beta"] == 0.5
    weights = {c.method: folder_digest(c.path / "policy") for c in run.cells() if c.method != "sft"}
    assert weights["orpo:start=base"] != weights["orpo:start=sft"]
    assert summary["methods"]["best_of_n:n=2"]["metrics"]["kl"]["mean"] == pytest.approx(math.log(2) - 0.5)
    used = run.record["data"]["unpaired"]
    assert used["dropped"]["prompt is among those kept for evaluation"] > 0
    assert used["used"] + sum(used["dropped"].values()) == len(rated)
    told = " ".join(summary["warnings"])
    assert "2 responses and scores for every response" in told and "tuned from the base model" in told
    assert "learns from other data than the rest" in told


def test_what_a_method_lacks_is_said_before_anything_trains(bench, workdir, write_tiny):
    spec = write_tiny(workdir)
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "kto:data=unpaired", cwd=workdir, code=2)
    assert "kto:data=unpaired learns from replies rated on their own" in done.stderr and "made in" not in done.stderr
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "orpo:weight=-1", cwd=workdir, code=2)
    assert "weight: input should be greater than 0, not -1\n" in done.stderr
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "dpo:beta", cwd=workdir, code=2)
    assert "setting 'beta' has no value; give FIELD=VALUE" in done.stderr


@pytest.mark.parametrize(
    ("method", "field", "where"),
    [
        ("dpo", "evaluation.temperature=0.001", "--set evaluation.temperature=0.001, evaluation.temperature"),
        ("ppo", "methods.ppo.temperature=0.001", "ppo"),
        ("dpo,rloo:temperature=0.001", "budget=16", "rloo:temperature=0.001"),
    ],
)
def test_what_vllm_cannot_sample_is_said_before_anything_trains(
    bench, workdir, write_tiny, monkeypatch, method, field, where
):
    monkeypatch.setattr(tuning, "find_spec", lambda name: name)  # as if vLLM were installed
    spec = write_tiny(workdir, tuning={"sampler": "vllm"})
    arguments = ["run", "-b", spec, "--model", workdir / "model", "-m", method, "--root", workdir / "none"]
    said = bench(*arguments, "--set", field, cwd=workdir, code=2).stderr
    assert f"{where}: vLLM samples at temperatures from 0.01; 0.001 needs the sampler torch" in said
    assert not (workdir / "none").exists()


def test_lora_run(bench, workdir, write_tiny):
    """The same path with adapters; policies are adapters on the SFT checkpoint and load with transformers."""
    spec = write_tiny(workdir, tuning={"lora_rank": 4})
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "ppo,dpo,orpo", "--json", cwd=workdir)
    summary = json.loads(done.stdout)
    moved = Path(summary["run_dir"]).rename(workdir / "moved")
    policy = moved / "ppo" / "seed-0" / "policy"
    assert (policy / "adapter_config.json").exists()
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(moved / "sft" / "model"), policy)


def test_keys_do_not_depend_on_where_the_folders_lie(bench, workdir, write_tiny):
    """A root that was moved has all that the same run needs, the base of its adapters as well."""
    spec = write_tiny(workdir, tuning={"lora_rank": 4}, evaluators={"gold": None, "divergence": None})
    arguments = ["run", "-b", spec, "--model", workdir / "model", "-m", "dpo", "--root"]
    first, moved = workdir / "one place", workdir / "another"
    bench(*arguments, first, cwd=workdir)
    stages = {p.parent.name for p in first.glob("cache/*/*/manifest.json")}
    first.rename(moved)
    assert "made in" not in bench(*arguments, moved, cwd=workdir).stderr
    assert {p.parent.name for p in moved.glob("cache/*/*/manifest.json")} == stages
    (config,) = moved.glob("cache/train/*/policy/adapter_config.json")
    assert str(first) not in config.read_text()
    assert Path(base_of(config.parent)).is_relative_to(moved / "cache" / "sft")


def test_a_cell_that_fails_does_not_stop_the_others(bench, workdir, write_tiny):
    spec = write_tiny(workdir, methods={"dpo": {"lr": 1e30, "batch_size": 4}})
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "dpo,orpo", "--json", cwd=workdir, code=1)
    summary = json.loads(done.stdout)
    assert "orpo" in summary["methods"] and "dpo" not in summary["methods"]
    assert any(w.startswith("dpo seed 0 failed: step ") for w in summary["warnings"])
    progress = Run(Path(summary["run_dir"])).progress
    assert progress.cells["dpo seed 0"] == "failed" and progress.failures["dpo seed 0"].startswith("step ")


def test_a_failed_gate_stops_when_asked(bench, workdir, write_tiny):
    spec = write_tiny(workdir, gates={"reward_model_accuracy": 0.999})
    done = bench("run", "-b", spec, "--model", workdir / "model", "-m", "dpo", "--gate", "fail", cwd=workdir, code=1)
    assert done.stderr.splitlines()[-1].startswith("bench: gate reward_model.training not passed")


def bad(bench, cwd, *arguments):
    """One sentence on stderr, nothing on stdout, exit code 2."""
    done = bench(*arguments, cwd=cwd, code=2)
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr.strip()


def test_bad_input_is_one_sentence(bench, workdir, tmp_path, write_tiny):
    model = ["--model", workdir / "model"]
    spec = write_tiny(tmp_path)
    run = ["run", "-b", spec, *model]
    assert "no method 'dpoo'; did you mean 'dpo'?" in bad(bench, tmp_path, *run, "-m", "ppo,dpoo")
    assert "no benchmark 'quik', by name or as a YAML file; did you mean 'quick'?" in bad(
        bench, tmp_path, "run", "-b", "quik", "-m", "dpo"
    )
    assert "needs a model; give it with --model" in bad(bench, tmp_path, "run", "-b", spec, "-m", "dpo")
    assert "there is no such folder, and it did not come from the hub" in bad(
        bench, tmp_path, "run", "-b", spec, "--model", "nobody/nothing", "-m", "dpo"
    )
    assert "no config.json there" in bad(bench, tmp_path, "run", "-b", spec, "--model", tmp_path, "-m", "dpo")
    assert "--judge nobody/judge: there is no such folder" in bad(
        bench, tmp_path, *run, "-m", "dpo", "--judge", "nobody/judge"
    )
    assert "--device cuda:7 is not available" in bad(bench, tmp_path, *run, "-m", "dpo", "--device", "cuda:7")
    assert "holds no run" in bad(bench, tmp_path, "report", tmp_path / "nothing")
    assert "none.jsonl" in bad(bench, tmp_path, *run, "-m", "dpo", "--preferences", "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl" in bad(bench, tmp_path, *run, "-m", "dpo", "--preferences", "empty.jsonl")
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}))
    assert "prompts" in bad(bench, tmp_path, *run, "-m", "dpo", "--preferences", "one.jsonl")
    for changes, message in [
        ({"bugdet": 3}, "there is no field 'bugdet'; did you mean 'budget'?"),
        (
            {"sft": {"batch": 3}},
            "there is no field 'sft.batch'; did you mean 'batch_size'?",
        ),
        ({"budget": "many"}, "budget: input should be a valid integer"),
        ({"methods": {"dpo": {"betta": 1}}}, "dpo has no parameter 'betta'; did you mean 'beta'?"),
        ({"methods": {"dpo": {"beta": -1}}}, "beta: input should be greater than 0, not -1"),
        ({"methods": {"dpoo": {}}}, "methods.dpoo is not a method; did you mean 'dpo'?"),
        ({"evaluators": {"golden": {}}}, "no evaluator 'golden'; did you mean 'gold'?"),
        ({"max_prompt_tokens": 4}, "no pair can be used (120 prompt longer than 4 tokens, which max_prompt_tokens="),
        ({"max_prompt_tokens": 4000}, "reads at most 256 tokens"),
        (
            {"name": "mine quick"},
            "name: give letters, digits, dots, dashes and underscores, 64 at most, a letter or digit first",
        ),
    ]:
        write_tiny(tmp_path, **changes)
        assert message in bad(bench, tmp_path, *run, "-m", "dpo")
    Path(spec).write_text("a: [1\nb: 2")
    assert "tiny.yaml, line 2: not valid YAML" in bad(bench, tmp_path, *run, "-m", "dpo")
    # pairs that do not fit are told while they are written; of that only the lock's file stays
    assert all(path.name.startswith(".") for path in (tmp_path / "results").rglob("*") if path.is_file())


def test_a_folder_of_another_run_is_refused_and_kept(bench, workdir, tmp_path, write_tiny):
    spec = write_tiny(tmp_path)
    run = ["run", "-b", spec, "--model", workdir / "model", "-m", "orpo", "--out", tmp_path / "mine"]
    bench(*run, "--root", workdir / "results", cwd=tmp_path)
    before = folder_digest(tmp_path / "mine")
    write_tiny(tmp_path, budget=8)
    done = bench(*run, "--root", workdir / "results", cwd=tmp_path, code=2)
    assert "belongs to run" in done.stderr and "budget" in done.stderr.splitlines()[-1]
    assert folder_digest(tmp_path / "mine") == before


def test_a_model_without_a_chat_template_is_told(bench, workdir, tmp_path, make_tiny, write_tiny):
    make_tiny(tmp_path / "model", std=0.05, template=None)
    spec = write_tiny(tmp_path, max_response_tokens=80, max_prompt_tokens=170)
    done = bench("run", "-b", spec, "--model", tmp_path / "model", "-m", "orpo", "--json", cwd=tmp_path)
    assert any("has no chat template; the plain template" in w for w in json.loads(done.stdout)["warnings"])
