"""The one-way flow of imports, that there are no circles, and that what is declared is what is there."""

import ast
import subprocess
import sys
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Who may import whom: a room imports those below it, never its neighbours, and not what NEVER names.
ROOMS = [
    {"benchmarks"},
    {"preferences", "methods"},
    {"evaluators", "training", "reports"},
    {"models", "analysis"},
    {"results"},
    {"runtime"},
    {"errors"},
]
NEVER = {
    "methods": {"evaluators", "reports", "preferences", "analysis"},
    "reports": {"models", "training"},
    "training": {"analysis"},
    "preferences": {"methods", "training", "reports"},
}
BENCHMARKS = [  # the same within benchmarks: folders and modules at its top
    {"api"},
    {"cli"},
    {"studies", "selfcheck"},
    {"plan", "worker", "export", "export_policy", "watch"},
    {"harness"},
    {"contract", "engine", "checks", "summing_up", "estimate"},
    {"notes"},
    {"stages"},
    {"data", "request"},
    {"definition"},
    {"context", "tracker", "judging", "world", "cost"},
    {"world_reward"},
]


@lru_cache
def modules() -> dict[str, Path]:
    """Our modules by their dotted name without the package's; a folder's own is named by the folder."""
    files = [p for folder in folders() for p in folder.glob("*.py")] + [ROOT / "errors.py"]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


def folders() -> list[Path]:
    """Every folder of ours that is a package."""
    rooms = [ROOT / name for level in ROOMS for name in level if (ROOT / name).is_dir()]
    return [p for room in rooms for p in (room, *room.iterdir()) if (p / "__init__.py").is_file()]


def imports(source: str, module: str, *, package: bool = False) -> set[str]:
    """The modules of ours that a module imports, wherever the import stands, relative or absolute."""
    here = module.split(".") if package else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("alignment_bench.") for a in node.names if "alignment_bench." in a.name}
        if not isinstance(node, ast.ImportFrom):
            continue
        name = node.module or ""
        if node.level:
            base = here[: len(here) - node.level + 1] + ([name] if name else [])
        elif name.split(".")[0] == "alignment_bench":
            base = name.split(".")[1:]
        else:
            continue
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            found.add(whole if whole in modules() else ".".join(base))
    return {name for name in found if name in modules()}


@lru_cache
def arrows() -> dict[str, set[str]]:
    """Each module with those that it imports."""
    return {m: imports(p.read_text(), m, package=p.name == "__init__.py") - {m} for m, p in modules().items()}


def place(levels: list[set[str]], name: str) -> int:
    (found,) = [i for i, level in enumerate(levels) if name in level]
    return found


def is_upward(importer: str, imported: str) -> bool:
    """An import that the rule forbids."""
    (room, *inner), (other, *target) = importer.split("."), imported.split(".")
    if room != other:
        return place(ROOMS, room) >= place(ROOMS, other) or other in NEVER.get(room, ())
    if room != "benchmarks" or not inner or not target or inner[0] == target[0]:
        return False
    return place(BENCHMARKS, inner[0]) >= place(BENCHMARKS, target[0])


def test_no_import_goes_upward():
    assert [(a, b) for a, found in arrows().items() for b in found if is_upward(a, b)] == []


def test_no_circles():
    """Modules that nothing left imports are removed until none is left; a circle would stay."""
    left = dict(arrows())
    while ends := [name for name, found in left.items() if not found & left.keys()]:
        for name in ends:
            del left[name]
    assert left == {}


@pytest.mark.parametrize(
    ("module", "line", "imported"),
    [
        ("results.store", "from ..methods.dpo import DPO", "methods.dpo"),
        ("results.store", "from ..methods import dpo", "methods.dpo"),
        ("results.store", "import alignment_bench.methods.dpo", "methods.dpo"),
        ("results.store", "from alignment_bench.methods import dpo", "methods.dpo"),
        ("results.store", "def late():\n    from alignment_bench.methods.dpo import DPO", "methods.dpo"),
        ("benchmarks.stages.trained", "from ..harness import run", "benchmarks.harness"),
        ("models.network", "from ..analysis.statistics import interval", "analysis.statistics"),
        ("methods.dpo", "from ..evaluators.gold import Gold", "evaluators.gold"),
        ("training.loop", "from .. import methods", "methods"),
        ("errors", "from .results.store import Store", "results.store"),
    ],
)
def test_the_rule_sees_every_form_of_import(module, line, imported):
    assert imports(line, module) == {imported}
    assert is_upward(module, imported)


def test_packages_are_the_folders():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    names = {"alignment_bench." + ".".join(p.relative_to(ROOT).parts) for p in folders()}
    assert set(declared) == {"alignment_bench", *names} and len(declared) == len(set(declared))
    with_code = {p.parent for p in ROOT.glob("*/**/*.py") if p.parts[len(ROOT.parts)][0] != "."}
    shipped = {p for p in with_code if p.relative_to(ROOT).parts[0] in {name for level in ROOMS for name in level}}
    assert shipped - {ROOT / "evaluators" / "lm_eval_tasks"} == set(folders())


def test_the_top_of_benchmarks_is_small():
    assert len(list((ROOT / "benchmarks").glob("*.py"))) <= 20


def test_help_list_and_wrong_names_import_nothing_slow():
    code = (
        "import sys; from typer.testing import CliRunner; from alignment_bench.benchmarks.cli.main import app; "
        "results = [CliRunner().invoke(app, a) for a in (['--help'], ['run', '--help'], ['list'])]; "
        "assert all(r.exit_code == 0 for r in results), results; assert 'dpo' in results[2].output; "
        "wrong = (['run', '-m', 'dpo', '--device', 'gpu'], ['run', '-m', 'dpoo'], ['run', '-m', 'dpo', '-b', 'quik']); "
        "said = [str(CliRunner().invoke(app, a).exception) for a in wrong]; "
        "known = ['--device gpu is not known', \"there is no method 'dpoo'\", \"there is no benchmark 'quik'\"]; "
        "assert [s.split(',')[0].split(';')[0] for s in said] == known, said; "
        "slow = {'torch', 'transformers', 'scipy', 'pandas', 'uvicorn'} & {*sys.modules}; assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
