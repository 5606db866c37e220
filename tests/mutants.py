"""A test of the tests, by hand: one-line mistakes in the code that learns, and who notices them.

`python tests/mutants.py [NAME ...]` copies the package into a temporary folder, makes one mistake at a time there (all
of mistakes.py and mistakes_relatives.py, or those named), runs the tests named beside it until one fails, and writes
which test that was into results/published/mutants.json. It prints the mistakes that no test noticed, then ends with 1.

Each mistake has a process of its own, forked from this one, which has imported the libraries but nothing of ours.
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from mistakes import MUTANTS as OF_THE_FIRST
from mistakes import Mutant
from mistakes_relatives import MUTANTS as OF_RELATIVES

MUTANTS = [*OF_THE_FIRST, *OF_RELATIVES]
ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "results" / "published" / "mutants.json"
LIMIT = 900  # seconds that the tests of a mutant may take
LEFT_OUT = (".git", ".venv", "__pycache__", "*.egg-info", "cache", "runs", ".*_cache")
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LIBRARIES = ("numpy", "torch", "transformers.models.llama.modeling_llama", "peft", "pytest", "scipy.stats")


class Copy:
    """A copy of the package, in which mistakes are made and tests run, under the name that the tests import."""

    def __init__(self, folder: Path):
        self.root, self.path, self.output = folder / "copy", folder / "path", folder / "output"
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        self.path.mkdir()
        (self.path / "alignment_bench").symlink_to(self.root)

    def killer(self, mutant: Mutant) -> str | None:
        """The test that notices a mistake; None where none does."""
        file = self.root / mutant.file
        source = file.read_text()
        if (count := source.count(mutant.old)) != 1:
            sys.exit(f"{mutant.name}: {mutant.old!r} stands {count} times in {mutant.file} and not once; adapt it")
        file.write_text(source.replace(mutant.old, mutant.new))
        try:
            return self.failing(mutant.tests)
        finally:
            file.write_text(source)

    def failing(self, tests: tuple[str, ...]) -> str | None:
        """The first test that fails; None where all pass."""
        child = os.fork()
        if not child:
            self._test(tests)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return None
        shown = self.output.read_text()
        found = re.search(r"^FAILED (\S.*?)(?: - .*)?$", shown, re.MULTILINE)
        if not found:
            sys.exit(f"pytest {' '.join(tests)} ended with {code}, and no test failed:\n{shown[-2000:]}")
        return found[1]

    def _test(self, tests: tuple[str, ...]) -> None:
        """All that the forked process does: the tests, with whatever they print in a file; it does not return."""
        code = 1
        try:
            signal.alarm(LIMIT)
            os.chdir(self.root)
            with open(self.output, "w") as stream:
                for number in (1, 2):
                    os.dup2(stream.fileno(), number)
            sys.path.insert(0, str(self.path))
            os.environ["PYTHONPATH"] = str(self.path)  # of processes that tests start
            imported = Path(import_module("alignment_bench").__file__).resolve()
            if not imported.is_relative_to(self.root.resolve()):
                print(f"the tests would import {imported} and not the copy in {self.root}")
                return
            code = int(import_module("pytest").main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            sys.stdout.flush()
            os._exit(code)


def main(names: list[str]) -> int:
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no mutant is called {unknown[0]!r}; the names stand in tests/mistakes.py")
    chosen = [known[name] for name in names] or MUTANTS
    rows = json.loads(PUBLISHED.read_text())["mutants"] if names and PUBLISHED.exists() else []
    killed = {row["name"]: row["killed_by"] for row in rows}
    os.environ.update(ENVIRONMENT)
    sys.dont_write_bytecode = True
    for library in LIBRARIES:
        import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        if failing := copy.failing(tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))):
            sys.exit(f"{failing} fails without any mistake; repair it first")
        for number, mutant in enumerate(chosen, 1):
            killed[mutant.name] = copy.killer(mutant)
            print(f"{number}/{len(chosen)} {mutant.name}: {killed[mutant.name] or 'SURVIVED'}", flush=True)
            rows = [{"name": m.name, "file": m.file, "killed_by": killed[m.name]} for m in MUTANTS if m.name in killed]
            date = datetime.now(UTC).date().isoformat()
            PUBLISHED.write_text(json.dumps({"date": date, "mutants": rows}, indent=2) + "\n")
    survivors = [mutant.name for mutant in chosen if not killed[mutant.name]]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed" + "".join(f"\nsurvived: {s}" for s in survivors))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
