"""`bench cache`: what a run refers to stays, wherever the run lies; the rest goes, and only when it is old enough."""

import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.cache import cache
from alignment_bench.results.cache import look, remove
from alignment_bench.results.hold import FOLDER, held
from alignment_bench.results.integrity import MANIFEST, write_json
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import Store

LATER = datetime.now(UTC) + timedelta(days=2)
DAY = timedelta(days=1)


def make(store, name, **inputs):
    """A stage of a process that has ended since: its store is gone."""
    return Store(store.root).stage(name, inputs, lambda out: (out / f"{name}.bin").write_text(f"{name} {inputs}"))


@pytest.fixture
def work(tmp_path):
    """A run outside the root with one cell, and stages that it does and does not refer to."""
    store = Store(tmp_path / "results")
    corpus = make(store, "corpus", source="s")
    sft = make(store, "sft", lr=1)
    reward_model = make(store, "reward_model", sft=sft.content)
    train = make(store, "train", sft=sft.content, pairs="p", reward=reward_model.content)
    generations = make(store, "generations", policy=f"{train.content}/000016")
    scores = make(store, "scores", responses=generations.content)
    everything = make(store, "all_scores", parts=[scores.content])
    beside = (
        make(store, "reference", sft=sft.content, pairs="p"),
        make(store, "reward_audit", model=reward_model.content),
    )
    unused = (
        make(store, "corpus", source="t"),
        make(store, "train", sft=sft.content, pairs="q"),
        make(store, "reference", sft=sft.content, pairs="q"),
    )
    run = Run(tmp_path / "elsewhere")
    contract = {"sft": {"content": sft.content}, "reward_model": {"training": reward_model.content}}
    record = {"run_id": "r", "created": "now", "commands": [], "contract": contract, "methods": {"dpo": {}}}
    record["data"] = {"source": "pairs.jsonl", "stage": corpus.key}
    run.open(record)
    run.place("dpo", 0, [generations, everything])
    kept = {corpus.path, sft.path, reward_model.path, train.path, generations.path, scores.path, everything.path}
    return store, run, kept | {stage.path for stage in beside}, {stage.path for stage in unused}


def test_what_a_run_refers_to_is_kept(work):
    """By the cell's keys; by the contract; by what these were made from; and what was made beside them."""
    store, run, kept, unused = work
    store.remember(run.path)
    store.remember(run.path)
    assert store.remembered() == [run.path]
    found = look(store)
    assert {i.path for i in found.items if i.kept} == kept
    assert {i.path for i in found.removable(DAY, LATER)} == unused
    assert found.removable(DAY) == []  # used just now
    freed, busy = remove(found.removable(DAY, LATER))
    assert busy == [] and freed > 0
    assert {m.path for m in store.made()} == kept and not any(path.exists() for path in unused)
    assert list(run.cells())[0].path.joinpath("all_scores.bin").exists()


def test_a_run_below_the_root_needs_no_register(work):
    store, run, kept, _ = work
    assert {i.path for i in look(store).items if i.kept} == set()  # nobody told where it lies
    home = store.root / "runs" / "quick" / "r"
    home.parent.mkdir(parents=True)
    run.path.rename(home)
    assert {i.path for i in look(store).items if i.kept} == kept


def test_a_run_that_is_gone_is_named(work):
    store, run, _, _ = work
    store.remember(run.path)
    run.path.rename(run.path.with_name("moved"))
    found = look(store)
    assert found.missing == [run.path] and found.runs == []


def test_while_a_run_may_not_be_read_every_stage_is_kept(work, monkeypatch):
    """It lies in the folder of another user, who alone knows what it refers to."""
    store, run, _, _ = work
    store.remember(run.path)

    def hidden(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Run, "exists", property(hidden))
    found = look(store)
    assert (found.unseen, found.missing, found.runs) == ([run.path], [], [])
    assert found.removable(DAY, LATER) == []
    said = CliRunner().invoke(cache, ["ls", "--root", str(store.root)]).stdout
    assert f"for it may refer to it: {run.path}\n" in said


