"""Kinds of faults, each tried a few times; `python tests/faults --times N` tries more, as results/published/faults.json."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
PUBLISHED = FAULTS.parents[1] / "results" / "published" / "faults.json"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def tried(*kinds: str, times: int) -> dict[str, tuple[int, int]]:
    """Kind -> (tried, survived), from the script in a process of its own, which may fork."""
    command = [sys.executable, str(FAULTS), "--times", str(times), "--only", *kinds]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = re.findall(r"^(.*): tried (\d+), survived (\d+)$", done.stdout, re.M)
    assert done.returncode == 0 and found, done.stdout[-2000:] + done.stderr[-2000:]
    return {name: (int(count), int(survived)) for name, count, survived in found}


def test_input_is_told():
    found = tried("broken", "records", times=8)
    assert len(found) == 4 and all(count >= 8 and survived == count for count, survived in found.values())


def test_the_page_is_made_of_the_json():
    sys.path.insert(0, str(FAULTS))
    try:
        from harness import page
    finally:
        sys.path.remove(str(FAULTS))
    found = json.loads(PUBLISHED.read_text())
    assert PUBLISHED.with_suffix(".md").read_text() == page(found)
    assert all(row["tried"] >= row["survived"] >= 0 and row["tried"] for row in found["kinds"])
