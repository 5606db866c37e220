"""Refusals of `bench export` and `--judge-until-decided`, before anything is loaded or trained."""

import pytest
import yaml
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.definition.spec import SUITES
from alignment_bench.errors import InputError
from alignment_bench.results.run_folder import Run


def refused(*arguments) -> str:
    outcome = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(outcome.exception, InputError), outcome.output
    return str(outcome.exception)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    Run(folder).open(
        {"run_id": "r", "created": "2026-01-01T00:00:00+00:00", "commands": [], "contract": {}, "methods": {}}
    )
    return folder


def test_export_refuses(run, tmp_path):
    assert "--format csv is not known; give alpaca_eval or arena" in refused("export", run, "--format", "csv")
    assert "goes with --questions" in refused("export", run, "--format", "arena", "--max-new-tokens", 9)
    assert "holds no run" in refused("export", tmp_path / "none", "--format", "arena")
    Run(tmp_path / "other").open({"run_id": "s", "commands": [], "contract": {}, "methods": {}, "created": ""})
    assert "holds 2 runs" in refused("export", tmp_path, "--format", "arena")
    assert "holds no trained policy" in refused("export", run, "--format", "arena")


def test_a_place_that_cannot_be_written_is_told(bench, run, tmp_path):
    done = bench("report", run, "--out", "/dev/null/page", cwd=tmp_path, code=2)
    assert done.stderr == "bench: /dev/null/page: Not a directory; fix that, and give the command again\n"


def test_judging_until_decided_needs_a_judge(tmp_path):
    spec = yaml.safe_load((SUITES / "quick.yaml").read_text())
    del spec["evaluators"]["judge"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
    arguments = ("run", "-m", "dpo", "-b", tmp_path / "mine.yaml", "--judge-until-decided", "--root", tmp_path)
    assert "--judge-until-decided needs a judge, and quick has none; give one with --judge" in refused(*arguments)