def test_links_free_nothing_and_work_in_progress_is_left_alone(work):
    store, run, _, unused = work
    stage = sorted(unused)[0]
    (item,) = [i for i in look(store).items if i.path == stage]
    payload = next(stage.glob("*.bin"))
    assert item.frees == item.size
    os.link(payload, run.path / "link")
    assert item.frees == item.size - payload.stat().st_size
    with FileLock(stage.parent / f".{stage.name}.lock"):
        assert remove([item]) == (0, [stage])
    assert payload.exists()


def test_leftovers_are_found_and_verdicts_never(work):
    store, _, _, _ = work
    (store.root / "cache" / "train" / ".0123.abc.partial").mkdir()
    damaged = store.root / "cache" / "train" / "0123.damaged-2026"
    damaged.mkdir()
    write_json(damaged / "half.json", {})
    (store.verdicts).mkdir()
    (store.verdicts / "judge.jsonl").write_text("paid for")
    found = look(store)
    assert {(i.path.name, i.kind) for i in found.items if i.kind in ("broken off", "damaged")} == {
        (".0123.abc.partial", "broken off"), ("0123.damaged-2026", "damaged"),
    }  # fmt: skip
    assert found.verdicts == 8
    remove([i for i in found.items if not i.kept])
    assert not damaged.exists() and (store.verdicts / "judge.jsonl").read_text() == "paid for"


def old_train(store):
    """Inputs of the stage that no run refers to and that was made from `sft`, which a run refers to."""
    sft = store.find("sft", {"lr": 1})
    return {"sft": sft.content, "pairs": "q"}


def test_what_a_run_at_work_uses_is_held(work):
    """However long ago it was made; also where the run finds it after gc has looked, and before it deletes."""
    store, run, _, unused = work
    store.remember(run.path)
    (path,) = [p for p in unused if p.parent.name == "train"]
    before = look(store).removable(DAY, LATER)
    running = Store(store.root)
    found = running.stage("train", old_train(store), lambda out: pytest.fail("it is there"))
    assert found.path == path
    assert {i.path for i in look(store).removable(DAY, LATER)} == {p for p in unused if p.parent.name == "corpus"}
    _, busy = remove([i for i in before if i.path == path])
    assert busy == [path] and path.exists()
    del running
    _, busy = remove([i for i in before if i.path == path])
    assert busy == [] and not path.exists()


def test_a_killed_process_holds_nothing(work):
    store, _, _, unused = work
    (path,) = [p for p in unused if p.parent.name == "train"]
    told, tell = os.pipe()
    if (child := os.fork()) == 0:
        running = Store(store.root)
        running.stage("train", old_train(store), lambda out: None)
        os.write(tell, b"!")
        signal.pause()
    os.read(told, 1)
    assert path in held(store.cache)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert held(store.cache) == set()
    assert path in {i.path for i in look(store).removable(DAY, LATER)}
    running = Store(store.root)
    running.stage("train", old_train(store), lambda out: None)
    assert held(store.cache) == {path} and len(list((store.cache / FOLDER).glob("*.txt"))) == 1  # and left no litter


def test_age_counts_from_use(work):
    store, _, _, unused = work
    (path,) = [p for p in unused if p.parent.name == "train"]

    def is_removable(now):
        return path in {i.path for i in look(store).removable(DAY, now)}

    os.utime(path / MANIFEST, (0, 0))  # by a copy that kept no times, say
    assert is_removable(LATER)
    Store(store.root).stage("train", old_train(store), lambda out: None)
    assert abs((path / MANIFEST).stat().st_mtime - datetime.now().timestamp()) < 60
    soon = (LATER - timedelta(hours=23)).timestamp()
    os.utime(path / MANIFEST, (soon, soon))
    assert not is_removable(LATER) and is_removable(LATER + timedelta(hours=2))
