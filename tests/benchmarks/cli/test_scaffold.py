"""`bench new-method`: what it writes can be imported, its loss is right, and bad names are refused."""

import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.cli.scaffold import new_method
from alignment_bench.errors import InputError


def test_package_is_complete_and_its_loss_test_passes(tmp_path):
    files = new_method("my_dpo", tmp_path)
    assert [f.name for f in files] == ["pyproject.toml", "my_dpo_method.py", "test_my_dpo.py", "README.md"]
    project = tomllib.loads(files[0].read_text())
    assert project["project"]["entry-points"]["alignment_bench.methods"] == {"my_dpo": "my_dpo_method:MyDpo"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "by_hand", str(files[2])],
        cwd=files[0].parent, capture_output=True, text=True,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr


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
