"""Runs that other versions wrote: old ones are read, newer ones are refused with one sentence."""

import json
import re
import shutil
from pathlib import Path

import pytest

from alignment_bench.errors import InputError
from alignment_bench.results.integrity import write_record
from alignment_bench.results.run_folder import FORMAT, Run

FIRST = Path(__file__).parent / "first_version"  # a run of the first published code, without weights and report


def test_a_run_of_the_first_version_is_read(bench, tmp_path):
    place = Path(shutil.copytree(FIRST, tmp_path / "run"))
    assert "format" not in json.loads((place / "run.json").read_text())
    shown = bench("show", place, cwd=tmp_path).stdout
    assert re.search(r"dpo .*0\.58 \[0\.24, 0\.86\]", shown)  # 3.5 of 6 prompts, as it was printed when it was made
    bench("report", place, cwd=tmp_path)
    page = (place / "report" / "report.md").read_text()
    assert "could not be read" not in page and "58" in page
    assert json.loads(bench("compare", place, FIRST, "--json", cwd=tmp_path).stdout)["changes"]


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
@pytest.mark.parametrize("made", [FORMAT + 1, "2"])
def test_a_run_of_a_newer_version_is_refused(tmp_path, name, made):
    place = Path(shutil.copytree(FIRST, tmp_path / "run"))
    write_record(place / name, {**json.loads((place / name).read_text()), "format": made})
    with pytest.raises(InputError, match=rf"{name} was written in format {made}.*update alignment-bench"):
        assert Run(place).record and Run(place).summary


def test_what_is_written_names_its_format(whole_run, tmp_path):
    run = whole_run(tmp_path)
    assert run.record["format"] == run.summary["format"] == FORMAT
