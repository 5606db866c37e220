"""The table of known optima: a long run that goes on where it was stopped, and mixes no two worlds."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest

from alignment_bench.benchmarks.selfcheck import optimum_table
from alignment_bench.benchmarks.selfcheck.check import Finding, Report
from alignment_bench.benchmarks.selfcheck.optimum import Distance
from alignment_bench.errors import TrainingError

REPORT = Report(
    "dpo", {"beta": 0.5}, 0, Distance(2.0, 0.0, 0.1), [(64, Distance(0.01, 2.5, 2.0))], 0.02, "pi*",
    [Finding("loads", True, "")], 30.0,
)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(optimum_table, "PUBLISHED", tmp_path)
    asked = []

    def check(name, seed, shares, conformance):
        asked.append((name, seed, conformance))
        if stop and len(asked) == stop[0]:
            raise KeyboardInterrupt
        end = Distance(0.01 * (seed + 1), 2.5, 2.0)
        return replace(REPORT, method=name, seed=seed, curve=[(64, end)], findings=REPORT.findings * conformance)

    monkeypatch.setattr(optimum_table, "check", check)
    monkeypatch.setattr(optimum_table, "settings_of", lambda name: REPORT.settings)
    stop: list[int] = []

    def go(names, at=None):
        monkeypatch.setattr("sys.argv", ["optimum_table", names])
        stop[:] = [at] if at else []
        asked.clear()
        with suppress(KeyboardInterrupt):
            optimum_table.main()
        return asked, json.loads((tmp_path / "optimum.json").read_text())

    yield go


def test_a_run_that_was_stopped_goes_on_and_asks_for_nothing_twice(run, monkeypatch):
    asked, found = run("dpo,ppo", at=4)
    assert asked == [("dpo", 0, True), ("ppo", 0, True), ("dpo", 1, False), ("ppo", 1, False)]
    assert [len(found[name]["seeds"]) for name in ("dpo", "ppo")] == [2, 1]
    asked, found = run("dpo,ppo")
    assert asked == [("ppo", 1, False), ("dpo", 2, False), ("ppo", 2, False)]
    assert [seed["kl_to_optimum"] for seed in found["ppo"]["seeds"]] == [0.01, 0.02, 0.03]
    assert (found["ppo"]["promises_kept"], found["ppo"]["promises"]) == (1, 1)
    page = (optimum_table.PUBLISHED / "optimum.md").read_text()
    assert "| dpo | 0.0200 | 0.0100 to 0.0300 | 3 | 2.00 | at most 0.02, missed | 64 | 1 of 1 | pi* |" in page
    assert run("dpo")[0] == []
    monkeypatch.setattr(optimum_table, "settings_of", lambda name: {"beta": 0.4})  # the check has other settings now
    assert [seed for _, seed, _ in run("dpo")[0]] == [0, 1, 2]


def test_a_method_that_cannot_be_checked_here_is_one_sentence_and_no_row(run, monkeypatch, capsys):
    check = optimum_table.check

    def without_trl(name, **how):
        if name == "trl-kto":
            raise TrainingError("TRL is not installed")
        return check(name, **how)

    monkeypatch.setattr(optimum_table, "check", without_trl)
    assert run("trl-kto,dpo")[1].keys() - {"sha256"} == {"dpo"}
    assert "trl-kto 0 TRL is not installed" in capsys.readouterr().out


def test_a_seed_that_ends_too_far_away_is_called_a_miss():
    row = optimum_table.joined(optimum_table.joined(None, REPORT), replace(REPORT, seed=1))
    assert "| at most 0.02 |" in optimum_table.page({"dpo": row})
    row["seeds"][1]["kl_to_optimum"] = 0.021
    assert "| at most 0.02, missed |" in optimum_table.page({"dpo": row})


def test_rows_of_another_world_or_with_other_settings_are_not_joined(run, tmp_path, monkeypatch):
    run("dpo,ppo", at=3)
    with monkeypatch.context() as other:
        other.setattr(optimum_table, "SEEDS", 1)
        other.setattr(optimum_table, "WORLD", {"responses": 3})
        assert run("dpo")[1].keys() - {"sha256"} == {"dpo"}  # ppo's row was of the former world
    row = optimum_table.joined(None, REPORT)
    assert len(optimum_table.joined(row, replace(REPORT, seed=1))["seeds"]) == 2
    assert len(optimum_table.joined(row, replace(REPORT, seed=1, settings={"beta": 0.4}))["seeds"]) == 1
