"""The types that a user's own mypy finds: a plugin, what `bench new-method` writes, and the Python API."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import get_args

import pytest

from alignment_bench.benchmarks.cli.scaffold import Kind, new_method

ROOT = Path(__file__).parent.parent

SETTINGS = """\
[mypy]
check_untyped_defs = True
# thousands of files that take half of the time
[mypy-ray.*,torch._dynamo.*,torch._inductor.*,transformers.*]
follow_imports = skip
"""
API = """\
from alignment_bench import load_run, plan, run

print(plan("quick", ["ppo", "dpo"])["seconds"].sum())
results = run("quick", ["ppo", "dpo"], seeds=3, settings={"methods.dpo.beta": 0.05})
sentences: list[str] = results.verdict
print(load_run(results.path).compare(results), results.table[["method", "mean"]])
"""
WRONG = """\
from dataclasses import dataclass
from typing import ClassVar

from alignment_bench import load_run
from alignment_bench.methods.pairwise import PairLogps, PairwiseMethod

load_run("results/runs/quick").verdict.upper()


@dataclass(frozen=True, kw_only=True)
class OfPrompts(PairwiseMethod):
    needs_prompt: ClassVar[bool] = True

    def loss(self, logps: PairLogps) -> float:
        return 0.0
"""


def test_a_users_own_code_passes_mypy_and_its_mistakes_do_not(tmp_path):
    """As beside an installed package: nothing in it is reported, and `py.typed` says that its types count."""
    pytest.importorskip("mypy", reason="mypy, of the extra `test`, is not installed")
    venv.create(tmp_path / "venv", symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    (packages / "alignment_bench").symlink_to(ROOT, target_is_directory=True)
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    kinds = get_args(Kind)
    written = [path for kind in kinds for path in new_method(f"my_{kind}", tmp_path, kind) if path.suffix == ".py"]
    for path in (*written, ROOT / "tests/plugin/slic_plugin.py"):
        shutil.copy(path, tmp_path)
    for name, text in (("mypy.ini", SETTINGS), ("api.py", API), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text)
    files = [*(path.name for path in written), "slic_plugin.py", "api.py", "wrong.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", tmp_path / "venv/bin/python", *files],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("MYPY")},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    upper, loss, found = done.stdout.splitlines()
    assert upper == 'wrong.py:7: error: "list[str]" has no attribute "upper"  [attr-defined]'
    assert loss.startswith('wrong.py:14: error: Return type "float" of "loss" incompatible with return type "Tensor"')
    assert found == "Found 2 errors in 1 file (checked 9 source files)"
