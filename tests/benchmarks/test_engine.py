"""Cells in processes of their own and on Ray: what goes wrong there stays there, and results are the same."""

import json
import signal
import subprocess
import time
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignment_bench.benchmarks import harness
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.engine import train_apart
from alignment_bench.benchmarks.harness import Harness
from alignment_bench.benchmarks.request import Request
from alignment_bench.errors import TrainingError
from alignment_bench.results.store import Store

STEPS = {"lr": 1e-3, "batch_size": 4}
pytestmark = pytest.mark.skipif(
    "faulty" not in {e.name for e in entry_points(group="alignment_bench.methods")},
    reason="the example plugin is not installed; pip install ./tests/plugin",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, make_tiny, write_tiny):
    """A tiny model and a tiny benchmark of five steps a method."""
    folder = tmp_path_factory.mktemp("engine")
    make_tiny(folder / "model", std=0.05)
    write_tiny(
        folder,
        model=str(folder / "model"),
        max_response_tokens=20,
        budget=20,
        evaluation={"prompts": 4},
        methods={"dpo": STEPS, "faulty": {**STEPS, "how": "die-once", "once": str(folder / "died")}},
        evaluators={"reward_model": None, "gold": None, "divergence": None},
    )
    return folder


def test_a_method_that_raises_or_ends_its_process_fails_its_cell_only(bench, workdir):
    methods = "faulty:how=raise,faulty:how=exit,dpo"
    done = bench("run", "-b", "tiny.yaml", "-m", methods, "--json", cwd=workdir, code=1)
    summary = json.loads(done.stdout)
    assert set(summary["methods"]) == {"sft", "dpo"}
    failed = [w for w in summary["warnings"] if " failed: " in w]
    how = "before the training was done; fix the method"
    assert failed == [
        "faulty:how=raise seed 0 failed: ValueError: nothing fits",
        f"faulty:how=exit seed 0 failed: its process ended by itself with exit code 3 {how}",
    ]


def test_a_method_that_hangs_is_stopped(workdir):
    request = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("faulty:how=hang",), 1, workdir / "results")
    Harness(request).make_shared()
    with pytest.raises(TrainingError, match="took longer than 3 s and was stopped; allow more with --cell-timeout"):
        train_apart(request, ("faulty:how=hang", 0), limit=3)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.02, 0.03, 0.05])
def test_ctrl_c_while_its_process_begins_says_nothing(workdir, monkeypatch, capfd, after):
    """Pressed so many seconds after the start, which is before Python has begun, as it begins, or soon after."""
    request = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo",), 1, workdir / "results")

    class Pressed(subprocess.Popen):
        def communicate(self, *given, **options):
            time.sleep(after)
            self.send_signal(signal.SIGINT)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Pressed)
    with pytest.raises(KeyboardInterrupt):
        train_apart(request, ("dpo", 0), limit=None)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; pip install 'alignment-bench[ray]'")
def test_ray_gives_the_same_results_and_a_dead_workers_cell_is_tried_again(bench, workdir):
    """Two workers, two cells, one of which is killed in its third step the first time."""
    once = workdir / "died"
    done = bench(
        *("run", "-b", "tiny.yaml", "-m", "dpo,faulty", "--engine", "ray", "--json"),
        *("--root", workdir / "on ray"),
        cwd=workdir,
    )
    assert once.exists() and "training 2 cells on Ray" in done.stderr
    once.touch()
    local = bench(
        *("run", "-b", "tiny.yaml", "-m", "dpo,faulty", "--json", "--root", workdir / "here"),
        cwd=workdir,
    )
    ours, theirs = json.loads(done.stdout), json.loads(local.stdout)
    for name in ("sft", "dpo", "faulty"):
        assert ours["methods"][name]["metrics"] == theirs["methods"][name]["metrics"]
    weights = [
        {p.parent.parent.parent.name + p.parent.parent.name: p.read_bytes() for p in run.rglob("policy/*.safetensors")}
        for run in (Path(ours["run_dir"]), Path(theirs["run_dir"]))
    ]
    assert weights[0] == weights[1] and len(weights[0]) == 2
    assert len(list(Store(workdir / "on ray").made())) == len(list(Store(workdir / "here").made()))


def test_a_cell_that_failed_on_ray_is_not_trained_here(bench, workdir, monkeypatch):
    """The cluster told why it failed; the run says so under the cell's name and goes on with the others."""
    failing = lambda request, cells, *more: [(cell, "no room" if cell[0] == "dpo" else None) for cell in cells]  # noqa: E731
    monkeypatch.setattr(harness, "train_on_ray", failing)
    arguments = ("run", "-b", "tiny.yaml", "-m", "dpo,orpo", "--engine", "ray", "--json", "--root", workdir / "failed")
    summary = json.loads(bench(*arguments, cwd=workdir, code=1).stdout)
    assert set(summary["methods"]) == {"sft", "orpo"}
    assert "dpo seed 0 failed: no room" in summary["warnings"]
