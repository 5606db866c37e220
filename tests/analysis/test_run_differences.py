"""Two runs side by side: what was set differently, and paired or independent differences of what they found."""

from math import nan

import numpy as np
import pandas
import pytest
from scipy import stats

from alignment_bench.analysis.run_differences import cautions, changes, excludes_zero, independent, settings
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import SCORES, Store

PROMPTS = [f"p{i}" for i in range(20)]


def write(folder, values, *, prompts=PROMPTS, budget=8, beta=0.1, sft="s"):
    """A run of one method with one seed whose metric `length` has these values."""
    store = Store(folder / "store")
    frame = pandas.DataFrame({"metric": "length", "prompt_id": prompts, "value": values})
    stage = store.stage("all_scores", {"v": list(values)}, lambda out: frame.to_parquet(out / SCORES))
    run = Run(folder / "run")
    contract = {"budget": budget, "sft": {"content": sft}, "same": 1}
    methods = {"dpo": {"name": "dpo", "params": {"beta": beta}}}
    run.open({"run_id": "r", "created": "c", "commands": [], "contract": contract, "methods": methods})
    run.place("dpo", 0, [stage])
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    cell = {"mean": float(np.mean(values)), "low": float(low), "high": float(high), "n": len(values)}
    run.write_summary({"methods": {"dpo": {"metrics": {"length": cell}}}})
    return run


def test_paired_by_prompt(tmp_path):
    """Against scipy's paired t interval."""
    rng = np.random.default_rng(0)
    before = rng.normal(10, 3, 20)
    after = before + rng.normal(1, 0.5, 20)
    a, b = write(tmp_path / "a", before), write(tmp_path / "b", after, budget=16, beta=0.5, sft="other")
    (change,) = changes(a, b)
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (change.low, change.high) == pytest.approx((expected.low, expected.high))
    assert change.difference == pytest.approx(np.mean(after - before)) and change.prompts == 20
    assert excludes_zero(change)
    assert settings(a, b) == {
        "contract": {"budget": (8, 16), "sft.content": ("s", "other")},
        "methods": {"dpo.beta": (0.1, 0.5)},
        "environment": {},
    }
    assert cautions(a, b) == ["the SFT checkpoints differ, so win rates are against different baselines, and so is kl"]
    assert cautions(a, a) == []


def test_means_are_of_the_prompts_that_both_have(tmp_path):
    """0 to 19 and, on the last 15 of these prompts and 5 others, one more: 12 and 13 on what they share."""
    a = write(tmp_path / "a", np.arange(20.0))
    b = write(tmp_path / "b", np.arange(5.0, 25.0) + 1, prompts=[*PROMPTS[5:], *"vwxyz"])
    (change,) = changes(a, b)
    assert (change.a, change.b, change.difference, change.prompts) == (12.0, 13.0, 1.0, 15)


def test_independent_where_prompts_are_others(tmp_path):
    """1 [0, 3] and 5 [2, 6]: 4 - sqrt(3^2 + 2^2) and 4 + sqrt(1^2 + 1^2)."""
    cells = {"mean": 1.0, "low": 0.0, "high": 3.0}, {"mean": 5.0, "low": 2.0, "high": 6.0}
    assert independent(*cells) == pytest.approx((4.0, 4 - 13**0.5, 4 + 2**0.5))
    assert independent({**cells[0], "low": None}, cells[1]) == pytest.approx((4.0, nan, nan), nan_ok=True)
    values = np.arange(20.0)
    a, b = write(tmp_path / "a", values), write(tmp_path / "b", values + 1, prompts=[f"q{i}" for i in range(20)])
    (change,) = changes(a, b)
    assert change.prompts == 0 and change.difference == pytest.approx(1.0) and not excludes_zero(change)
