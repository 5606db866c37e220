"""A reward model named by the user evaluates; the training one is refused, or forced and stamped on every page."""

import json
from pathlib import Path

import yaml

SPEC = {
    "name": "own",
    "preferences": "builtin/world",
    "rows": 100,
    "max_prompt_tokens": 150,
    "max_response_tokens": 40,
    "sft": {"examples": 8, "lr": 1e-3, "batch_size": 8},
    "reward_model": {"examples": 8, "lr": 1e-3, "batch_size": 8},
    "budget": 8,
    "evaluation": {"prompts": 4},
    "methods": {"dpo": {"batch_size": 8}},
    "evaluators": {"reward_model": {}, "diversity": {"references": 2}, "implicit_reward": {}},
}
STAMP = "Evaluated with the training reward model"


def run_with(bench, folder: Path, spec: dict, *more, code=0):
    (folder / "own.yaml").write_text(yaml.safe_dump(spec))
    command = ["run", "-b", "own.yaml", "--model", "model", "-m", "dpo", "--device", "cpu", "--json"]
    return bench(*command, *more, cwd=folder, code=code)


def test_the_training_reward_model_is_refused_or_stamped(bench, tmp_path, make_tiny):
    make_tiny(tmp_path / "model", std=0.05)
    pairs = [{"prompt": f"Question {i}?", "chosen": "yes, it is", "rejected": "no", "subset": "s"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    first = json.loads(run_with(bench, tmp_path, SPEC, "--external-pairs", "pairs.jsonl").stdout)
    audited = first["reward_models"]
    assert set(audited["heldout"]["models"]) == {"training", "evaluation"} and first["stamps"] == []
    external = audited["external"]
    assert external["source"] == "pairs.jsonl" and external["left_out"] == 0
    assert external["models"]["evaluation"]["subsets"]["s"]["accuracy"]["n"] == 6
    assert external["models"]["evaluation"]["people_prefer_longer"]["mean"] == 1.0
    assert "win_rate.reward_model.training" in first["methods"]["dpo"]["metrics"]
    assert set(first["changes"]["distinct.1.across"]) == {"dpo"} and "win_rate.reward_model" in first["ties"]
    page = Path(first["run_dir"], "report", "index.html").read_text()
    assert "Reliability of the reward models" in page and STAMP not in page

    folders = [path.parent.parent for path in (tmp_path / "results/cache/reward_model").glob("*/model/config.json")]
    roles = {json.loads((f / "manifest.json").read_text())["inputs"]["seed"]: f / "model" for f in folders}
    refused = run_with(bench, tmp_path, SPEC, "--reward-model", roles[1], code=2).stderr
    assert "is the reward model that the methods are trained on, so it cannot judge them" in refused.splitlines()[-1]
    forced = {**SPEC, "evaluators": {"reward_model": {"allow_training_model": True}}}
    outcome = json.loads(run_with(bench, tmp_path, forced, "--reward-model", roles[1]).stdout)
    assert outcome["stamps"][0].startswith(STAMP) and outcome["run_id"] != first["run_id"]
    for name in ("index.html", "report.md"):
        assert STAMP in Path(outcome["run_dir"], "report", name).read_text()
