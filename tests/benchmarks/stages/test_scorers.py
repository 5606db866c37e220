"""A reward model named by the user evaluates; the training one is refused, or forced and stamped on every page."""

import json
from pathlib import Path

import pytest

STAMP = "Evaluated with the training reward model"


@pytest.fixture
def run(bench, tmp_path, write_tiny):
    """run(evaluators, *options): `bench run` of a tiny benchmark with these evaluators."""

    def run(evaluators, *options, code=0):
        others = {"gold": None, "divergence": None, "length": None}
        changes = {"max_response_tokens": 40, "budget": 8, "evaluation": {"prompts": 4}}
        write_tiny(tmp_path, **changes, evaluators={**others, **evaluators})
        command = ["run", "-b", "tiny.yaml", "--model", "model", "-m", "dpo", "--device", "cpu", "--json"]
        return bench(*command, *options, cwd=tmp_path, code=code)

    return run


@pytest.mark.figures
def test_the_training_reward_model_is_refused_or_stamped(run, tmp_path, make_tiny):
    make_tiny(tmp_path / "model", std=0.05)
    pairs = [{"prompt": f"Question {i}?", "chosen": "yes, it is", "rejected": "no", "subset": "s"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    evaluators = {"diversity": {"references": 2}, "implicit_reward": {}}
    first = json.loads(run(evaluators, "--external-pairs", "pairs.jsonl").stdout)
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
    refused = run(evaluators, "--reward-model", roles[1], code=2).stderr
    assert "is the reward model that the methods are trained on, so it cannot judge them" in refused.splitlines()[-1]
    forced = {"reward_model": {"allow_training_model": True}}
    outcome = json.loads(run(forced, "--reward-model", roles[1]).stdout)
    assert outcome["stamps"][0].startswith(STAMP) and outcome["run_id"] != first["run_id"]
    for name in ("index.html", "report.md"):
        assert STAMP in Path(outcome["run_dir"], "report", name).read_text()
