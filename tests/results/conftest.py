"""A run that is written through the store alone, what it comes to, and a place where flushing costs nothing."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alignment_bench.results.integrity import read_record
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import Store, write_jsonl

WEIGHTS = torch.arange(2000.0)


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where the system has such a folder: flushing to a disk thousands of times takes a minute."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def _train(out: Path) -> None:
    """The files of a training: weights in a subfolder, a log, costs."""
    (out / "policy").mkdir()
    save_file({"w": WEIGHTS}, out / "policy" / "model.safetensors")
    (out / "policy" / "config.json").write_text('{"layers": 2}')
    write_jsonl(out / "metrics.jsonl", [{"step": i} for i in range(5)])
    (out / "cost.json").write_text('{"examples": 16}')


def _answer(out: Path) -> None:
    write_jsonl(out / "generations.jsonl", [{"prompt_id": "p", "prompt": [], "response": "x", "length": 1,
                                             "finished": True, "kl": None}])  # fmt: skip


RECORD = {"run_id": "r", "benchmark": "b", "created": "now", "commands": ["c"], "contract": {"x": 1},
          "environment": {}, "data": {}, "methods": {"dpo": {"name": "dpo"}}}  # fmt: skip
SUMMARY = {"run_id": "r", "methods": {"dpo": {"seeds": 1}}, "warnings": ["w" * 500]}


def _whole_run(root: Path, built: list[str] | None = None, evaluators: dict | None = None) -> Run:
    """Two stages, a cell that shows them, run.json and summary.json: everything that a run writes through the store."""

    def noting(name, build):
        def noted(out):
            if built is not None:
                built.append(name)
            build(out)

        return noted

    store, run = Store(root), Run(root / "runs" / "b" / "r")
    run.open(RECORD, evaluators, [("dpo", 0)])
    trained = store.stage("train", {"seed": 0}, noting("train", _train))
    answers = store.stage("generations", {"of": trained.key}, noting("generations", _answer))
    run.place("dpo", 0, [trained, answers], evaluators)
    run.write_summary(SUMMARY)
    return run


def _state(root: Path) -> dict[str, str]:
    """The end state of a run and a cache, without dates, leftovers of killed processes and locks."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in name.split("/")) or ".damaged-" in name:
            continue
        if path.suffix == ".json" and path.name in ("manifest.json", "run.json", "summary.json"):
            record = read_record(path)
            found[name] = {k: v for k, v in record.items() if k not in ("created", "seconds", "sha256", "commands")}
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def build_training():
    """The function that writes what a training leaves into a folder."""
    return _train


@pytest.fixture
def whole_run():
    """whole_run(root, built, evaluators) writes a run below root; built: a list that gets the stages that were made."""
    return _whole_run


@pytest.fixture
def state():
    """state(folder): what lies there by name, without times, leftovers of killed processes and locks."""
    return _state
