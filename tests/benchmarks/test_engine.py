"""Cells in processes of their own and on Ray: what goes wrong there stays there, and results are the same."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alignment_bench.benchmarks import engine, harness, worker
from alignment_bench.benchmarks.checks import check_processes
from alignment_bench.benchmarks.cost.rough import Estimate
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.engine import check_cluster, train_apart, train_side_by_side
from alignment_bench.benchmarks.harness import Harness
from alignment_bench.benchmarks.request import Request, pack
from alignment_bench.errors import InputError, Stopped, TrainingError
from alignment_bench.models import checkpoint
from alignment_bench.results.progress import Recorder
from alignment_bench.results.store import Store

POPEN = subprocess.Popen
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


def weights_of(run_dir):
    """The bytes of each cell's policy, by row and seed."""
    found = Path(run_dir).rglob("policy/*.safetensors")
    return {p.parent.parent.parent.name + p.parent.parent.name: p.read_bytes() for p in found}


def test_cells_side_by_side_give_the_same_results_and_one_that_dies_fails_alone(bench, workdir):
    """Two methods by two processes, beside a method from elsewhere whose process ends."""
    arguments = ("run", "-b", "tiny.yaml", "-m", "dpo,orpo,faulty:how=exit", "--json")
    two = bench(*arguments, "--at-once", "2", "--root", workdir / "two", cwd=workdir, code=1)
    one = bench(*arguments, "--at-once", "1", "--root", workdir / "one", cwd=workdir, code=1)
    assert "training 3 cells, 2 at once" in two.stderr and "at once" not in one.stderr
    made = [line.partition(":")[0] for line in two.stderr.splitlines() if "made in" in line and " seed " in line]
    assert sorted(made) == ["dpo seed 0, training", "orpo seed 0, training"]  # each said once
    ours, theirs = json.loads(two.stdout), json.loads(one.stdout)
    for name in ("sft", "dpo", "orpo"):
        assert ours["methods"][name]["metrics"] == theirs["methods"][name]["metrics"]
    assert weights_of(ours["run_dir"]) == weights_of(theirs["run_dir"]) and len(weights_of(ours["run_dir"])) == 2
    failed = [[w for w in found["warnings"] if " failed: " in w] for found in (ours, theirs)]
    assert failed[0] == failed[1] and len(failed[0]) == 1
    again = bench(*arguments, "--at-once", "2", "--root", workdir / "one", cwd=workdir, code=1)
    assert "faulty:how=exit seed 0 failed" in again.stderr and "made in" not in again.stderr


def test_the_training_that_may_take_longest_begins_first(workdir, monkeypatch):
    """And of those that take as long, or of which nothing is known, the first of the run."""
    request = Request(
        load_spec(str(workdir / "tiny.yaml"), {}), ("dpo", "orpo", "kto"), 2, workdir / "longest", at_once=2
    )
    one, began = Harness(request), []
    one.make_shared()
    seconds = {"dpo": 1.0, "orpo": 5.0, "kto": None}
    one.estimates = SimpleNamespace(of=lambda step: Estimate("", seconds[step.row.name]))
    monkeypatch.setattr(harness, "train_side_by_side", lambda request, rows, *more: began.extend(rows) or ())
    one._train_side_by_side()
    assert began == [(name, seed) for name in ("orpo", "dpo", "kto") for seed in (0, 1)]


def test_a_cell_trains_with_half_of_the_threads_however_many_are_trained_at_once(workdir, monkeypatch):
    """So that sums come out the same; the rest of a run has them all, and a worker what it is told."""
    spec, there = load_spec(str(workdir / "tiny.yaml"), {}), torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        request = Request(spec, ("dpo",), 1, workdir / "threads", device="cpu")
        for more, at_once, threads in (({}, 2, 2), ({"at_once": 1}, 1, 2), ({"at_once": 3, "threads": 1}, 3, 1)):
            one = Harness(dataclasses.replace(request, **more))
            assert (one.at_once, one.threads) == (at_once, threads)
            seen = []
            monkeypatch.setattr(one.pipeline, "train", lambda *given, seen=seen: seen.append(torch.get_num_threads()))
            one.make(("dpo", 0))
            assert seen == [threads] and torch.get_num_threads() == 4
        torch.set_num_threads(1)
        assert Harness(request).at_once == Harness(request).threads == 1
    finally:
        torch.set_num_threads(there)


