"""The store: nothing is made twice, nothing broken is used, and what is on disk is kept."""

import json
import platform
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

from alignment_bench.errors import InputError, nearest
from alignment_bench.results.integrity import digest, write_json
from alignment_bench.results.records import Generation, win
from alignment_bench.results.run_folder import Run, find_runs
from alignment_bench.results.store import Store, folder_digest, read_generations, write_jsonl


def text(content, name="a.txt"):
    def build(out):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(content)

    return build


def refuse(out):
    raise AssertionError("this stage must not be made again")


def test_a_stage_is_made_once_per_key(tmp_path):
    store = Store(tmp_path)
    first = store.stage("s", {"x": 1, "y": 2}, text("one"))
    assert first.fresh and (first.path / "a.txt").read_text() == "one"
    again = store.stage("s", {"y": 2, "x": 1}, refuse)
    assert not again.fresh and again.path == first.path and again.content == first.content
    assert store.stage("s", {"x": 2, "y": 2}, text("two")).path != first.path
    assert store.stage("t", {"x": 1, "y": 2}, text("one")).path != first.path


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "manifest"])
def test_a_damaged_stage_is_made_again_and_the_damaged_one_kept(tmp_path, harm):
    store = Store(tmp_path)
    stage = store.stage("s", {}, text("hello"))
    file = stage.path / "a.txt"
    if harm == "flip":
        file.write_text("hellp")
    elif harm == "cut":
        file.write_text("")
    elif harm == "delete":
        file.unlink()
    else:
        (stage.path / "manifest.json").write_text('{"key": ')
    assert store.find("s", {}) is None
    again = store.stage("s", {}, text("hello"))
    assert again.fresh and (again.path / "a.txt").read_text() == "hello"
    assert [p.name for p in stage.path.parent.glob("*.damaged-*")]


def test_who_waits_for_a_stage_is_told_once_whether_it_is_made_or_looked_at(tmp_path, caplog):
    def made():
        return Store(tmp_path).stage("s", {"n": 1}, lambda out: (out / "a").write_text("x")).path

    lock = tmp_path / "cache" / "s" / f".{digest({'stage': 's', 'n': 1})[:20]}.lock"
    lock.parent.mkdir(parents=True)
    held = threading.Event()

    def hold():
        with FileLock(lock):
            held.set()
            time.sleep(0.3)

    for said in ("making", "checking the files of"):
        held.clear()
        caplog.clear()
        threading.Thread(target=hold).start()
        assert held.wait(10) and (made() / "a").read_text() == "x"
        assert caplog.messages == [f"another process is {said} the stage s; waiting for it"]
    caplog.clear()
    assert made() and caplog.messages == []


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def fail(out):
        (out / "half").write_text("half")
        raise ValueError("no")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="no"):
        store.stage("s", {}, fail)
    assert store.find("s", {}) is None
    assert [p for p in (tmp_path / "cache" / "s").iterdir() if not p.name.endswith(".lock")] == []


def test_content_leaves_times_out(tmp_path):
    def build(seconds, weights):
        def write(out):
            (out / "cost.json").write_text(seconds)
            (out / "metrics.jsonl").write_text(seconds)
            (out / "weights").write_text(weights)

        return write

    store = Store(tmp_path)
    a, b, c = (store.stage("s", {"n": n}, build(*v)) for n, v in enumerate([("1", "w"), ("2", "w"), ("1", "v")]))
    assert a.content == b.content != c.content


def record(contract, methods=()):
    return {
        "run_id": "r", "benchmark": "b", "created": "now", "commands": ["c"], "contract": contract,
        "environment": {}, "data": {}, "methods": {m: {"name": m} for m in methods},
    }  # fmt: skip


def test_a_run_grows_under_one_contract_and_refuses_another(tmp_path):
    run = Run(tmp_path / "r")
    run.open(record({"budget": 1, "deep": {"x": 1}}, ["dpo"]))
    run.open(record({"budget": 1, "deep": {"x": 1}}, ["ppo"]))
    assert list(run.record["methods"]) == ["dpo", "ppo"] and run.record["commands"] == ["c", "c"]
    before = folder_digest(run.path)
    with pytest.raises(InputError, match=r"differs in deep\.x"):
        run.open(record({"budget": 1, "deep": {"x": 2}}))
    assert folder_digest(run.path) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run.json"):
        Run(tmp_path / "other").open(record({}))


def test_one_column_has_one_evaluator(tmp_path):
    """Cells remember what scored them; another evaluator of that name may join only by scoring all of them anew."""
    store, run = Store(tmp_path), Run(tmp_path / "r")
    one, two = {"judge": {"model": ["x"], "url": "u"}, "length": {}}, {"judge": {"model": ("y",), "url": "u"}}
    run.open(record({}, ["dpo", "ppo"]), one, [("dpo", 0)])
    made = store.stage("s", {}, text("1"))
    for method in ("sft", "dpo", "ppo"):
        run.place(method, 0, [made], one)
    run.open(record({}, ["dpo"]), one, [("dpo", 0)])
    run.open(record({}, ["dpo"]), {"judge": {"model": ("x",), "url": "u"}, "gold": {}}, [("dpo", 0)])
    before = folder_digest(run.path)
    with pytest.raises(InputError, match=r"ppo seed 0 was scored by another judge \(differs in model\)"):
        run.open(record({}, ["dpo"]), two, [("sft", 0), ("dpo", 0)])
    assert folder_digest(run.path) == before
    run.open(record({}, ["dpo", "ppo"]), two, [("sft", 0), ("dpo", 0), ("ppo", 0)])
    assert run.place("ppo", 0, [made], two).evaluators() == {"judge": {"model": ["y"], "url": "u"}}


