"""The page on PPO: every setting that PPO has stands on it, and every test that it names is there."""

import dataclasses
import re
from pathlib import Path

from alignment_bench.benchmarks.definition.rows import method_row
from alignment_bench.benchmarks.studies.axes import read_study
from alignment_bench.methods.ppo import PPO

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ppo.md").read_text()


def test_all_settings_and_no_others_are_on_the_page():
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert named == {field.name for field in dataclasses.fields(PPO)}
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)


def test_the_tests_that_it_names_are_there():
    there = {
        name
        for path in (ROOT / "tests" / "methods").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15 and named <= there


def test_the_ablation_changes_one_setting_a_row():
    study = read_study("ppo_details")
    assert "bench study ppo_details" in PAGE
    rows = [method_row(study.spec, item) for item in study.methods]
    first = dataclasses.asdict(rows[0].method)
    for row in rows[1:]:
        changed = [name for name, value in dataclasses.asdict(row.method).items() if value != first[name]]
        assert len(changed) == 1 and changed[0] in row.label
