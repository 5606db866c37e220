"""Runs that start from the model as it is, train on a reward of the team's own, or imitate demonstrations."""

import json
from pathlib import Path

import pytest

from alignment_bench.benchmarks import harness
from alignment_bench.benchmarks.checks import check_start
from alignment_bench.benchmarks.data.corpus import rows_digest
from alignment_bench.benchmarks.definition.options import Options, chosen_spec
from alignment_bench.benchmarks.definition.rows import method_row
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.harness import Harness
from alignment_bench.benchmarks.request import Request
from alignment_bench.benchmarks.studies.axes import Study
from alignment_bench.benchmarks.world import true_reward
from alignment_bench.errors import InputError
from alignment_bench.results.records import win
from alignment_bench.results.store import folder_digest

TRUE = "alignment_bench.benchmarks.world:true_reward"


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_tiny):
    folder = tmp_path_factory.mktemp("start")
    make_tiny(folder / "model", std=0.05)
    return folder


def manifests(root, stage):
    return [json.loads(path.read_text()) for path in sorted(root.glob(f"cache/{stage}/*/manifest.json"))]


def test_no_sft_and_the_true_reward(bench, work, write_tiny, monkeypatch):
    """Nothing is trained that is not needed, every page says so, and another reward touches only what asks it."""
    evaluators = {"divergence": None, "length": None}
    write_tiny(work, budget=8, evaluation={"prompts": 4}, evaluators=evaluators, methods={"rloo": {"rollout_size": 8}})
    command = ["run", "-b", "tiny.yaml", "--model", "model", "-m", "rloo,dpo", "--no-sft", "--json"]
    summary = json.loads(bench(*command, "--set", f"training_reward={TRUE}", cwd=work).stdout)
    root, run = work / "results", Path(summary["run_dir"])
    model = folder_digest(work / "model")
    assert not manifests(root, "sft")
    assert [made["inputs"]["sft"] for made in manifests(root, "reward_model")] == [model]  # the one that evaluates
    rewards = {made["inputs"]["method"]: made["inputs"]["reward"] for made in manifests(root, "train")}
    assert rewards["dpo"] is None and rewards["rloo"]

    record = json.loads((run / "run.json").read_text())
    assert record["contract"]["sft"] == {"trained": False, "content": model}
    assert record["contract"]["training_reward"] == {"name": TRUE, "content": rewards["rloo"]}
    assert "training" not in record["contract"]["reward_model"] and "sft" not in record["contract"]["splits"]
    assert {name: row["needs"] for name, row in record["methods"].items()} == {
        "rloo": [], "dpo": ["reference log-probs"],
    }  # fmt: skip
    assert "SFT" not in summary["shared"]
    gates = {gate["name"]: gate for gate in summary["gates"]}
    assert list(gates) == ["sft", "training_reward", "reward_model.evaluation"]
    assert gates["sft"]["value"] is None and "compared with nothing" in gates["sft"]["text"]
    tiny = load_spec(str(work / "tiny.yaml"), {"model": str(work / "model")}, ["sft=null"])
    pairs = Harness(Request(tiny, (), 1, root, device="cpu", say=lambda line: None)).corpus.labelled
    rewards = [[true_reward(pair.prompt, text)["reward"] for text in (pair.chosen, pair.rejected)] for pair in pairs]
    assert gates["training_reward"]["value"] == pytest.approx(sum(win(*both) for both in rewards) / len(pairs))
    assert set(summary["reward_models"]["heldout"]["models"]) == {"training", "evaluation"}
    told = " ".join(summary["warnings"])
    assert "sft stands for model as it is" in told and f"rloo optimized {TRUE}, a function" in told
    assert "rloo optimized the true reward itself" in told
    for row in summary["methods"].values():  # by two ways
        assert row["metrics"]["reward.reward_model.training"]["mean"] == row["metrics"]["reward.gold"]["mean"]
    assert "nothing compared" in (run / "report/index.html").read_text()

    (work / "my_rewards.py").write_text("def constant(prompt, response):\n    return {'reward': 1}\n")
    monkeypatch.syspath_prepend(work)
    planned = json.loads(bench(*command, "--set", "training_reward=my_rewards:constant", "--dry-run", cwd=work).stdout)
    states = {step["stage"]: step["state"] for step in planned["steps"]}
    for stage in ("evaluation reward model", "sft seed 0, responses", "dpo seed 0, training", "dpo seed 0, gold"):
        assert states[stage] == "on disk"
    for stage in ("training reward on held-out pairs", "rloo seed 0, training", "dpo seed 0, training_reward_model"):
        assert states[stage] == "to do"
    assert "SFT" not in states and "training reward model" not in states
    assert any("sft stands for model as it is" in note for note in planned["notes"])


