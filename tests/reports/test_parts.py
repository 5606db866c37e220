"""Costs apart, win rates by subset and the best of several replies, as a report shows them."""

import re

import pandas
import pytest

from alignment_bench.reports import drawing
from alignment_bench.reports.render import render
from alignment_bench.results.integrity import write_record
from alignment_bench.results.run_folder import Run

CONTRAST = {"difference": 0.25, "low": 0.1, "high": 0.4, "p": 0.002, "p_adjusted": 0.008}
HELPFUL = {"mean": 0.71, "low": 0.6, "high": 0.8, "n": 90, "prompts": 30, "p": 0.001, "p_adjusted": 0.003}
SHARE = {"mean": 0.55, "low": 0.45, "high": 0.65, "n": 40}


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """A report of a run without cells, whose summary has all of these parts."""
    out = tmp_path_factory.mktemp("parts")
    bare = Run(out / "bare")
    write_record(bare.path / "run.json", run.record)
    summary = run.summary
    summary["methods"]["dpo"]["inference"] = {"generated_tokens": 164.0, "reward_queries": 4.0}
    summary["methods"]["dpo"]["looking"] = {"flops": 5e11}
    summary["methods"]["orpo"]["cost"] = {}
    summary["shared"] = {"training reward model": {"cost": {"seconds": 61.0, "flops": 2e12}, "needed_by": ["ppo"]}}
    kinds = {"subset": {"ppo": {"helpful": {**HELPFUL, "against_others": CONTRAST}}}}
    summary["subsets"] = {"metric": "win_rate.gold", "kinds": kinds}
    model = summary["reward_models"]["heldout"]["models"]["training"]
    part = {"accuracy": SHARE, "ties": 0}
    model |= {
        "subsets": {"math": part, "focus": part},
        "mean_of_subsets": 0.625,
        "best_of": {"sets": 40, "replies": 4.0, "accuracy": SHARE, "subsets": {"math": SHARE}},
    }
    bare.write_summary(summary)
    render([bare], out, ("html", "md", "csv"))
    return out


def test_costs_stand_apart(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "- Only ppo needs the training reward model: 1 min 01 s, 2.00 TFLOP more, once for all seeds." in text
    assert "- dpo pays at inference: each response takes 164 generated tokens, and 4 reward queries." in text
    assert "- Spent on looking, and charged to no method: probes at most 500 GFLOP a training." in text
    # a method that trains nothing has no cost of training, and none of these is added to another
    rows = pandas.read_csv(written / "tables" / "costs.csv").set_index(["method", "cost"])["mean"]
    assert rows["dpo", "looking_flops"] == 5e11 and rows["dpo", "response_reward_queries"] == 4
    assert rows["dpo", "flops"] == 1.4e13 and "orpo" not in rows.index.get_level_values(0)
    heads = next(line for line in text.splitlines() if line.startswith("| Method |") and "of a response" in line)
    assert "Generated tokens, of a response" in heads and "Reward queries, of a response" in heads


@pytest.mark.parametrize("name", ["report.md", "index.html"])
def test_subsets_and_the_best_of_several_are_shown(written, name):
    text = re.sub(r'\s*<span class="ci">', " ", (written / name).read_text(encoding="utf-8"))
    assert "By the true reward ppo does not gain everywhere alike (prompts by subset): it beats SFT on helpful" in text
    assert "71.0% [60.0, 80.0]" in text
    assert "62.5%" in text and "best of 4 replies" in text and "55.0% [45.0, 65.0]" in text


def test_names_stay_within_the_axes():
    """A point at the left with another close by: its name lies to its right, and not over the numbers of the axis."""
    _, axes = drawing.new_canvas(2.6)
    points = [("sft_chosen", 1.0, 0.64), ("rloo", 1.5, 0.64), ("ppo", 10.0, 0.67)]
    for _, x, y in points:
        axes.plot([x], [y], "o")
    drawing.label_points(axes, points)
    axes.figure.draw_without_rendering()
    assert len(axes.texts) == 3
    assert all(text.get_window_extent().x0 >= axes.bbox.x0 for text in axes.texts)
