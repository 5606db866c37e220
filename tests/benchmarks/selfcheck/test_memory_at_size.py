"""The published memory of training steps: its page, and a figure of it counted anew."""

import dataclasses
import json

from alignment_bench.benchmarks.selfcheck import memory_at_size

FOUND = json.loads((memory_at_size.PUBLISHED / "memory.json").read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_figures():
    page = (memory_at_size.PUBLISHED / "memory.md").read_text(encoding="utf-8")
    assert memory_at_size.page(FOUND) == page
    assert len(FOUND["steps"]) == len(memory_at_size.SIZES) * len(memory_at_size.RANKS) * len(memory_at_size.KINDS)


def test_the_figures_are_those_of_this_code():
    """One of them, within what other versions of torch and transformers may change."""
    row = next(r for r in FOUND["steps"] if (r["size"], r["way"], r["method"]) == ("7B", "full", "DPO"))
    again = dataclasses.asdict(memory_at_size.count("7B", "full", "DPO", again=True))
    assert again.keys() == row["again"].keys()
    for name, figure in again.items():
        assert abs(figure - row["again"][name]) <= 0.05 * figure, name
