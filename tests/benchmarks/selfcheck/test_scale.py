"""The published page on a data set's size holds what is claimed, and the script that measures it runs."""

import json
from pathlib import Path

import pytest

from alignment_bench.benchmarks.selfcheck import scale
from alignment_bench.preferences.read import read_preferences

PUBLISHED = json.loads((scale.PUBLISHED / "scale.json").read_text())["sizes"]
ALONE = [name for name in scale.PHASES if name not in ("found", "train")]  # what takes time for each pair


def test_every_file_holds_the_same_pairs(tmp_path):
    """Two to a prompt; 60 to 120 words a reply."""
    scale.write_files(tmp_path, 30)
    whole = [list(read_preferences(str(tmp_path / name))) for name in scale.FILES]
    assert whole[0] == whole[1] == whole[2] == whole[3] and len(whole[0]) == 30
    assert len({row.prompt[0]["content"] for row in whole[0]}) == 15
    assert all(60 <= len(text.split()) <= 120 for row in whole[0] for text in (row.chosen, row.rejected))


def test_the_page_by_hand():
    """10 pairs in 0.5 s are 50 ms each; the file has 2 MiB, 209,715 bytes for each of 10 pairs."""
    phase = {"seconds": 0.5, "peak_mib": 3.0}
    row = {"file_mib": 2.0, "peak_mib": 4.0, "phases": {name: phase for name in scale.PHASES}}
    found = {"sizes": {"10": row}, "machine": "m", "packages": {"torch": "2"}, "date": "d"}
    page = scale.page(found)
    assert "files of 209,715 bytes a pair" in page
    assert f"| {scale.PHASES['load']} | 50.000 | 3.0 |" in page
    assert f"| {scale.PHASES['train']} | - | 3.0 |" in page
    assert "over all phases | - | 4.0 |" in page


def test_the_published_page_is_derived_from_the_published_figures():
    found = json.loads((scale.PUBLISHED / "scale.json").read_text())
    assert scale.page(found) == Path(scale.PUBLISHED / "scale.md").read_text()


@pytest.mark.parametrize("phase", ALONE)
def test_published_time_is_linear_in_pairs(phase):
    """A pair of 100,000 takes at most 1.3 times as long as one of 10,000; in shuffled order, where hardly two in turn
    lie on the same pages, at most 1.6 times, and less than a tenth of a millisecond."""
    small, large = (PUBLISHED[n]["phases"][phase]["seconds"] / int(n) for n in ("10000", "100000"))
    if phase == "order":
        assert large <= min(1.6 * small, 1e-4)
    else:
        assert large <= 1.3 * small


def test_published_memory_is_flat():
    """100,000 pairs at most 100 MiB above what 1,000 take, in every phase and over all; their file has 118 MiB."""
    few, many = PUBLISHED["1000"], PUBLISHED["100000"]
    assert many["file_mib"] > 100
    assert many["peak_mib"] - few["peak_mib"] < 100
    for phase in scale.PHASES:
        assert many["phases"][phase]["peak_mib"] - few["phases"][phase]["peak_mib"] < 100
