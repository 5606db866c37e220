"""Kinds of faults, each tried a few times; results/published/faults.json has more, by `python tests/faults`."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
PUBLISHED = FAULTS.parents[1] / "results" / "published" / "faults.json"
TRAININGS = ("sft", "dpo", "ppo")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def survived(*kinds: str, times: int) -> dict[str, int]:
    """How often each kind was tried, in a process of its own, which may fork; AssertionError if not all survived."""
    command = [sys.executable, str(FAULTS), "--times", str(times), "--only", *kinds]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = re.findall(r"^(.*): tried (\d+), survived (\d+)$", done.stdout, re.M)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert [tried for _, tried, _ in found] == [number for _, _, number in found]
    return {name: int(tried) for name, tried, _ in found}


def test_trainings_that_are_killed_at_random_moments():
    """Some processes a stage are killed, each at a random function call, rollout and saving included."""
    found = survived(*(f"killed in {name}" for name in TRAININGS), times=2)
    assert len(found) == len(TRAININGS) and min(found.values()) >= 2


def test_what_is_around_training():
    """Labelling; input that is broken; code that changed between a kill and going on."""
    assert len(survived("killed while a model", "broken", "code", times=2)) == 5


@pytest.mark.slow
def test_all_that_trains_many_times():
    """Runs and tunings among them: trials, picking and the winners' run."""
    found = survived(*(f"killed in {name}" for name in (*TRAININGS, "reward_model", "orpo", "run", "tune")), times=5)
    assert len(found) == 7 and min(found.values()) >= 5


def test_the_page_is_made_of_the_json_and_every_row_is_of_a_kind_that_is_there(monkeypatch):
    monkeypatch.syspath_prepend(str(FAULTS))
    found = json.loads(PUBLISHED.read_text())
    assert PUBLISHED.with_suffix(".md").read_text() == importlib.import_module("harness").page(found)
    listed = subprocess.run([sys.executable, str(FAULTS), "--list"], capture_output=True, text=True, check=True)
    names = [line for line in listed.stdout.splitlines() if not line.startswith("[")]
    assert {row["kind"] for row in found["kinds"]} <= {*names}
    assert all(row["survived"] == row["tried"] > 0 for row in found["kinds"])
