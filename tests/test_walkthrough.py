"""The documented way from a model to a comparison, run as it is written, on a benchmark of a few rows."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "preferences.md"


def commands() -> list[list[str]]:
    """The lines of the page's first code block, without the leading `bench`."""
    block = re.search(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    return [shlex.split(line, comments=True)[1:] for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def small(tmp_path):
    """A benchmark like `quick`, small enough for a test."""
    spec = {
        "name": "small", "model": "builtin/base_model", "preferences": "builtin/world",
        "rows": 300, "max_prompt_tokens": 64, "max_response_tokens": 40,
        "sft": {"examples": 320, "lr": 1e-3, "batch_size": 16, "replies": "both"},
        "reward_model": {"examples": 16, "lr": 1e-3, "batch_size": 8}, "budget": 16, "evaluation": {"prompts": 4},
        "methods": {"dpo": {"lr": 1e-3, "batch_size": 8}},
        "evaluators": {"reward_model": {}, "length": {},
                       "gold": {"reward": "alignment_bench.benchmarks.world:true_reward"}},
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(spec))
    return str(tmp_path / "small.yaml")


def test_the_documents_go_from_a_model_to_a_report(small, tmp_path, monkeypatch):
    from alignment_bench.benchmarks.cli.main import app

    monkeypatch.chdir(tmp_path)
    lines = commands()
    assert [line[0] for line in lines] == ["collect", "label", "label", "convert", "run"]
    for line in lines:
        line = [small if word == "quick" else word for word in line]
        done = CliRunner().invoke(app, line, catch_exceptions=False)
        assert done.exit_code == 0, done.output

    record = json.loads((tmp_path / "collected" / "collection.json").read_text())
    counts = record["counts"]
    assert counts["sampled"] == 4 * counts["prompts"] and counts["pairs"] > 20
    assert record["temperatures"] == [0.7, 1.0] and record["top_p"] == 0.95
    pairs = {json.loads(line)["id"] for line in (tmp_path / "collected" / "items.jsonl").read_text().splitlines()}
    people = sorted((tmp_path / "collected" / "labels").glob("*.jsonl"))
    assert [path.stem for path in people] == ["ann", "ben"]
    for path in people:
        assert {json.loads(line)["item"] for line in path.read_text().splitlines()} == pairs
    assert (tmp_path / "pairs.parquet").exists()
    summary = next(tmp_path.glob("results/runs/small/*/summary.json"))
    assert "dpo" in json.loads(summary.read_text())["methods"]
    run = json.loads((summary.parent / "run.json").read_text())
    assert run["data"]["source"] == "collected/labels" and run["data"]["read"] == 2 * len(pairs)
    assert (summary.parent / "report" / "index.html").exists()