def test_cells_show_the_files_of_their_stages(tmp_path):
    store, run = Store(tmp_path), Run(tmp_path / "runs" / "b" / "r")
    run.open(record({}, ["dpo"]))
    one, two = store.stage("s", {}, text("1")), store.stage("t", {}, text("2", "b/c.txt"))
    cell = run.place("dpo", 0, [one, two])
    assert (cell.path / "a.txt").read_text() == "1" and (cell.path / "b" / "c.txt").read_text() == "2"
    manifest = json.loads((cell.path / "manifest.json").read_text())
    assert manifest["stages"] == {"s": one.key, "t": two.key}
    stamp = (cell.path / "manifest.json").stat().st_mtime_ns
    run.place("dpo", 0, [one, two])
    assert (cell.path / "manifest.json").stat().st_mtime_ns == stamp  # the same again changes nothing
    run.place("dpo", 0, [store.stage("s", {"n": 2}, text("3")), two])
    assert (cell.path / "a.txt").read_text() == "3" and (one.path / "a.txt").read_text() == "1"
    run.place("sft", 0, [one])
    run.place("dpo", 10, [one])
    run.place("dpo", 2, [one])
    assert [(c.method, c.seed) for c in run.cells()] == [("sft", 0), ("dpo", 0), ("dpo", 2), ("dpo", 10)]
    assert [r.path for r in find_runs(tmp_path)] == [run.path]


def test_a_cell_without_what_every_cell_has_says_so(tmp_path):
    run = Run(tmp_path / "r")
    run.open(record({}, ["dpo"]))
    cell = run.place("dpo", 0, [Store(tmp_path).stage("s", {}, text("1"))])
    assert (cell.cost(), cell.metrics(), cell.along()) == ({}, [], None)  # which SFT's cell has not either
    for read, name in ((cell.generations, "generations.jsonl"), (cell.scores, "scores.parquet")):
        with pytest.raises(InputError, match=f"{name} is missing; give bench run for dpo once more"):
            read()


def test_generations_survive_the_disk(tmp_path):
    rows = [Generation("p", ({"role": "user", "content": "\u2028 ü\n"},), "a\r\nb", 3, True, 0.5),
            Generation("q", (), "", 0, False)]  # fmt: skip
    write_jsonl(tmp_path / "g.jsonl", rows)
    assert read_generations(tmp_path / "g.jsonl") == rows


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_small_records():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    assert (win(1, 0), win(0, 1), win(1, 1)) == (1.0, 0.0, 0.5)
    assert nearest("dop", ["dpo", "ppo"]).startswith("did you mean 'dpo'?")
    assert nearest("xyz", ["dpo"]) == "known: dpo"


HOLD = """
import sys, time
from pathlib import Path
from alignment_bench.results.run_folder import Run
with Run(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_run_and_a_dead_one_holds_nothing(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    run = Run(tmp_path / "run")
    who = f"is being written by process {other.pid} on {platform.node()} since 20.*; wait for it, or give another"
    with pytest.raises(InputError, match=who), run.held():
        pass
    other.kill()
    other.wait()
    with run.held():
        run.open(record({}))  # the folder with the lock in it is not somebody else's
    assert run.exists


def test_what_a_response_costs_is_kept_beside_it_and_moves_no_key(tmp_path):
    """8 responses in 4 s with 80 tokens are 0.5 s and 10 tokens each; the times are no part of their content."""
    store = Store(tmp_path)

    def build(out, seconds):
        (out / "generations.jsonl").write_text("{}\n")
        (out / "inference.json").write_text(json.dumps({"responses": 8, "seconds": seconds, "generated_tokens": 80}))

    one, other = (store.stage("generations", {"n": n}, lambda out, n=n: build(out, 4.0 + n)) for n in (0, 1))
    assert one.content == other.content
    run = Run(tmp_path / "run")
    run.open({"run_id": "r", "contract": {}, "commands": [], "created": "", "methods": {}, "shared": {"SFT": {"s": 1}}})
    cell = run.place("dpo", 0, [one])
    assert cell.inference() == {"seconds": 0.5, "generated_tokens": 10.0} and cell.cost() == {}
    run.open({"run_id": "r", "contract": {}, "commands": [], "created": "", "methods": {}, "shared": {"RM": {"s": 2}}})
    assert run.record["shared"] == {"SFT": {"s": 1}, "RM": {"s": 2}}  # what an earlier command made stays
