"""Keys depend on rooms: what a stage's key takes in, and what it leaves out."""

import importlib
import inspect
import shutil
import sys
from pathlib import Path

import pytest
import test_architecture as architecture

from alignment_bench.benchmarks import context
from alignment_bench.benchmarks.context import (
    LOSSES,
    MODEL_CODE,
    SCORING_CODE,
    TRAINING_CODE,
    class_code,
    functions_code,
    method_code,
)
from alignment_bench.benchmarks.definition.plugins import available, load
from alignment_bench.results import integrity
from alignment_bench.results.integrity import code_digest

PLAIN = ("errors", "results")  # what is told to people, and what lies on disk: no number is made there
OURS = {group: [n for n, e in available(group).items() if e.value.startswith("alignment_bench.")] for group in
        ("methods", "evaluators")}  # fmt: skip
STAGES = {  # where the code of a stage begins, and the folders that its key depends on
    "sft": ("training.sft", TRAINING_CODE),
    "reward_model": ("training.reward_model", TRAINING_CODE),
    "reference": ("training.task", TRAINING_CODE),
    "generations": ("models.sampling", MODEL_CODE),
    **{
        f"scores of {name}": (load("evaluators", name).__module__, SCORING_CODE)
        for name in OURS["evaluators"]
        if not getattr(load("evaluators", name), "keeps_answers", False)  # the key is then of the scores themselves
    },
}


def reached(start: str) -> set[str]:
    """The modules of ours that a module imports, and those that they import, and so on; itself too."""
    arrows, found, new = architecture.arrows(), set(), {start.removeprefix("alignment_bench.")}
    while new:
        found |= new
        new = {name for each in new for name in arrows[each]} - found
    return found


def lies_in(module: str, parts) -> bool:
    path = architecture.modules()[module].relative_to(architecture.ROOT)
    return any(path == Path(part) or Path(part) in path.parents for part in parts)


@pytest.mark.parametrize("stage", STAGES)
def test_all_code_of_a_stage_lies_in_the_folders_of_its_key(stage):
    start, folders = STAGES[stage]
    outside = [m for m in reached(start) if not lies_in(m, (*folders, *PLAIN, "errors.py"))]
    assert outside == []


@pytest.mark.parametrize("method", OURS["methods"])
def test_all_code_of_a_cell_lies_in_the_folders_and_files_of_its_key(method):
    """Beside the folders: the files of the classes that the method inherits from, and the losses.

    A file of several methods (TRL's) also imports what the others inherit from; what only a method's trainer inherits
    from is in no key.
    """
    cls = load("methods", method)
    beside = [
        c
        for c in vars(sys.modules[cls.__module__]).values()
        if inspect.isclass(c) and c.__module__ == cls.__module__ and hasattr(c, "train")
    ]
    names = {name.removeprefix("alignment_bench.") for c in beside for name in class_code(c)["files"]}
    own = [architecture.modules()[n].relative_to(architecture.ROOT) for n in names if n in architecture.modules()]
    parts = [*TRAINING_CODE, *PLAIN, "errors.py", LOSSES, *own]
    assert [m for m in reached(cls.__module__) if not lies_in(m, parts)] == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of our code whose files may be changed; keys depend on it meanwhile."""
    for room in ("models", "runtime", "training", "methods", "evaluators"):
        shutil.copytree(integrity.PACKAGE / room, tmp_path / room, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(integrity, "PACKAGE", tmp_path)
    return tmp_path


def digests():
    code_digest.cache_clear()
    found = code_digest(*MODEL_CODE), code_digest(*TRAINING_CODE), code_digest(*SCORING_CODE)
    code_digest.cache_clear()
    return found


@pytest.mark.parametrize(
    ("file", "changed"),
    [  # keys of what goes through a model, of what trains, of what scores
        ("methods/best_of_n.py", (False, False, False)),
        ("methods/new_method.py", (False, False, False)),
        ("models/layout.py", (True, True, True)),
        ("models/deeper/still/new.py", (True, True, True)),
        ("runtime/sharding.py", (True, True, True)),
        ("training/loop.py", (False, True, False)),
        ("evaluators/gold.py", (False, False, True)),
        ("evaluators/refusals/prompts.jsonl", (False, False, True)),
    ],
)
def test_a_change_reaches_the_keys_of_its_room(package, file, changed):
    before = digests()
    (package / file).parent.mkdir(parents=True, exist_ok=True)
    with open(package / file, "a") as stream:
        stream.write("# a comment\n")
    assert tuple(a != b for a, b in zip(before, digests(), strict=True)) == changed


def test_a_key_never_hangs_on_nothing():
    with pytest.raises(FileNotFoundError, match="no_such_room"):
        code_digest("models", "no_such_room")


def test_a_methods_key_hangs_on_its_losses_and_on_no_other_method(package, monkeypatch):
    monkeypatch.setattr(context, "code_digest", code_digest)
    cls = load("methods", "dpo")
    assert set(class_code(cls)["files"]) == {"alignment_bench.methods.dpo", "alignment_bench.methods.pairwise"}
    code_digest.cache_clear()
    before = method_code(cls)
    with open(package / LOSSES, "a") as stream:
        stream.write("# a comment\n")
    code_digest.cache_clear()
    assert method_code(cls)["losses"] != before["losses"]
    code_digest.cache_clear()


def test_a_plugins_key_hangs_on_its_base_classes_in_other_files(tmp_path, monkeypatch):
    (tmp_path / "team_base.py").write_text("class Base:\n    x = 1\n")
    (tmp_path / "team_method.py").write_text("from team_base import Base\nclass Method(Base):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cls = importlib.import_module("team_method").Method
    before = class_code(cls)
    assert set(before["files"]) == {"team_base", "team_method"}
    (tmp_path / "team_base.py").write_text("class Base:\n    x = 2\n")
    assert class_code(cls) != before
    for name in ("team_base", "team_method"):
        del sys.modules[name]


def test_a_cells_key_hangs_on_the_functions_that_settings_name(tmp_path, monkeypatch):
    (tmp_path / "team_quantity.py").write_text("def words(prompt, response):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = functions_code(["team_quantity:words", "math:sqrt"])
    assert before == functions_code(["team_quantity:words", "math:sqrt"]) and before["math:sqrt"] == ""
    (tmp_path / "team_quantity.py").write_text("def words(prompt, response):\n    return 2\n")
    assert functions_code(["team_quantity:words"])["team_quantity:words"] != before["team_quantity:words"]
    del sys.modules["team_quantity"]


def test_a_plugins_key_hangs_on_its_packages_version():
    """The test plugin's package and version stand in its key; ours, whose code counts, does not."""
    assert class_code(load("methods", "slic"))["versions"].keys() == {"alignment-bench-plugin-example"}
    assert class_code(load("methods", "dpo"))["versions"] == {}
