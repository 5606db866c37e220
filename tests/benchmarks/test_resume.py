"""Trainings that are killed at random moments end with the weights, log and costs of one that never was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_and_resume.py"
KILLS = 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments(tiny, tmp_path):
    """At least twenty processes a stage are killed, each at a random function call, rollout and saving included."""
    stages = ("sft", "reward_model", "dpo", "orpo", "ppo")
    command = [sys.executable, str(SCRIPT), str(tiny.path), str(tmp_path), str(KILLS), *stages]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["stage"] for row in found] == list(stages)
    for row in found:
        assert row["same"], row
        assert row["killed"] >= KILLS
        assert row["files"] >= 1
