"""Draws README's picture, the state of the methods, from what is published: `python docs/picture.py`."""

from pathlib import Path

from alignment_bench.benchmarks.studies.outcomes import sources
from alignment_bench.reports.drawing import save
from alignment_bench.reports.state import state_chart

ROOT = Path(__file__).parent.parent

if __name__ == "__main__":
    save(state_chart(sources()), ROOT / "docs" / "assets" / "state.svg")
