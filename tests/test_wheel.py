"""The wheel: all that the package needs and nothing of its tests, and it works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from alignment_bench.benchmarks.cli.doctor import EXTRAS

ROOT = Path(__file__).parent.parent
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = DECLARED["project"]
FOLDERS = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
PUBLISHED = "published"  # folders of outcomes and reports, which are the repository's but for files that are named


def sources() -> set[str]:
    """Files of the package by their path, as they lie here."""
    found = set()
    for folder, inner, files in os.walk(ROOT):
        where = Path(folder).relative_to(ROOT)
        kept = FOLDERS if where == Path() else {name for name in inner if name not in (PUBLISHED, "__pycache__")}
        inner[:] = [name for name in inner if name in kept and not (Path(folder) / name).is_symlink()]
        found |= {str(where / name) for name in files if where != Path()}
    named = [
        str(path.relative_to(ROOT))
        for package, patterns in DECLARED["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        if pattern.startswith(PUBLISHED)
        for path in (ROOT / package.partition(".")[2].replace(".", "/")).glob(pattern)
    ]
    return {name for name in [*found, *named] if not name.startswith(("results/runs/", "results/cache/"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the package's sources, unpacked."""
    copy = tmp_path_factory.mktemp("copy")
    top = ["__init__.py", "__main__.py", "errors.py", "py.typed", "pyproject.toml", "README.md", "LICENSE"]
    for name in [*sources(), *top]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    unpacked = copy / "unpacked"
    with zipfile.ZipFile(next(copy.glob("*.whl"))) as packed:
        packed.extractall(unpacked)
    return unpacked


def test_the_wheel_has_every_file_of_the_package(wheel):
    inside = {
        str(p.relative_to(wheel / "alignment_bench")) for p in (wheel / "alignment_bench").rglob("*") if p.is_file()
    }
    assert {"benchmarks/cli/new_method/pyproject.toml.j2", "models/builtin/judge_model/config.json"} <= sources()
    assert inside == sources() | {"__init__.py", "__main__.py", "errors.py", "py.typed"}
    assert {p.name for p in wheel.iterdir()} == {"alignment_bench", f"alignment_bench-{PROJECT['version']}.dist-info"}


def test_the_wheel_says_what_it_is(wheel):
    (folder,) = wheel.glob("*.dist-info")
    told = Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
    assert set(told.get_all("Provides-Extra")) == set(EXTRAS)
    assert told["License-Expression"] == "MIT" and (folder / "licenses" / "LICENSE").is_file()
    assert told["Requires-Python"] == ">=3.11"
    versions = [c.rpartition(" ")[2] for c in told.get_all("Classifier") if "Python :: 3." in c]
    assert versions == ["3.11", "3.12", "3.13"]
    assert told.get_payload().startswith("# alignment-bench")


def test_the_wheel_works_outside_the_repository(wheel, tmp_path):
    code = (
        "import sys, alignment_bench; print(alignment_bench.__file__); sys.argv[1:] = ['list']; "
        "from alignment_bench.benchmarks.cli.main import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{wheel / 'alignment_bench' / '__init__.py'}\n") and "best_of_n" in done.stdout


def test_the_changelog_tells_of_this_version():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert headings[0].removeprefix("## ").partition(",")[0].split()[0] == PROJECT["version"]
