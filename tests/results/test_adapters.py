"""Bases of adapters on disk: what is moved together stays together. No model is loaded."""

import json
import os

import pytest

from alignment_bench.errors import InputError
from alignment_bench.results.adapters import ADAPTER, NAMED, base_of, is_adapter, is_beside, set_base
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import MODEL, POLICY, Store


def write_adapter(folder, base):
    folder.mkdir(parents=True)
    (folder / ADAPTER).write_text(json.dumps({"r": 2, NAMED: base}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")


def write_model(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"base")


@pytest.fixture
def made(tmp_path):
    """A root with an SFT stage, an adapter on it and one along its training, and a cell of them in a run."""
    store = Store(tmp_path / "results")
    sft = store.stage("sft", {}, lambda out: write_model(out / MODEL))

    def train(out):
        for folder in (out / POLICY, out / "along" / "8"):
            write_adapter(folder, str((sft.path / MODEL).resolve()))

    cell = store.stage("train", {}, train)
    run = Run(tmp_path / "results" / "runs" / "b" / "r")
    run.place("dpo", 0, [cell])
    return sft, cell, run


def test_a_base_in_the_cache_is_named_from_the_adapter(made, tmp_path):
    sft, cell, run = made
    for folder in (cell.path / POLICY, cell.path / "along" / "8"):
        assert base_of(folder) == str((sft.path / MODEL).resolve()) and is_beside(folder)
        assert str(tmp_path) not in (folder / ADAPTER).read_text()
    assert json.loads((cell.path / POLICY / ADAPTER).read_text())["r"] == 2


def test_a_run_has_the_base_beside_its_cells_and_may_be_moved_alone(made, tmp_path):
    sft, _, run = made
    policy, base = run.path / "dpo" / "seed-0" / POLICY, run.path / "sft" / "model"
    assert json.loads((policy / ADAPTER).read_text())[NAMED] == "../../../sft/model"
    assert os.path.samefile(base / "model.safetensors", sft.path / MODEL / "model.safetensors")  # no space
    next(run.path.glob("dpo/seed-0")).joinpath("along", "8", ADAPTER).stat()
    run.path.rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "dpo" / "seed-0"
    for folder in (moved / POLICY, moved / "along" / "8"):
        assert base_of(folder) == str(tmp_path / "moved" / "sft" / "model")


def test_placing_again_changes_nothing_and_repairs_a_damaged_base(made):
    _, cell, run = made
    folder, base = run.path / "dpo" / "seed-0", run.path / "sft" / "model" / "model.safetensors"
    before, place = folder.stat().st_ino, base.stat().st_ino
    run.place("dpo", 0, [cell])
    assert (folder.stat().st_ino, base.stat().st_ino) == (before, place)
    base.unlink()
    base.write_bytes(b"other")
    run.place("dpo", 0, [cell])
    assert base.read_bytes() == b"base"
    assert sorted(path.name for path in base.parent.parent.iterdir()) == ["model"]


def test_a_base_elsewhere_keeps_its_name(tmp_path):
    """A user's own folder and a hub id are no part of the results, and no copy is made of them."""
    store, run = Store(tmp_path / "results"), Run(tmp_path / "run")
    write_model(tmp_path / "mine")
    for number, base in enumerate((str(tmp_path / "mine"), "owner/name")):
        cell = store.stage("train", {"n": number}, lambda out, base=base: write_adapter(out / POLICY, base))
        placed = run.place("dpo", number, [cell])
        assert base_of(placed.path / POLICY) == base and not is_beside(placed.path / POLICY)
    assert not (run.path / "sft").exists()


def test_bases(tmp_path):
    write_adapter(tmp_path / "a", None)
    assert is_adapter(tmp_path / "a") and not is_adapter(tmp_path)
    with pytest.raises(InputError, match="names no base model; set base_model_name_or_path in it"):
        base_of(tmp_path / "a")
    set_base(tmp_path / "a", "owner/name", "main")
    assert base_of(tmp_path / "a") == "owner/name"
    assert json.loads((tmp_path / "a" / ADAPTER).read_text()) == {"r": 2, NAMED: "owner/name", "revision": "main"}
