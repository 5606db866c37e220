"""The published memory of training steps: its page, and a figure of it counted anew."""

import dataclasses
import json
import re

from alignment_bench.benchmarks.cost.step_cost import GIB, StepCost
from alignment_bench.benchmarks.selfcheck import memory_at_size

FOUND = json.loads((memory_at_size.PUBLISHED / "memory.json").read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_figures():
    page = (memory_at_size.PUBLISHED / "memory.md").read_text(encoding="utf-8")
    assert memory_at_size.page(FOUND) == page
    trainings = len(memory_at_size.SIZES) * 2 + len(memory_at_size.QLORA)  # LoRA and full, and some QLoRA
    assert len(FOUND["steps"]) == trainings * len(memory_at_size.KINDS)


def test_a_card_of_24_holds_7b_on_a_base_in_four_bits():
    """At nine tenths of 24 GiB, which is what a training may take, with passes of 8,192 tokens."""
    peaks = {r["method"]: r["again"]["peak"] / GIB for r in FOUND["steps"] if r["way"] == "QLoRA"}
    assert peaks.keys() == memory_at_size.KINDS.keys() and max(peaks.values()) < 0.9 * 24


def test_the_documentation_says_these_figures():
    """Each row of docs/scale.md: LoRA and full on one GPU, and on each of eight."""
    page = (memory_at_size.PUBLISHED.parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| (\S+B) \| (SFT|DPO|PPO)(?:, ORPO)? \| (.*) \|$", page, re.MULTILINE)
    assert len(said) == 3 * len(memory_at_size.SIZES)
    for size, name, figures in said:
        costs = {r["way"]: StepCost(**r["again"]) for r in FOUND["steps"] if (r["size"], r["method"]) == (size, name)}
        kind = memory_at_size.KINDS[name][0]
        expected = [n for way in ("LoRA", "full") for n in (costs[way].peak, costs[way].on_each(8, kind))]
        assert figures.split(" | ") == [f"{n / GIB:,.1f}" for n in expected], (size, name)


def test_eight_cards_of_80_gb_hold_what_they_should():
    """7B in full by PPO, and 70B with LoRA by every method; 90% of a card's memory counts as room."""
    held = [r for r in FOUND["steps"] if (r["size"], r["way"], r["method"]) == ("7B", "full", "PPO")]
    held += [r for r in FOUND["steps"] if (r["size"], r["way"]) == ("70B", "LoRA")]
    assert len(held) == 1 + len(memory_at_size.KINDS)
    for row in held:
        assert StepCost(**row["again"]).on_each(8, memory_at_size.KINDS[row["method"]][0]) < 0.9 * 80 * GIB, row


def test_the_figures_are_those_of_this_code():
    """One of them, within what other versions of torch and transformers may change."""
    row = next(r for r in FOUND["steps"] if (r["size"], r["way"], r["method"]) == ("7B", "full", "DPO"))
    again = dataclasses.asdict(memory_at_size.count("7B", "full", "DPO", again=True))
    assert again.keys() == row["again"].keys()
    for name, figure in again.items():
        assert abs(figure - row["again"][name]) <= 0.05 * figure, name
