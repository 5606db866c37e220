"""Draws README's picture from a published run: `python docs/picture.py`."""

import json
from pathlib import Path

from alignment_bench.reports.drawing import save, styles
from alignment_bench.reports.figures import quality_against_cost

ROOT = Path(__file__).parent.parent

if __name__ == "__main__":
    summary = json.loads((ROOT / "results" / "published" / "quick_tuned.json").read_text(encoding="utf-8"))
    figure = quality_against_cost(summary, styles(summary["methods"]))
    assert figure  # that run has costs and win rates
    (chart,) = (chart for chart in figure.charts if chart.key == "cost-flops")
    save(chart, ROOT / "docs" / "assets" / "quick_tuned.svg")
