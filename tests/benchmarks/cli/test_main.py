"""The command line as a whole: errors in one sentence, exit codes, help with examples, completion."""

import os
import platform
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.cli.show import complete_benchmark, complete_methods


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_all_commands_are_there():
    assert {"run", "report", "list", "show", "compare", "check", "audit-judge", "doctor", "new-method"} <= {
        path[0] for path in COMMANDS
    }
    assert {("cache", "ls"), ("cache", "gc")} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_help_has_an_example_of_the_command(path):
    assert f"Example: bench {' '.join(path)}" in COMMANDS[path].help


@pytest.mark.parametrize("command", ["run", "tune", "collect"])
def test_no_word_of_the_help_is_cut_off_at_80_columns(command):
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    assert "--root" in shown and max(map(len, shown.splitlines())) <= 80 and "…" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sho"], "No such command 'sho'. Did you mean 'show'?; see bench --help"),
        (["run", "--metod", "dpo"], "--method"),
        (["run"], "nothing to compare: give methods with --method ppo,dpo, or policies with --policy NAME=FOLDER"),
        (["run", "-m", "dpo", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["cache", "lss"], "Did you mean 'ls'"),
        (["run", "-m", ","], "--method names no method"),
        (["run", "-m", "dpo", "--gate", "maybe"], "--gate maybe is not known"),
    ],
)
def test_errors_are_one_sentence(bench, tmp_path, arguments, said):
    done = bench(*arguments, cwd=tmp_path, code=2)
    assert said in done.stderr and done.stderr.startswith("bench: ") and len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == "" and not list(tmp_path.iterdir())


def test_without_arguments_the_help_is_shown(bench, tmp_path):
    assert "doctor" in bench(cwd=tmp_path, code=2).stdout


def test_the_version_is_the_installed_one(bench, tmp_path):
    said = bench("--version", cwd=tmp_path).stdout
    assert said == f"alignment-bench {version('alignment-bench')}, Python {platform.python_version()}\n"


def test_an_interrupted_run_says_that_nothing_is_lost(bench, tmp_path, monkeypatch):
    from alignment_bench.benchmarks import harness

    def interrupted(request):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "run", interrupted)
    done = bench("run", "-m", "dpo", cwd=tmp_path, code=130)
    assert done.stderr.strip() == ("bench: interrupted; finished stages are kept, the same command goes on from there")


def test_ctrl_c_in_a_finalizer_counts(bench, tmp_path, monkeypatch):
    """Python prints what is raised in one, and goes on; what then waits for half a minute is not waited for."""
    from alignment_bench.benchmarks import harness

    class Presses:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def interrupted(request):
        pressed = Presses()
        del pressed
        time.sleep(30)

    monkeypatch.setattr(harness, "run", interrupted)
    started = time.monotonic()
    said = bench("run", "-m", "dpo", cwd=tmp_path, code=130).stderr
    assert time.monotonic() - started < 25
    assert said.strip() == "bench: interrupted; finished stages are kept, the same command goes on from there"


def test_completion_of_names():
    assert complete_benchmark("qu") == ["quick"]
    assert complete_methods("ppo,or") == ["ppo,orpo"] and "dpo" in complete_methods("")
    shell = {**os.environ, "_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": "bench run -b ul", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "from alignment_bench.benchmarks.cli.main import app; app(prog_name='bench')"],
        env=shell, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["ultrafeedback"]
