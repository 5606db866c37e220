"""Try faults: python tests/faults [--times N] [--seed S] [--only NAME ...] [--out FILE] [--list].

Prints a line for each kind, "NAME: tried N, survived N", and ends with 1 where anything was not survived. This process
forks those that work and never trains itself, for a fork of a process with threads may hang.
"""

import argparse
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where tasks.py and conftest.py are

import inputs  # noqa: F401  (siblings, which add their kinds)
import surroundings  # noqa: F401
import trainings  # noqa: F401
import work  # noqa: F401
from conftest import save_tiny_model
from harness import KINDS, World, carry_out, publish
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from alignment_bench.runtime.quiet import quiet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="each kind at least so often")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], help="kinds whose names begin so")
    parser.add_argument("--out", type=Path, help="JSON to put the outcome into, with a page beside it")
    parser.add_argument("--list", action="store_true", help="print the kinds and end")
    given = parser.parse_args()
    chosen = [k for name, k in KINDS.items() if not given.only or name.startswith(tuple(given.only))]
    if given.list or not chosen:
        print("\n".join(KINDS))
        return 0 if given.list else 2
    quiet()
    get_checkpoint_conversion_mapping("llama")  # fills transformers' cache
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "work", save_tiny_model(Path(folder) / "model"))
        for each in chosen:
            if each.needs and find_spec(each.needs) is None:
                print(f"{each.name}: not tried, for {each.needs} is not installed", flush=True)
                continue
            row = carry_out(world, each, given.times, given.seed)
            if not row["tried"]:
                print(f"{each.name}: cannot be tried here", flush=True)
                continue
            print(f"{each.name}: tried {row['tried']}, survived {row['survived']}", flush=True)
            for failure in row["failures"]:
                print(f"  {failure}", flush=True)
            failed += row["tried"] - row["survived"]
            if given.out:
                publish([row], given.seed, given.out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
