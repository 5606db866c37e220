"""What is printed: nothing that a terminal obeys passes, on whatever stream, in whatever encoding, closed or not."""

import io
import itertools
import json
import os
import subprocess
import sys
import unicodedata

import pandas
import pytest
from rich.console import Console

from alignment_bench.benchmarks.cli.terminal import Filtered, console, narrower, streams, table, visible

HOSTILE = "a\x1b[2J\x1b]0;owned\x07b\r\u202ec\x9b31m\u2066d\x00\x08\x7f\U000e0041e"
SHOWN = r"a\x1b[2J\x1b]0;owned\x07b\r\u202ec\x9b31m\u2066d\x00\x08\x7f\U000e0041e"
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_every_character_that_is_obeyed_is_written_out():
    """By Unicode's own categories: of all characters."""
    for code in itertools.chain(range(0xD800), range(0xE000, 0x110000)):
        sign = chr(code)
        obeyed = unicodedata.category(sign) == "Cc" and sign not in "\n\t" or unicodedata.bidirectional(sign) in BIDI
        if obeyed:
            assert visible(sign) == sign.encode("unicode_escape").decode()
        elif unicodedata.category(sign) not in ("Cf", "Zl", "Zp", "Cn"):
            assert visible(sign) == sign
    assert visible(HOSTILE) == SHOWN
    assert visible("नमस्ते \u200d👩\u200d🔬 \n\té") == "नमस्ते \u200d👩\u200d🔬 \n\té"  # joiners belong to words and signs


def test_tables_and_lines_are_filtered_and_colours_stay(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    to = console()
    to.print(HOSTILE, soft_wrap=True)
    to.print(table((HOSTILE, "x"), [[HOSTILE, "1"]], title=HOSTILE))
    assert out.getvalue().count(SHOWN) == 4 and not set(out.getvalue()) & set("\x1b\r\u202e\x9b")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", Filtered(out := io.StringIO(), bars=False))
    console().print(table(("a",), [["b"]], title="t"))
    assert "\x1b[1mt" in out.getvalue()  # our own bold


def test_a_bar_may_return_to_its_line_and_no_text_may():
    out = io.StringIO()
    bars = Filtered(out, bars=True)
    for text in ("\r 10%|█ |", "\r", "\n\n", "\x1b[A\x1b[A", f"\r{HOSTILE}\r"):
        bars.write(text)
    assert out.getvalue() == f"\r 10%|█ |\r\n\n\x1b[A\x1b[A\r{SHOWN}\r"
    plain = Filtered(out := io.StringIO(), bars=False)
    plain.write("\x1b[A")
    plain.write("\rok")
    assert out.getvalue() == r"\x1b[A\rok"


def test_the_streams_are_given_back(monkeypatch):
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    with pytest.raises(ValueError), streams():
        print(HOSTILE, end="")
        raise ValueError
    assert sys.stdout is out and out.getvalue() == SHOWN


def test_commands_pass_nothing_on(bench, tmp_path, make_run):
    """A run from elsewhere, a YAML's fields, and an option."""
    run = make_run(tmp_path)
    record = run.summary
    record["benchmark"] = HOSTILE
    run.write_summary(record)
    done = bench("show", run.path, cwd=tmp_path)
    assert SHOWN in done.stdout and not set(done.stdout) & set("\x1b\u202e\x9b")
    (tmp_path / "x.yaml").write_text(f"name: x\nmodel: m\npreferences: {json.dumps(HOSTILE.replace(chr(0), ''))}\n")
    for options in (("-b", "x.yaml"), ("--model", HOSTILE.replace("\0", ""), "-b", "quick"), ("-b", "x\x1b[2J")):
        said = bench("run", "-m", "dpo", *options, "--dry-run", cwd=tmp_path, code=2).stderr
        assert not set(said) & set("\x1b\u202e\x9b"), said


def command(*arguments, **settings):
    code = "from alignment_bench.benchmarks.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], text=True, timeout=100, **settings)


@pytest.fixture
def finished(make_run, tmp_path):
    return make_run(tmp_path)


def test_a_closed_stream(finished, tmp_path):
    """Nothing can be shown and nothing breaks; what is opened later is not taken for the stream."""
    code = "from alignment_bench.benchmarks.cli.main import main; main()"
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        line = f'"$0" -c "$1" show "$2" {closed}'
        done = subprocess.run(["sh", "-c", line, sys.executable, code, finished.path], capture_output=True, timeout=100)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), (closed, done.stderr)


def test_an_ascii_stream(finished, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = command("show", finished.path, env=environment, capture_output=True)
    assert done.returncode == 0 and done.stdout.isascii() and "?" in done.stdout and "win_rate" in done.stdout


def test_a_reader_that_has_seen_enough(finished, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = command("show", finished.path, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_file_where_a_folder_is_wanted(bench, finished, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = bench("report", finished.path, "--out", tmp_path / "file", cwd=tmp_path, code=2)
    assert (
        done.stderr
        == f"bench: {tmp_path / 'file'} is a file, and a folder is to be written there; give another place\n"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_frame_that_is_too_wide_comes_in_tables_of_whole_words():
    """Names of 8, columns of 20 and 3 between: 31 of 31 characters, then a table each; the other way round is two."""
    frame = pandas.DataFrame({name: ["x" * 20] * 2 for name in ("one", "two", "three")}, index=["a" * 8, "b" * 8])

    def heads(width):
        return [[column.header for column in made.columns] for made in narrower("", frame, width)]

    assert heads(77) == [["", "one", "two", "three"]]
    assert heads(76) == [["", *frame.index]]  # 5 + 2 * 23 fit
    assert heads(50) == [["", "a" * 8], ["", "b" * 8]]  # one less than these
    assert heads(10) == [["", "a" * 8], ["", "b" * 8]]


def test_a_head_is_not_broken_within_its_words():
    to = Console(file=io.StringIO(), width=40)
    to.print(table(("unbreakable", "95% interval"), [("word " * 30, "other " * 30)] * 2, right=["95% interval"]))
    shown = to.file.getvalue()
    assert "unbreakable" in shown and "interval" in shown and max(map(len, shown.splitlines())) <= 40
    to = Console(file=io.StringIO(), width=40)
    to.print(table(("configuration", "x"), [("a", "w" * 200)]))
    assert "configuration" in to.file.getvalue()
