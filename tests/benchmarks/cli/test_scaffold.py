"""`bench new-method`: what it writes can be imported, its loss is right, and bad names are refused."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.cli.scaffold import new_method
from alignment_bench.errors import InputError


@pytest.mark.parametrize(
    ("kind", "group", "module"),
    [
        ("pairwise", "methods", "my_own_method"),
        ("online", "methods", "my_own_method"),
        ("evaluator", "evaluators", "my_own_evaluator"),
    ],
)
def test_package_is_complete_and_its_own_tests_pass(tmp_path, monkeypatch, kind, group, module):
    """As installed: its entry points are read from beside it, and each of its tests is run."""
    files = new_method("my_own", tmp_path, kind)
    assert [f.name for f in files] == ["pyproject.toml", f"{module}.py", "test_my_own.py", "README.md"]
    project = tomllib.loads(files[0].read_text())["project"]
    assert project["entry-points"] == {f"alignment_bench.{group}": {"my_own": f"{module}:MyOwn"}}
    info = files[0].parent / "alignment_bench_my_own-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: alignment-bench-my-own\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[alignment_bench.{group}]\nmy_own = {module}:MyOwn\n")
    monkeypatch.syspath_prepend(str(files[0].parent))
    monkeypatch.delitem(sys.modules, module, raising=False)
    tests = {name: test for name, test in runpy.run_path(str(files[2])).items() if name.startswith("test_")}
    for test in tests.values():
        test()
    assert len(tests) == (1 if kind == "evaluator" else 2)
    sys.modules.pop(module)


def test_the_worked_example_is_what_is_written(tmp_path):
    """REINFORCE in CONTRIBUTING.md, line by line, in the package whose tests pass above."""
    page = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
    part = page[page.index("## An online method: REINFORCE") : page.index("## Leave alone")]
    blocks = re.findall(r"```python\n(.*?)```", part, re.S)
    written = new_method("mine", tmp_path, "online")[1].read_text()
    assert len(blocks) == 2 and all(block in written for block in blocks)


@pytest.mark.parametrize(
    ("name", "words"), [("My-DPO", "cannot be named"), ("class", "cannot be named"), ("dpo", "already a method")]
)
def test_bad_names_are_refused(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        new_method(name, tmp_path)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "alignment-bench-mine").mkdir()
    with pytest.raises(InputError, match="is already there"):
        new_method("mine", tmp_path)


def test_the_command_says_what_comes_next(tmp_path):
    done = CliRunner().invoke(app, ["new-method", "mine", "--parent", str(tmp_path)])
    assert done.exit_code == 0
    assert f"next: pip install -e {tmp_path / 'alignment-bench-mine'}, then bench check mine" in done.output
    done = CliRunner().invoke(app, ["new-method", "long", "--kind", "evaluator", "--parent", str(tmp_path)])
    assert "then pytest" in done.output and (tmp_path / "alignment-bench-long/long_evaluator.py").exists()
