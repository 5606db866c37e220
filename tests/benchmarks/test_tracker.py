"""Trackers: what they are sent, that it is sent once, and that none of them stops a run."""

import sys
from types import ModuleType

import pytest

from alignment_bench.analysis.verdict import verdict
from alignment_bench.benchmarks import tracker
from alignment_bench.benchmarks.tracker import TRACKERS, Forwarder
from alignment_bench.errors import InputError


class Service(ModuleType):
    """Stands for wandb, trackio or mlflow: notes every call by its name."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        return call


@pytest.fixture
def run(tmp_path, make_run):
    return make_run(tmp_path)


def send(name, run, say=pytest.fail):
    forward = Forwarder(name, run, say)
    for cell in run.cells():
        forward.cell(cell)
    forward.summary(run.summary)


def test_tensorboard_reads_back_what_was_logged(run):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send("tensorboard", run)
    events = EventAccumulator(str(run.path / "tensorboard" / "ppo seed 1")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([1.0, 1 / 2, 1 / 3, 1 / 4])
    (seconds,) = events.Scalars("cost/seconds")
    assert (seconds.step, seconds.value) == (5, 3.0)
    mean = (
        next(c for c in run.cells() if (c.method, c.seed) == ("ppo", 1)).scores().query("metric == 'length'")["value"]
    )
    assert events.Scalars("score/length")[0].value == pytest.approx(mean.mean())
    whole = EventAccumulator(str(run.path / "tensorboard" / "summary")).Reload()
    assert whole.Scalars("ppo/length")[0].value == pytest.approx(
        run.summary["methods"]["ppo"]["metrics"]["length"]["mean"]
    )
    assert any("is done" in name for name in whole.Tags()["tensors"])
    assert {p.name for p in (run.path / "tensorboard").iterdir()} == {
        *(f"{m} seed {s}" for m in ("sft", "ppo", "dpo") for s in (0, 1)), "summary",
    }  # fmt: skip


STARTS = {"wandb": "init", "trackio": "init", "mlflow": "start_run"}
TELLS = {"wandb": "alert", "trackio": "alert", "mlflow": "set_tag"}
LOGS = {"wandb": "log", "trackio": "log", "mlflow": "log_metrics"}


@pytest.mark.parametrize("name", STARTS)
def test_a_run_a_cell_and_a_step_a_row_and_each_only_once(run, monkeypatch, name):
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    send(name, run)
    started = [kwargs for call, _, kwargs in service.calls if call == STARTS[name]]
    names = [kwargs.get("name") or kwargs["run_name"] for kwargs in started]
    assert len(names) == 7 and names[2].endswith("ppo seed 0") and names[-1].endswith("summary")
    rows = [(args[0], kwargs["step"]) for call, args, kwargs in service.calls if call == LOGS[name]]
    assert rows[2] == (
        {"examples": 4.0, "seconds": 0.5, "loss": 1.0, "kl": 0.1},
        1,
    )  # sft's two cells have one row each
    assert [step for _, step in rows[2:7]] == [1, 2, 3, 4, 5] and rows[6][0]["cost/flops"] == 1e9
    (told,) = [(args, kwargs) for call, args, kwargs in service.calls if call == TELLS[name]]  # once, at the end
    text = " ".join([*map(str, told[0]), *map(str, told[1].values())])
    assert "made-up, run made-up-16, is done" in text and verdict(run.summary)[0] in text
    calls = len(service.calls)
    send(name, run)  # the same command again
    assert [call for call, _, _ in service.calls[calls:]] in ([], ["set_experiment"])


def test_a_tracker_that_fails_is_told_and_the_rest_is_sent_next_time(run, monkeypatch):
    service, said = Service("wandb"), []
    monkeypatch.setitem(sys.modules, "wandb", service)

    def no_network(**_):
        raise OSError("no network")

    service.init = no_network
    send("wandb", run, said.append)
    assert len(said) == 1 and "tracker wandb failed: no network; the run goes on without it" in said[0]
    del service.init
    send("wandb", run)
    assert sum(call == "init" for call, _, _ in service.calls) == 7


def test_a_package_that_is_missing_is_told_before_anything_trains(bench, tmp_path, monkeypatch):
    assert set(TRACKERS) == {"tensorboard", "wandb", "trackio", "mlflow"}
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(InputError, match=rf"pip install 'alignment-bench\[{name}\]'"):
            tracker.check(name)
    tracker.check(None)
    done = bench("run", "-m", "dpo", "--tracker", "wandb", "--set", "rows=400", cwd=tmp_path, code=2)
    assert "--tracker wandb is not installed; pip install 'alignment-bench[wandb]'" in done.stderr
    assert not (tmp_path / "results").exists()
    done = bench("run", "-m", "dpo", "--tracker", "wndb", cwd=tmp_path, code=2)
    assert (
        "--tracker: tracker: input should be 'tensorboard', 'wandb', 'trackio' or 'mlflow', not 'wndb'" in done.stderr
    )


def test_without_a_tracker_nothing_is_noted(run):
    send(None, run)
    assert not (run.path / "tracked.json").exists()