def test_a_child_whose_parent_is_gone_saves_and_ends(monkeypatch):
    """As at Ctrl-C, for which its training listens; while the parent is there it goes on."""
    heard, parents = threading.Event(), [7, 7, 7]
    monkeypatch.setattr(worker.os, "getppid", lambda: parents.pop() if parents else 1)
    monkeypatch.setattr(worker.os, "kill", lambda process, sign: heard.set() if sign == signal.SIGINT else None)
    worker.end_with(7, every=0.01)
    assert heard.wait(5) and not parents


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are not told of in /proc here")
def test_a_child_that_serves_ends_when_its_parent_was_killed():
    """Its stdin stays open, so that nothing but the look at its parent tells it."""
    begin = "import os, subprocess, sys\nfrom alignment_bench.benchmarks.engine import START\nr, w = os.pipe()\n"
    child = "[sys.executable, '-c', f'{START}serve; serve({os.getpid()})']"
    keep = f"print(subprocess.Popen({child}, stdin=r, stdout=2, pass_fds=[w]).pid, flush=True)\nos._exit(9)"
    parent = subprocess.run([sys.executable, "-c", begin + keep], capture_output=True, text=True, timeout=120)
    stat = Path("/proc") / parent.stdout.strip() / "stat"
    assert parent.returncode == 9 and "Traceback" not in parent.stderr
    for _ in range(3000):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the child goes on without its parent")


def test_a_process_that_is_killed_fails_its_cell_and_the_next_cell_gets_another(workdir, monkeypatch):
    request = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo", "orpo"), 1, workdir / "killed")
    Harness(request).make_shared()
    started = []

    class Killed(subprocess.Popen):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            started.append(self)
            if len(started) == 1:
                self.kill()

    monkeypatch.setattr(subprocess, "Popen", Killed)
    cells, begun = [("dpo", 0), ("orpo", 0)], []
    found = dict(train_side_by_side(request, cells, 1, 1, lambda cell: False, begun.append))
    killed = "its process was killed by SIGKILL before the training was done"
    assert found == {cells[0]: f"{killed}; where memory is short, train one cell at a time with --at-once 1",
                     cells[1]: None}  # fmt: skip
    assert begun == cells and len(started) == 2 and all(p.poll() is not None for p in started)


def answering(monkeypatch, answers):
    """In place of the process that trains: one that gives each method's cell an answer, a second later."""
    code = (
        "def serve(parent):\n"
        "    import json, sys, time\n"
        "    for line in iter(sys.stdin.readline, ''):\n"
        "        time.sleep(1)\n"
        f"        print(json.dumps({answers!r}[json.loads(line)['cell'][0]]), flush=True)\n"
    )
    monkeypatch.setattr(engine, "START", code)


def test_each_cell_is_given_to_whoever_is_free_and_told_as_it_ends(workdir, monkeypatch):
    answering(monkeypatch, {"a": {"done": True}, "b": {"failed": "no number"}, "c": {"done": True}})
    request, begun = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo",), 1, workdir), []
    cells, started, start = [("a", 0), ("b", 0), ("c", 0)], [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **of: started.append(start(*given, **of)) or started[-1])
    found = list(train_side_by_side(request, cells, 2, 1, lambda cell: False, begun.append))
    assert len(started) == 2 and all(process.poll() is not None for process in started)
    assert sorted(found) == [(("a", 0), None), (("b", 0), "no number"), (("c", 0), None)]
    assert begun[2] == ("c", 0) and sorted(begun) == cells


