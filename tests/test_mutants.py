"""The mistakes of tests/mistakes.py can still be made, and what is published of them is about the same ones."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))  # where the script finds them when it runs
mutants = import_module("mutants")


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_the_place_of_each_mistake_is_there_once(mutant):
    source = (ROOT / mutant.file).read_text()
    assert source.count(mutant.old) == 1
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / path).read_text()


def test_every_mistake_was_noticed():
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names) >= 40
    rows = json.loads(mutants.PUBLISHED.read_text())["mutants"]
    assert [row["name"] for row in rows] == names
    assert all(row["killed_by"] for row in rows)


def test_a_place_that_is_gone_is_named(tmp_path):
    copy = object.__new__(mutants.Copy)
    copy.root = tmp_path
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(SystemExit, match="'y = 1' stands 0 times in a.py and not once; adapt it"):
        copy.killer(mutants.Mutant("m", "a.py", "y = 1", "y = 2", ()))
