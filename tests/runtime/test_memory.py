"""Memory that this process holds, and held at most; and what happens to what it frees."""

import platform
import subprocess
import sys

import numpy as np
import pytest

from alignment_bench.runtime import memory

MIB = 2**20
FAULTS = """
import resource, torch
from alignment_bench.runtime import memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(1_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
memory.keep_freed()
blocks = [torch.ones(5_000_000), torch.ones(10_000_000)]
faults()
kept, held = faults(), memory.resident()
del blocks
still = memory.resident()
memory.give_back()
print(kept, (held - still) / 60e6, (held - memory.resident()) / 60e6)
"""


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the C library of GNU")
def test_freed_memory_is_kept_and_given_back():
    """4 MB fifty times are 50,000 pages of 4 KiB, were each taken from the system anew; 60 MB stay until given back."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, let_go, given_back = map(float, done.stdout.split())
    assert kept < 500 and let_go < 0.1 and given_back > 0.5


@pytest.mark.parametrize(
    "largest, expected",
    [(2**31, [(-3, 2**30), (-1, 2**31 - 1)]), (2**25, [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]), (0, None)],
)
def test_a_c_library_that_takes_no_such_threshold(largest, expected, monkeypatch):
    """glibc before 2.35 takes at most 32 MiB; one that takes none is left as it is, or it would become slower."""
    asked = []

    class Library:
        def mallopt(self, name, value):
            asked.append((name, value))
            return int(name != -3 or value <= largest)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library())
    memory.keep_freed()
    assert asked == (expected or [(-3, 2**30), (-3, 2**25)])


def test_memory_of_a_gpu(monkeypatch):
    """What torch has reserved and not given out counts as free; of another device nothing is known."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (5, 80))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 30)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 20)
    assert memory.free_on("cuda:1") == 5 + 30 - 20 and memory.total_on("cuda:1") == 80
    assert memory.free_on("cpu") is memory.total_on("mps") is None