def test_a_cell_that_was_stopped_ends_the_others_after_it_and_says_what_is_saved(workdir, monkeypatch):
    answering(monkeypatch, {"a": {"stopped": "step 3 is saved"}, "b": {"done": True}, "c": {"done": True}})
    request, begun = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo",), 1, workdir), []
    cells = [("a", 0), ("b", 0), *[("c", seed) for seed in range(9)]]
    with pytest.raises(Stopped, match="step 3 is saved"):
        list(train_side_by_side(request, cells, 2, 1, lambda cell: False, begun.append))
    assert len(begun) < 5


def test_ctrl_c_ends_all_that_are_trained_side_by_side(workdir, monkeypatch):
    """The terminal sends it to every process; those that have not begun to train end without a word."""
    request = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo", "orpo"), 1, workdir / "pressed")
    Harness(request).make_shared()
    started = []

    class Pressed(subprocess.Popen):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            started.append(self)
            self.send_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Pressed)
    with pytest.raises(KeyboardInterrupt):
        list(train_side_by_side(request, [("dpo", 0), ("orpo", 0)], 2, 1, lambda cell: False, lambda cell: None))
    assert started and all(p.poll() is not None for p in started)


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
    weights = [weights_of(found["run_dir"]) for found in (ours, theirs)]
    assert weights[0] == weights[1] and len(weights[0]) == 2
    assert len(list(Store(workdir / "on ray").made())) == len(list(Store(workdir / "here").made()))