def test_adapters_on_the_model_as_it_is(work, write_tiny, monkeypatch):
    """`sft: null` in YAML; with a reward trained here. The policy is an adapter on the model that was given.

    And sums are in a forced order, which a key names.
    """
    forced = []
    monkeypatch.setattr(harness, "keep_order", lambda: forced.append(True))
    path = write_tiny(work, sft=None, tuning={"lora_rank": 4, "deterministic": True}, budget=8)
    spec, root = load_spec(str(path), {"model": str(work / "model")}), work / "lora"
    Harness(Request(spec, ("dpo",), 1, root, device="cpu", say=lambda line: None)).make(("dpo", 0))
    assert forced and manifests(root, "train")[0]["inputs"]["tuning"]["deterministic"] is True
    assert not manifests(root, "sft") and len(manifests(root, "reward_model")) == 2
    [adapter] = root.glob("cache/train/*/policy/adapter_config.json")
    assert Path(json.loads(adapter.read_text())["base_model_name_or_path"]) == (work / "model").resolve()


def test_sft_imitates_demonstrations(work, write_tiny):
    rows = [{"prompt": f"Question {i}?", "completion": "Answer."} for i in range(4)]
    (work / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    demonstrations = str(work / "told.jsonl")
    spec = load_spec(str(write_tiny(work, demonstrations=demonstrations)), {"model": str(work / "model")})
    harness = Harness(Request(spec, (), 1, work / "told", device="cpu", say=lambda line: None))
    harness.make_sft()
    [made] = manifests(work / "told", "sft")
    assert made["inputs"]["train"] == rows_digest(list(harness.corpus.demonstrations))
    assert harness.corpus.record["demonstrations"]["used"] == 4
    assert harness.notes[0] == f"demonstrations that SFT imitates: 4 of 4 rows of {demonstrations}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["demonstrations=x.jsonl", "sft=null"], "demonstrations are for SFT, and none is trained"),
        (["demonstrations=x.jsonl", "sft.replies=both"], "demonstrations have one reply each"),
        (["splits.sft=0"], r"--set splits.sft=0: SFT has no pairs to imitate \(splits.sft: 0\)"),
        (["training_reward=a:b"], "ppo:critic_start=reward_model .* training_reward takes its place"),
    ],
)
def test_what_does_not_go_together_is_told(options, said):
    spec = load_spec("quick", settings=options)
    row = method_row(spec, "ppo:critic_start=reward_model")
    with pytest.raises(InputError, match=said):
        check_start(spec, {row.label: row.method})


def test_what_goes_together(work):
    for options in (["splits.sft=0", "sft=null"], ["splits.sft=0", "demonstrations=x.jsonl", "sft.replies=chosen"]):
        check_start(load_spec("quick", settings=options), {})
    assert chosen_spec("quick", ["dpo"], Options(no_sft=True)).sft is None
    spec = chosen_spec("quick", ["dpo"], Options(no_sft=True))
    with pytest.raises(InputError, match="per_seed names sft, and no SFT is trained"):
        Study("x", spec, ("dpo",), 2, (), ("sft",))
