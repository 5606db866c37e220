"""The progress of a run at work: what is kept, what is said of it, and what is left."""

import subprocess
import sys
from pathlib import Path

import pytest

from alignment_bench.results import progress as module
from alignment_bench.results.integrity import write_json
from alignment_bench.results.progress import PROGRESS, Recorder, StepProgress, read_progress

SFT = StepProgress("SFT", "SFT", alike="SFT", trains=True, expected=40.0)


def cell(method, seed, *, expected=None):
    label = f"{method} seed {seed}"
    return [
        StepProgress(f"{label}, training", "training", label, f"training {method}", True, expected),
        StepProgress(f"{label}, responses", "responses", label, "responses"),
    ]


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


@pytest.fixture
def recorder(tmp_path, clock):
    """A run of two methods with two seeds, of which SFT took 50 s and dpo's first training 30 s."""
    made = Recorder()
    steps = [
        SFT,
        *cell("dpo", 0, expected=500.0),
        *cell("ppo", 0, expected=100.0),
        *cell("dpo", 1, expected=500.0),
        *cell("ppo", 1, expected=100.0),
    ]
    with made.kept(tmp_path, steps, at_once=2):
        made.begin("SFT", tmp_path / "partial")
        clock[0] += 50
        made.done("SFT", fresh=True)
        made.begin("dpo seed 0, training")
        clock[0] += 30
        made.done("dpo seed 0, training", fresh=True)
        yield made


def test_what_is_left_goes_by_this_run_and_then_by_earlier_ones(recorder, clock, tmp_path):
    """Trainings, two at once: ppo twice 100 s and dpo 30 s once more, 230 / 2; nothing is known of four responses."""
    assert read_progress(tmp_path).left() == (115.0, 4)
    recorder.begin("dpo seed 0, responses")
    clock[0] += 8
    recorder.done("dpo seed 0, responses", fresh=True)  # three more, 8 s each
    recorder.begin("ppo seed 0, training")
    clock[0] += 60  # of 100
    assert read_progress(tmp_path).left() == ((40 + 30 + 100) / 2 + 3 * 8, 0)
    recorder.failed("ppo seed 0", "loss nan")
    assert read_progress(tmp_path).left() == ((30 + 100) / 2 + 2 * 8, 0)
    recorder.begin("dpo seed 1, training")
    recorder.done("dpo seed 1, training", fresh=False)  # found on disk: that it took no time says nothing
    assert [step.seconds for step in read_progress(tmp_path).steps if step.name == "training"] == [30.0] + 3 * [None]
    assert read_progress(tmp_path).left() == (100 / 2 + 2 * 8, 0)


def test_a_sentence_says_how_far_it_is(recorder, tmp_path):
    recorder.done("dpo seed 0, responses", fresh=True)
    recorder.begin("ppo seed 0, training")
    recorder.failed("dpo seed 1", "loss nan")
    found = read_progress(tmp_path)
    assert found.is_at_work and found.sentence() == (
        "1 of 4 cells are done; at work: ppo seed 0 (training); waiting: ppo seed 1; failed: dpo seed 1 (loss nan)"
    )
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    found.process = ended.pid
    assert not found.is_at_work and found.sentence() == (
        "1 of 4 cells are done; waiting: ppo seed 0, ppo seed 1; failed: dpo seed 1 (loss nan); "
        "its process is gone; the same command goes on from there"
    )
    found.machine = "another"  # whose processes are not seen from here
    assert found.is_at_work


def test_a_step_does_not_wait_for_the_disk_and_a_torn_progress_is_none(recorder, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    recorder.begin("ppo seed 0, training")
    assert [s.label for s in read_progress(tmp_path).steps if s.state == "at work"] == ["ppo seed 0, training"]
    recorder.done("ppo seed 0, training", fresh=True)
    assert read_progress(tmp_path) == recorder.progress and not synced
    whole = (tmp_path / PROGRESS).read_text()
    (tmp_path / PROGRESS).write_text(whole[: len(whole) // 2])
    assert read_progress(tmp_path) is None
    write_json(tmp_path / "record.json", {})
    assert len(synced) == 1  # all else that is written this way does wait


def test_the_same_command_given_twice_writes_beside_itself(tmp_path, monkeypatch):
    """The other one put what this one had written in its place, or moved on to its run's folder."""
    recorder = Recorder()
    with recorder.kept(tmp_path / "runs", [StepProgress("SFT", "SFT")], 1):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
            recorder.begin("SFT")
        recorder.done("SFT", fresh=False)
    assert [step.state for step in read_progress(tmp_path / "runs").steps] == ["done"]


def test_how_it_ended_is_kept_and_it_moves_to_the_runs_folder(tmp_path):
    recorder, before, after = Recorder(), tmp_path / "runs", tmp_path / "runs" / "run"
    recorder.begin("SFT")  # not begun: nothing is written
    with recorder.kept(before, [StepProgress("SFT", "SFT")], 1):
        assert read_progress(before).sentence() == "0 of 0 cells are done"
        recorder.move(after)
        recorder.done("SFT", fresh=False)
    assert not (before / PROGRESS).exists() and read_progress(after).state == "done"
    recorder, alone = Recorder(), tmp_path / "alone"
    with recorder.kept(alone, [], 1):
        recorder.move(after)
    assert not alone.exists()  # nothing else was in it
    with pytest.raises(KeyError), recorder.kept(after, [], 1):
        raise KeyError("a reason")
    assert read_progress(after).sentence() == "0 of 0 cells are done; stopped: 'a reason'"
    (after / PROGRESS).write_text("[]")
    assert read_progress(after) is None and read_progress(before) is None


def test_a_log_is_read_while_it_is_written_to_its_last_whole_line_and_then_to_its_end(recorder, tmp_path):
    partial = tmp_path / ".key.partial"
    recorder.begin("ppo seed 0, training", partial)
    assert read_progress(tmp_path).logs() == {}
    partial.mkdir()
    (partial / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_progress(tmp_path).logs() == {"ppo seed 0": [{"step": 1, "loss": 2.0}]}
    (partial / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    partial.rename(tmp_path / "key")
    recorder.done("ppo seed 0, training", fresh=True)
    assert [row["loss"] for row in read_progress(tmp_path).logs()["ppo seed 0"]] == [2.0, 1.0]
