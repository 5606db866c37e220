"""Ctrl-C in a terminal: one sentence, nothing lost, and in the end the same as if nobody had pressed it."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "interrupt_and_resume.py"
SAVED, KEPT = (
    "which is saved; the same command goes on from there",
    "interrupted; finished stages are kept, the same command",
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("own", [[], pytest.param(["slic"], marks=pytest.mark.slow)], ids=["ours", "and one apart"])
def test_ctrl_c_wherever_a_run_is(tmp_path, make_tiny, own):
    """Pressed in one moment after another of a run; it ends as one that was left alone.

    own: methods that train in a process of their own.
    """
    if set(own) - {e.name for e in entry_points(group="alignment_bench.methods")}:
        pytest.skip("the example plugin is not installed; pip install ./tests/plugin")
    command = [sys.executable, str(SCRIPT), str(make_tiny(tmp_path / "model", std=0.05)), str(tmp_path), *own]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    *rows, outcome = map(json.loads, done.stdout.splitlines())
    found = {row["moment"]: row for row in rows}
    for row in rows:
        assert not [line for line in row["shown"] if "Traceback" in line or "KeyboardInterrupt" in line], row["moment"]
        assert not [line for line in row["shown"] if " failed" in line], row["moment"]
    expected = {"SFT": SAVED, "training, twice": KEPT, "training": SAVED, "responses": KEPT, "scores": KEPT}
    expected |= {f"start of {name}": KEPT for name in own} | {f"training of {name}": SAVED for name in own}
    assert list(found) == [*expected, "none", "whole"]
    for moment, said in expected.items():
        row = found[moment]
        assert row["code"] == 130 and row["pressed"] == 1 + ("twice" in moment), (moment, row["shown"][-3:])
        assert row["shown"][-1].startswith("bench: ") and said in row["shown"][-1], moment
        assert row["steps"] or said == KEPT, moment
    assert found["none"]["code"] == found["whole"]["code"] == 0
    assert outcome["same"] and outcome["files"] > 0
