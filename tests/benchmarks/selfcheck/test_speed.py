"""`bench speed`: its arithmetic by hand, both sides of a work at their smallest, and its errors."""

import json
import os
import time

import pytest
import torch

from alignment_bench.benchmarks.cli.speed import WORKS
from alignment_bench.benchmarks.selfcheck import speed
from alignment_bench.benchmarks.selfcheck.peak_memory import PeakMemory
from alignment_bench.benchmarks.selfcheck.speed_page import page as page_of
from alignment_bench.results.store import read_json


def test_the_median_step_leaves_the_first_out_and_those_that_tell_something_else():
    """Marks at 10, 12, 13, 19 and 99 s: steps of 2, 1, 6 and 80 s, in the last of which the policy was looked at."""
    lines = [(10.0, 5, 9), (12.0, 105, 4), (13.0, 305, 4), (19.0, 335, 4), (99.0, 999, 9), (199.0, 1999, 3)]
    assert speed.median_step(lines) == speed.Step(2.0, 100)


def test_figures_by_hand():
    """1,000 weights, 60 tokens a step of which 50 are needed, 0.5 s: 6 * 1000 * 50 / 0.5 of 6e6 operations a second."""
    work = speed.Work("something", 1.5, 50.0, None, None)
    ours = [speed.Step(seconds, 60, memory) for seconds, memory in ((0.5, 9), (0.4, 7), (0.6, 30))]
    peer = [speed.Step(seconds, 100) for seconds in (1.0, 1.2, 0.9)]
    found = speed.summary(work, {"ours": ours, "peer": peer}, weights=1000, peak=6e6)
    assert found["ratio"] == pytest.approx(2.0) and found["ratios"] == pytest.approx([2.0, 3.0, 1.5])
    assert found["ours"]["steps_per_second"] == 2.0 and found["ours"]["tokens_per_second"] == 100.0
    assert found["ours"]["peak_megabytes"] == 9
    assert found["ours"]["executed_over_needed"] == pytest.approx(1.2)
    assert found["ours"]["matrix_rate_share"] == pytest.approx(0.1)
    assert found["peer"]["executed_over_needed"] == pytest.approx(2.0)


def test_both_sides_get_the_same_work(tmp_path):
    """Two steps of SFT on the same pairs in the same order; ours are cut by length, so fewer tokens are padding."""
    bench = speed.Bench(tmp_path)
    work = speed.works(bench, steps=2)["sft"]
    ours, peer = work.ours(tmp_path / "run" / "ours"), work.peer(tmp_path / "run" / "peer")
    assert 0.5 * work.needed < ours.tokens < peer.tokens
    assert ours.seconds > 0 and peer.seconds > 0


def test_each_side_has_a_process_of_its_own(capfd):
    """Whose prints do not get among the figures on stdout."""
    with speed.sides() as processes:
        found = {process.submit(os.getpid).result() for process in processes.values()}
        for process in processes.values():
            process.submit(print, "a trainer's log").result()
    assert len(found - {os.getpid()}) == 2
    shown = capfd.readouterr()
    assert "log" not in shown.out and shown.err.count("a trainer's log") == 2


def test_peak_memory_is_what_was_added_and_let_go_again():
    """80 MB of ones, freed before the end; then nothing at all."""
    with PeakMemory() as held:
        torch.ones(20_000_000).sum()
        time.sleep(0.05)
    with PeakMemory() as nothing:
        time.sleep(0.05)
    assert 75e6 < held.bytes < 120e6
    assert nothing.bytes < 10e6


def test_known_names_only(bench, tmp_path):
    done = bench("speed", "--work", "dpoo", cwd=tmp_path, code=2)
    assert done.stderr.startswith("bench: --work dpoo is not known; did you mean 'dpo'?")
    assert set(WORKS) == set(speed.works(speed.Bench(tmp_path / "x"), 2))


def test_what_is_published_is_kept_beside_what_is_new(bench, tmp_path, monkeypatch):
    row = {
        "what": "w",
        "target": 2.0,
        "ratio": 3.0,
        "ratios": [3.0],
        "ours": {"seconds": 1.0, "peak_megabytes": 5.0},
        "peer": {"seconds": 3.0, "peak_megabytes": 7.0},
    }

    def measure(names, runs, steps, say):
        machine = {
            "device": "cpu",
            "threads": 1,
            "platform": "p",
            "processor": "P6",
            "has_bf16_units": True,
        }
        work = {name: row for name in names}
        return {
            "work": work,
            "steps": 10,
            "matrix_gflops": 1.0,
            "machine": machine,
            "packages": {},
            "date": "d",
        }

    monkeypatch.setattr(speed, "measure", measure)
    bench("speed", "--work", "sft", "--out", ".", cwd=tmp_path)
    done = bench("speed", "--work", "dpo", "--out", ".", "--json", cwd=tmp_path)
    assert list(read_json(tmp_path / "speed.json")["work"]) == list(json.loads(done.stdout)["work"]) == ["dpo", "sft"]
    page = (tmp_path / "speed.md").read_text()
    assert page.count("| w | 1.00 | 3.00 | 3.00 |") == 2
    assert "left out, on P6 (with bf16 units), cpu with 1 threads (p), fp32;" in page
    machine = {"device": "cpu", "threads": 2, "platform": "p", "processor": "P7", "has_bf16_units": False}
    assert "on P7 (without bf16 units), cpu with 2 threads" in page_of(
        {**read_json(tmp_path / "speed.json"), "machine": machine}
    )
