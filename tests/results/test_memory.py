"""What this process is seen to hold, and to have held at most."""

import sys

import numpy as np
import pytest

from alignment_bench.results import memory

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can measure a peak anew")
def test_a_block_is_seen_while_it_is_held_and_in_the_peak_until_that_is_reset():
    memory.give_back()
    memory.reset_peak()
    before = memory.resident()
    block = np.ones(64 * MIB, np.uint8)
    assert memory.resident() - before == pytest.approx(64 * MIB, rel=0.1)
    del block
    memory.give_back()
    assert memory.resident() - before < 8 * MIB
    assert memory.peak() - before == pytest.approx(64 * MIB, rel=0.1)
    memory.reset_peak()
    assert memory.peak() - before < 8 * MIB


def test_a_system_that_does_not_tell(monkeypatch):
    """Then the peak is that of the process's whole life, which is never below what it holds."""

    def nothing(*given, **options):
        raise OSError

    monkeypatch.setattr("pathlib.Path.read_text", nothing)
    monkeypatch.setattr("pathlib.Path.write_text", nothing)
    memory.reset_peak()
    assert memory.peak() > 0.9 * memory.resident()
