"""`bench label RUN` from the command line: people label a finished run, and summary and report hold what they say."""

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from alignment_bench.benchmarks.summing_up import take_in_labels
from alignment_bench.preferences.labels import append, make_label, read_items
from alignment_bench.preferences.run_pairs import plan
from alignment_bench.results.run_folder import Run

BENCH = [sys.executable, "-c", "from alignment_bench.benchmarks.cli.main import main; main()"]


@contextmanager
def labelling(run, *options):
    """`bench label RUN` in a process of its own until the block ends with Ctrl-C: its address, and what it printed."""
    command = [*BENCH, "label", str(run.path), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printed: list[str] = []
    try:
        line = process.stdout.readline()
        assert "labelling" in line, process.stderr.read()
        yield re.search(r"http://\S+:\d+", line).group(), printed
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        printed += [line + out, err]
        assert process.returncode == 0, err
    finally:
        process.kill()
        process.wait()


def work(address, name, choose, most=1000):
    """Label as a person would who sees two texts; choose(left, right) -> answer. Returns how many pairs were seen."""
    with httpx.Client(base_url=address, headers={"Origin": address}, timeout=30) as client:
        assert client.post("/api/start", json={"name": name}).status_code == 200
        pair = client.post("/api/next", json={}).json()["pair"]
        for count in range(most):
            if pair is None:
                return count
            answer = {"item": pair["item"], "answer": choose(pair["left"], pair["right"])}
            pair = client.post("/api/answer", json=answer).json()["pair"]
    return most


def prefers(word):
    """A person who prefers the response that says this word, and ties the others."""
    return lambda left, right: "left" if word in left else "right" if word in right else "tie"


def test_two_people_label_a_run_and_its_report_says_what_they_prefer(tmp_path, make_run):
    run = make_run(tmp_path)  # 16 prompts, ppo and dpo with two seeds; each response says who wrote it
    before = run.summary
    assert before.get("people") is None
    with labelling(run, "--overlap-share", "0.25", "--pairs", "48") as (address, printed):
        assert work(address, "Ann", prefers("dpo")) == 48
        assert work(address, "Ben", prefers("ppo")) == 12
    assert "60 labels of 48 pairs are in" in printed[0]
    summary = run.summary
    rows = summary["methods"]
    # 8 prompts and 2 seeds: dpo wins all against SFT by Ann; Ben saw a quarter of all pairs a second time
    dpo, ppo = (rows[name]["metrics"]["win_rate.people"] for name in ("dpo", "ppo"))
    assert dpo["n"] == ppo["n"] == 16 and rows["sft"]["metrics"]["win_rate.people"]["mean"] == 0.5
    assert 0.75 <= dpo["mean"] <= 1.0 and 0.5 <= ppo["mean"] <= 0.75
    by_people = {(c["a"], c["b"]): c for c in summary["comparisons"] if c["metric"] == "win_rate.people"}
    pair = by_people["ppo", "dpo"]  # as the run names them: ppo first
    assert (pair["basis"], pair["seeds"]) == ("direct", 2) and -0.5 <= pair["difference"] <= -0.25
    total = (1 - dpo["mean"]) + (ppo["mean"] - 0.5) + 0.5 + pair["difference"]
    assert total == pytest.approx(12 * 0.25 / 16 + 0.0, abs=12 * 0.25 / 16)  # each of Ben's moves one by 1/4 or 1/2
    assert {c["metric"] for c in summary["comparisons"]} == {"win_rate.gold", "win_rate.people"}
    assert (summary["people"]["labels"], summary["people"]["agreement"]["n"]) == (60, 12)
    page = (run.report_path / "index.html").read_text()
    assert "People labelled 48 pairs of responses (60 labels by 2 labellers)" in page
    assert "What people prefer: every score here" not in page
    # all else is as it was
    for name, row in before["methods"].items():
        kept = {metric: cell for metric, cell in rows[name]["metrics"].items() if "people" not in metric}
        assert kept == row["metrics"] and rows[name]["cost"] == row["cost"]
    assert summary["gates"] == before["gates"] and run.record["contract"] == summary["contract"]


def test_bad_runs_and_options_get_a_sentence(tmp_path, make_run, bench):
    run = make_run(tmp_path)
    for arguments, said in (
        ([run.path, "--pairs", "97"], "has 96 pairs of different responses, and --pairs asks for 97"),
        ([run.path, "-m", "ppo,dop"], "--method dop is not a row of"),
        ([run.path, "--labeller", "judge", "--model", "builtin/judge_model"], "is a run, whose pairs people label"),
        ([run.path, "--host", "0.0.0.0"], "give a token"),
        ([tmp_path / "nothing"], "holds no items.jsonl; give a folder that `bench collect` wrote, or a finished run"),
        ([tmp_path / "nothing", "--pairs", "3"], "is no run; omit them"),
    ):
        done = bench("label", *arguments, cwd=tmp_path, code=2)
        assert said in done.stderr and done.stderr.count("\n") == 1
    (run.path / "dpo" / "seed-1" / "generations.jsonl").unlink()
    done = bench("label", run.path, cwd=tmp_path, code=2)
    assert "generations.jsonl is missing; give bench run for dpo once more" in done.stderr
    (run.path / "summary.json").unlink()
    done = bench("label", run.path, cwd=tmp_path, code=2)
    assert "has no summary.json: the run is not finished" in done.stderr


def test_bench_run_takes_labels_in_and_leaves_out_those_of_other_responses(tmp_path, bench, make_tiny, write_tiny):
    """A real run of a tiny model; labels written as the server writes them, by one person: nobody to agree with."""
    make_tiny(tmp_path / "model", std=0.05)
    command = ["run", "-b", write_tiny(tmp_path), "--model", tmp_path / "model", "-m", "dpo", "--json"]
    first = json.loads(bench(*command, cwd=tmp_path).stdout)
    assert first["people"] is None
    run = Run(tmp_path / first["run_dir"])
    items = read_items(plan(run, pairs=None, methods=[], seed=0))
    append(run.path / "people" / "labels" / "people.jsonl", [make_label(item, "tie", "Ann", "ab") for item in items])
    again = bench(*command, cwd=tmp_path)
    labelled = json.loads(again.stdout)
    assert "made in" not in again.stderr and labelled["contract"] == first["contract"]
    assert labelled["people"]["labels"] == len(items) > 0 and labelled["people"]["agreement"]["mean"] is None
    assert labelled["methods"]["dpo"]["metrics"]["win_rate.people"]["mean"] == 0.5
    assert take_in_labels(run) == run.summary == labelled | {"sha256": run.summary["sha256"]}
    key = run.path / "people" / "key.jsonl"
    rows = [json.loads(line) | {"texts": "other"} for line in key.read_text().splitlines()]
    key.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = json.loads(bench(*command, cwd=tmp_path).stdout)
    assert refused["people"] is None and "win_rate.people" not in refused["methods"]["dpo"]["metrics"]
    (said,) = [warning for warning in refused["warnings"] if "people's labels are left out: " in warning]
    assert "label anew" in said
    assert refused["notes"] == labelled["notes"] == first["notes"]
