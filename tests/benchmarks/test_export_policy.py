"""A trained policy as a folder that plain transformers or peft load, from wherever it was moved to."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment_bench.benchmarks.api import Results
from alignment_bench.benchmarks.export_policy import export_policy
from alignment_bench.errors import InputError
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning
from alignment_bench.reports.render import render
from alignment_bench.results.adapters import ADAPTER, NAMED, set_base
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import COST, MODEL, POLICY, Store

TUNING = Tuning(lora_rank=2, lora_alpha=8.0, precision="fp32", device="cpu")
IDS = torch.tensor([[0, 40, 41, 42, 50, 60]])
ROW = {"name": "dpo", "params": {}, "description": ""}
THEIRS = {"name": "theirs", "params": {"policy": "owner/theirs"}, "description": "", "trained_here": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_tiny):
    """A run with an adapter on its SFT checkpoint (dpo), a whole model (full), and one that trained nothing."""
    root = tmp_path_factory.mktemp("export")
    store = Store(root / "results")
    sft = store.stage("sft", {}, lambda out: make_tiny(out / MODEL, seed=1))

    def adapter(out):
        policy = Policy.open(Checkpoint(sft.path / MODEL, "sft"), TUNING, trainable=True)
        for parameter in policy.network.parameters:
            torch.nn.init.normal_(parameter, std=0.1)
        policy.save(out / POLICY)
        policy.network.close()

    def whole(out, steps):
        make_tiny(out / POLICY, seed=2)
        (out / COST).write_text(json.dumps({"optimizer_steps": steps}))

    run = Run(root / "results" / "runs" / "b" / "r")
    methods = {"dpo": ROW, "full": ROW, "best_of_n": ROW, "theirs": THEIRS}
    contract = {"model": "owner/base", "benchmark": "b", "tuning": TUNING.identity()}
    run.open({"run_id": "r", "benchmark": "b", "created": "", "commands": [], "contract": contract, "methods": methods})
    run.place("dpo", 1, [store.stage("train", {"m": "dpo"}, adapter)])
    run.place("full", 0, [store.stage("train", {"m": "full"}, lambda out: whole(out, 3))])
    run.place("best_of_n", 0, [store.stage("train", {"m": "n"}, lambda out: whole(out, 0))])
    return run


@pytest.fixture(scope="module")
def expected(run):
    """Logits of the adapter's policy by our own passes, with the root where it was made."""
    policy = Policy.open(Checkpoint(run.path / "dpo" / "seed-1" / POLICY, ""), TUNING, trainable=False)
    ids = tuple(IDS[0].tolist())
    logits = policy.logits([(ids[:1], ids[1:])]).detach().clone()
    policy.network.close()
    return logits


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits[0, :-1]


def test_a_run_that_was_moved_still_opens_its_policies(run, expected, tmp_path):
    shutil.copytree(run.path, tmp_path / "moved")
    policy = Policy.open(Checkpoint(tmp_path / "moved" / "dpo" / "seed-1" / POLICY, ""), TUNING, trainable=False)
    ids = tuple(IDS[0].tolist())
    torch.testing.assert_close(policy.logits([(ids[:1], ids[1:])]), expected)
    policy.network.close()


