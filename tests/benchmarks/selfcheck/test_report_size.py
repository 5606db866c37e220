"""What a large run's report costs is measured on made-up runs, which our own code reads and sums up."""

import pytest

from alignment_bench.benchmarks.selfcheck import report_size
from alignment_bench.benchmarks.selfcheck.report_size import make_run, measured, sum_up


def test_a_made_up_run_is_summed_up_as_any_other(tmp_path):
    run = make_run(tmp_path, rows=2, seeds=2, prompts=6)
    sum_up(run.path)
    summary = run.summary
    assert list(summary["methods"]) == ["sft", "dpo_beta=0", "dpo_beta=1"]
    assert {row["seeds"] for row in summary["methods"].values()} == {2}
    pairs = [(row["a"], row["b"]) for row in summary["comparisons"] if row["metric"] == "win_rate.gold"]
    assert len(pairs) == 3 and summary["methods"]["dpo_beta=1"]["metrics"]["kl"]["n"] == 12
    again = make_run(tmp_path / "again", rows=2, seeds=2, prompts=6)
    assert again.scores().equals(run.scores())  # of the same shape the same numbers


def test_a_command_that_fails_is_told_and_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(report_size.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="-m alignment_bench report .* ended with 1"):
        measured(tmp_path, ("report",))
