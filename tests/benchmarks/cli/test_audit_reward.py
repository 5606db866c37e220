"""`bench audit-reward`: what it prints of a finished run, and runs that it refuses."""

import json

from typer.testing import CliRunner

from alignment_bench.analysis.reward_audit import ScoredPair, audit_reward_model, compare_reward_models
from alignment_bench.benchmarks.cli.main import app
from alignment_bench.results.integrity import write_record

PAIRS = [ScoredPair(f"p{i}", ("helpful", "harmless")[i % 2], i % 3, 1.5, 4 + i % 2, 4) for i in range(12)]
OTHER = [ScoredPair(f"p{i}", None, i % 4, 1.5, 4, 4) for i in range(12)]


def told(folder, *options, audit=True, **more):
    """The command on a run whose row "bad" is below SFT in truth and above it by the reward model."""
    cells = {"win_rate.reward_model": 0.7, "win_rate.gold": 0.3}
    metrics = {name: {"mean": mean, "low": mean - 0.1, "high": mean + 0.1} for name, mean in cells.items()}
    audited = {"training": audit_reward_model(PAIRS), "evaluation": audit_reward_model(OTHER)}
    summary = {
        "methods": {"sft": {"metrics": {}}, "bad": {"metrics": metrics}},
        "reward_models": {"heldout": {"models": audited, **compare_reward_models(PAIRS, OTHER)}} if audit else {},
        **more,
    }
    write_record(folder / "run.json", {"run_id": "x"})
    write_record(folder / "summary.json", summary)
    return CliRunner().invoke(app, ["audit-reward", str(folder), *options])


def test_the_audit_of_a_run_is_printed(tmp_path):
    """The first model is right of i % 3 == 2, four of twelve; lengths are equal for even i and 5 to 4 for odd."""
    shown = told(tmp_path).stdout
    assert "training reward model: accuracy 0.333 [" in shown and "of 12 pairs" in shown
    assert "taking the longer reply alone 0.750 [" in shown and "helpful: 0.333 [" in shown
    assert "mistakes of the two correlate by phi = " in shown
    assert "bad" in shown
    assert "0.700  0.300  RUINED: below SFT by the true reward, above it by the reward model" in shown


def test_a_reward_that_was_brought_is_not_called_a_model(tmp_path):
    shown = told(tmp_path, contract={"training_reward": {"name": "package.module:function"}}).stdout
    assert "training reward: accuracy 0.333 [" in shown and "evaluation reward model: accuracy" in shown


def test_json_has_all_of_it(tmp_path):
    found = json.loads(told(tmp_path, "--json").stdout)
    assert found["rows"] == {
        "rows": [{"row": "bad", "learnt": 0.7, "truth": 0.3, "is_ruined": True, "is_missed": True}], "tau": None
    }  # fmt: skip
    assert set(found["pairs"]["heldout"]["models"]) == {"training", "evaluation"}


def test_a_run_without_an_audit_is_told(tmp_path):
    failed = told(tmp_path, audit=False)
    assert failed.exit_code and "has no audit of its reward models; give its `bench run` command again" in str(
        failed.exception
    )