def test_an_adapter_takes_its_base_along(run, expected, tmp_path):
    """Moved to another place, plain peft loads it by the lines that its README and the command show."""
    said = export_policy(run, "dpo", 1, tmp_path / "out")
    assert said[0] == f"dpo seed 1: {tmp_path / 'out'}"
    assert str(tmp_path / "out" / "base") in said[-1] and "PeftModel.from_pretrained(base, " in said[-1]
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert json.loads((moved / ADAPTER).read_text())[NAMED] == "base"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(moved / "base"), moved)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert (
        AutoTokenizer.from_pretrained(moved).chat_template
        == AutoTokenizer.from_pretrained(moved / "base").chat_template
    )
    assert (moved / "generation_config.json").exists() and not list(moved.rglob("manifest.json"))
    readme = (moved / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: peft\n---\n") and "from owner/base" in readme
    lines = readme.partition("```python\n")[2].partition("```")[0].replace('folder = "."', f"folder = {str(moved)!r}")
    space: dict = {}
    exec(lines, space)
    torch.testing.assert_close(logits(space["model"]), expected, rtol=1e-4, atol=1e-4)
    for file in moved.rglob("*.json"):
        assert str(run.path.parents[2]) not in file.read_text()  # no path of this machine


def test_merged_it_is_a_plain_model(run, expected, tmp_path):
    said = export_policy(run, "dpo", 1, tmp_path / "out", merge=True)
    assert "PeftModel" not in said[-1]
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert not list(moved.glob("adapter_*")) and not (moved / "base").exists()
    model = AutoModelForCausalLM.from_pretrained(moved)
    ours, theirs = torch.log_softmax(logits(model), -1), torch.log_softmax(expected, -1)
    assert (ours - theirs).abs().max() < 1e-4
    base = AutoModelForCausalLM.from_pretrained(run.path / "sft" / "model")
    assert (torch.log_softmax(logits(base), -1) - theirs).abs().max() > 0.1  # the adapter is in there
    assert AutoTokenizer.from_pretrained(moved).chat_template
    assert (moved / "generation_config.json").exists()


def test_a_whole_model_is_copied(run, tmp_path):
    Results(run).export_policy("full", tmp_path / "out", merge=True)
    for file in (run.path / "full" / "seed-0" / POLICY).iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_choice_of_responses_is_told_to_be_the_sft_checkpoint(run, tmp_path):
    assert (
        "best_of_n trains nothing: this is the SFT checkpoint" in export_policy(run, "best_of_n", 0, tmp_path / "o")[1]
    )
    assert not any("trains nothing" in line for line in export_policy(run, "full", 0, tmp_path / "f"))


def test_a_base_from_the_hub_is_named_by_its_id(run, tmp_path, make_tiny):
    """Where SFT is the hub's model as it is, no copy is made, and the commit is kept."""
    snapshot = tmp_path / "hub" / "models--owner--some-name" / "snapshots" / ("ab" * 20)
    shutil.copytree(run.path / "sft" / "model", snapshot)
    shutil.copytree(run.path, tmp_path / "run", copy_function=shutil.copy2)
    other = Run(tmp_path / "run")
    store = Store(tmp_path / "results")

    def adapter(out):
        shutil.copytree(run.path / "dpo" / "seed-1" / POLICY, out / POLICY)
        set_base(out / POLICY, str(snapshot))

    other.place("dpo", 2, [store.stage("train", {}, adapter)])
    said = export_policy(other, "dpo", 2, tmp_path / "out")
    config = json.loads((tmp_path / "out" / ADAPTER).read_text())
    assert (config[NAMED], config["revision"]) == ("owner/some-name", "ab" * 20)
    assert not (tmp_path / "out" / "base").exists() and "from_pretrained('owner/some-name')" in said[-1]


def test_refusals(run, tmp_path, bench, monkeypatch):
    to = tmp_path / "out"
    for row, seed, message in [
        ("dpp", 0, "--policy dpp is no row of"),
        ("dpo", 0, "holds no policy of dpo with seed 0; seeds that it has: 1"),
        ("theirs", 0, "theirs was not trained here; take it from where it is: owner/theirs"),
    ]:
        with pytest.raises(InputError, match=message):
            export_policy(run, row, seed, to)
    with pytest.raises(InputError, match="--push owner/x names no model of the hub; give hub:OWNER/NAME"):
        export_policy(run, "full", 0, to, push="owner/x")
    shutil.copytree(run.path, tmp_path / "hurt")
    (tmp_path / "hurt" / "full" / "seed-0" / POLICY / "config.json").write_text("{}")
    with pytest.raises(InputError, match="config.json is damaged"):
        export_policy(Run(tmp_path / "hurt"), "full", 0, to)
    assert not to.exists()
    with pytest.raises(InputError, match="is there already and not empty"):
        export_policy(run, "full", 0, run.path)
    export = ["export", run.path]
    said = bench(*export, cwd=tmp_path, code=2).stderr
    assert "say what to export" in said
    assert "say what to export" in bench(*export, "--policy", "full", "--format", "arena", cwd=tmp_path, code=2).stderr
    assert "--policy needs --to" in bench(*export, "--policy", "full", cwd=tmp_path, code=2).stderr
    # the hub's client is offline in tests: what was written stays
    said = bench(*export, "--policy", "full", "--to", to, "--push", "hub:owner/x", cwd=tmp_path, code=2).stderr
    assert (
        "the hub did not take owner/x (" in said and f"the policy lies in {to}" in said and len(said.splitlines()) == 1
    )
    assert (to / "model.safetensors").exists()


def test_push(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, *a, **k: asked.append((a, k)))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **k: asked.append(k))
    said = export_policy(run, "full", 0, tmp_path / "out", push="hub:owner/x")
    assert asked[0] == (("owner/x",), {"private": True, "exist_ok": True})
    assert (asked[1]["repo_id"], asked[1]["folder_path"]) == ("owner/x", tmp_path / "out")
    assert "uploaded to owner/x" in said


def test_the_report_names_every_policy_and_how_it_is_loaded(run):
    render([run], formats=("html", "md"))
    for page in ("index.html", "report.md"):
        text = (run.report_path / page).read_text()
        assert "dpo/seed-1/policy" in text and "full/seed-0/policy" in text and "sft/model" in text
        assert "bench export RUN --policy ROW --seed N --to FOLDER" in text
        assert "PeftModel.from_pretrained(base, " in text