def test_a_cell_that_failed_on_ray_is_not_trained_here(bench, workdir, monkeypatch):
    """The cluster told why it failed; the run says so under the cell's name and goes on with the others."""
    kept = []

    def failing(request, cells, *more):
        kept.append(len(checkpoint._HOSTS))
        return [(cell, "no room" if cell[0] == "dpo" else None) for cell in cells]

    monkeypatch.setattr(harness, "train_on_ray", failing)
    arguments = ("run", "-b", "tiny.yaml", "-m", "dpo,orpo", "--engine", "ray", "--json", "--root", workdir / "failed")
    summary = json.loads(bench(*arguments, cwd=workdir, code=1).stdout)
    assert set(summary["methods"]) == {"sft", "orpo"}
    assert "dpo seed 0 failed: no room" in summary["warnings"]
    assert kept == [0]  # models that this process had in memory before the cells began


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster with two GPUs, as `check_cluster` sees it; the address that it is asked for."""
    asked = []
    ray = SimpleNamespace(
        init=lambda address, **how: asked.append(address),
        shutdown=lambda: asked.append("left"),
        cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0},
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    return asked


def test_a_machine_without_gpu_before_a_cluster_with_some_is_told_before_anything_trains(cluster, workdir):
    spec = load_spec(str(workdir / "tiny.yaml"), {})
    request = Request(spec, ("dpo",), 1, workdir / "head", engine="ray", ray_address="auto")
    with pytest.raises(InputError, match="has 2 GPUs and this machine.* has none; start the command on one that has"):
        Harness(request).run()
    assert cluster == ["auto", "left"] and not list((workdir / "head").glob("cache/sft/*"))
    check_cluster(request, "cuda")
    check_cluster(dataclasses.replace(request, device="cpu"), "cpu")
    check_cluster(dataclasses.replace(request, ray_address=None), "cpu")
    assert len(cluster) == 2


def test_runs_that_begin_at_once_keep_their_progress_apart(workdir, monkeypatch):
    """Before they have folders of their own; the same command goes on in the same place."""
    places = []
    monkeypatch.setattr(Recorder, "kept", lambda self, folder, *more: places.append(folder) or 1 / 0)
    spec = load_spec(str(workdir / "tiny.yaml"), {})
    for methods, seeds in ((("dpo",), 1), (("orpo",), 1), (("dpo",), 2), (("dpo",), 1)):
        with pytest.raises(ZeroDivisionError):
            Harness(Request(spec, methods, seeds, workdir / "x")).run()
    assert len({*places}) == 3 and places[0] == places[3]
    assert {place.parent for place in places} == {workdir / "x" / "runs" / "tiny"}


def test_failures_are_told_in_the_order_of_the_rows(workdir, monkeypatch):
    """Whichever of the cells that are trained side by side ended first."""
    harness = Harness(Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo", "orpo"), 1, workdir / "x"))
    last_first = [step.cell_label for step in harness.steps if step.cell][::-1]
    harness.at_once = 2
    monkeypatch.setattr(
        Harness, "_train_side_by_side", lambda self: self.failures.update(dict.fromkeys(last_first, "?"))
    )
    harness._make_cells(None)
    assert [label.split()[0] for label in harness.failures] == ["sft", "dpo", "orpo"]


def test_several_gpus_are_for_cells_on_ray_and_methods_of_our_own(workdir):
    request = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo",), 1, workdir / "x", cell_gpus=2)
    with pytest.raises(InputError, match="--cell-gpus goes with --engine ray"):
        check_processes(request, {})
    with pytest.raises(InputError, match="theirs has a training loop of its own, which several processes cannot"):
        check_processes(dataclasses.replace(request, engine="ray"), {"theirs": SimpleNamespace()})
    with pytest.raises(InputError, match="--device cuda:1 names one device, and --cell-gpus gives a cell several"):
        check_processes(dataclasses.replace(request, engine="ray", device="cuda:1"), {})


def together(monkeypatch, *ends):
    """What `train_together` says of processes that do these things, and their environments and inputs."""
    seen = []

    class Process(POPEN):
        def __init__(self, command, **how):
            seen.append({name: how["env"][name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")})
            super().__init__([sys.executable, "-c", ends[len(seen) - 1], command[-1]], **how)
            if "SystemExit" in ends[len(seen) - 1]:
                self.wait()

    monkeypatch.setattr(engine.subprocess, "Popen", Process)
    return engine.train_together('{"a": 1}', len(ends)), seen


WRITE = "import sys; from pathlib import Path; read = sys.stdin.read(); Path(sys.argv[1]).write_text({said!r})"


def test_processes_of_a_cell_know_each_other_and_the_first_one_says_how_it_ended(monkeypatch):
    said, seen = together(monkeypatch, WRITE.format(said='{"done": true}'), "input()")
    assert said is None
    assert [each["RANK"] for each in seen] == [each["LOCAL_RANK"] for each in seen] == ["0", "1"]
    assert {(each["WORLD_SIZE"], each["MASTER_ADDR"]) for each in seen} == {("2", "127.0.0.1")}
    said, _ = together(monkeypatch, WRITE.format(said='{"failed": "no rows"}'), "input()")
    assert said == "no rows"


@pytest.mark.parametrize(
    ("does", "ended"),
    [
        (
            "import os, sys; print('CUDA error', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
            "killed by SIGKILL",
        ),
        ("raise SystemExit('first\\nCUDA error')", "by itself with exit code 1"),
    ],
)
def test_where_one_process_of_a_cell_dies_so_do_the_others_and_it_is_told_of(monkeypatch, does, ended):
    """The second, in the other case before it was told what to do."""
    began = time.monotonic()
    said, _ = together(monkeypatch, "import time; time.sleep(60)", does)
    assert re.fullmatch(f"process 2 of 2 (was|ended) {ended} before the training was done: CUDA error", said)
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_two_processes_train_a_cell(workdir):
    request = Request(load_spec(str(workdir / "tiny.yaml"), {}), ("dpo",), 1, workdir / "two", device="cpu")
    Harness(request).make_shared()
    assert engine.train_together(pack(request, ("dpo", 0), 1), 2) is None
    [made] = (workdir / "two").glob("cache/train/[!.]*/manifest.json")
    Harness(request).make(("dpo", 0))
    assert [made] == [*(workdir / "two").glob("cache/train/[!.]*/manifest.json")]
