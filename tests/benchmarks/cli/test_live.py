"""The live table of a run, what becomes of progress bars under it, and plain lines where there is no terminal."""

import io
import sys

import pytest
from rich.console import Console
from tqdm import tqdm

from alignment_bench.benchmarks.cli import live
from alignment_bench.benchmarks.cli.live import Tap, View, watching
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.harness import run as run_harness
from alignment_bench.benchmarks.request import Request
from alignment_bench.results.progress import DONE


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80, no_color=True)


def drawn(view, terminal):
    with terminal.capture() as said:
        terminal.print(view.draw())
    return said.get()


def test_a_row_a_method_and_a_column_a_seed(terminal, monkeypatch):
    clock = iter([10.0, 50.0])
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    view = View(terminal)
    for label in ("sft seed 0", "dpo:beta=0.1 seed 0", "sft seed 1", "dpo:beta=0.1 seed 1"):
        view.watch(label, "waiting")
    view.watch("SFT", "training")
    assert "SFT: training" in drawn(view, terminal)
    view.watch("SFT", DONE)
    view.watch("dpo:beta=0.1 seed 0", "training")  # at 10 s
    view.watch("dpo:beta=0.1 seed 0", DONE)  # at 50 s
    view.watch("dpo:beta=0.1 seed 1", "failed")
    lines = [line.split("  ") for line in drawn(view, terminal).splitlines() if line.strip().startswith("dpo")]
    assert [part.strip() for part in lines[0] if part.strip()] == ["dpo:beta=0.1", "done, 40 s", "failed"]
    assert "SFT" not in drawn(view, terminal)


def test_a_progress_bar_is_one_line_of_the_table(terminal):
    view = View(terminal)
    tap = Tap(view)
    bar = tqdm(total=4, desc="DPO", unit="step", leave=False, disable=None, file=tap, mininterval=0)
    bar.update(1)
    assert view.progress.startswith("DPO:  25%") and "1/4" in view.progress and "<" in view.progress  # time left
    print("a warning of a library", file=tap)  # a line of its own stays, above the table
    assert "a warning of a library" in terminal.file.getvalue()
    bar.close()
    assert view.progress == ""


def test_plain_lines_without_a_terminal(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with watching() as watcher:
        watcher.watch("dpo seed 0", "training")
        watcher.say("dpo seed 0: made in 3 s")
        assert sys.stderr is stderr
    assert stderr.getvalue() == "dpo seed 0: made in 3 s\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_is_given_back_and_no_color_is_honoured(monkeypatch, plain):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(KeyboardInterrupt), watching() as watcher:
        watcher.watch("dpo seed 0", "training")
        assert isinstance(sys.stderr, Tap)
        raise KeyboardInterrupt
    assert sys.stderr is stderr
    shown = stderr.getvalue()
    assert "dpo" in shown and "\x1b[?25h" in shown  # the cursor is shown again
    assert not plain or "\x1b[3" not in shown and "\x1b[9" not in shown  # no colours


def test_what_a_run_tells(tmp_path, make_tiny, write_tiny):
    """Each cell waits, trains, answers, is scored, and is done or failed."""
    make_tiny(tmp_path / "model", std=0.05)
    bad = {"dpo": {"lr": 1e30, "batch_size": 4}}
    path = write_tiny(tmp_path, model=str(tmp_path / "model"), budget=8, evaluation={"prompts": 4}, methods=bad)
    spec, told = load_spec(str(path)), []
    run_harness(
        Request(
            spec, ("dpo", "orpo"), 1, tmp_path / "results", say=lambda _: None, watch=lambda *event: told.append(event)
        )
    )
    assert told == [
        ("sft seed 0", "waiting"), ("dpo seed 0", "waiting"), ("orpo seed 0", "waiting"),
        ("SFT", "training"), ("SFT", "done"),
        ("training reward model", "training"), ("training reward model", "done"),
        ("evaluation reward model", "training"), ("evaluation reward model", "done"),
        ("reference log-probs", "training"), ("reference log-probs", "done"),
        ("sft seed 0", "responses"), ("sft seed 0", "scores"), ("sft seed 0", "done"),
        ("dpo seed 0", "training"), ("dpo seed 0", "failed"),
        ("orpo seed 0", "training"), ("orpo seed 0", "responses"), ("orpo seed 0", "scores"), ("orpo seed 0", "done"),
    ]  # fmt: skip
