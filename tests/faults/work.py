"""Kills in the work around training: judges, lm-eval, trackers, reports, conversion, labelling by models."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

from forks import beside, wait_for
from harness import World, kind
from trainings import SAME, killed, run_result

from alignment_bench.benchmarks import tracker
from alignment_bench.evaluators.judge import Judge
from alignment_bench.preferences.export import convert
from alignment_bench.preferences.labellers import JudgeLabeller, SimulatedPerson, label_all
from alignment_bench.preferences.labels import Item, append
from alignment_bench.reports.render import render
from alignment_bench.results.run_folder import Run, find_runs
from alignment_bench.results.store import read_jsonl

CONCURRENCY = 2  # questions under way
GOLD = {"gold": {"reward": "alignment_bench.benchmarks.world:true_reward"}}


def serve(folder: Path, reply: Callable[[str], tuple[int, bytes]] | None = None) -> None:
    """A chat server that never ends: its port in a file, and each question in another before it is answered.

    reply: status and body for a question; by default A or B by the question's length.
    """
    reply = reply or (lambda question: (200, json.dumps(answer("AB"[len(question) % 2])).encode()))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            question = body["messages"][-1]["content"]
            with open(folder / "asked", "a") as stream:
                stream.write(json.dumps(question) + "\n")
            status, content = reply(question)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *given: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    (folder / "port").write_text(str(server.server_address[1]))
    server.serve_forever()


def answer(content: str) -> dict[str, Any]:
    """A chat completion."""
    return {
        "id": "x",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1},
    }


def asked(folder: Path) -> Counter[str]:
    """How often each question was asked."""
    time.sleep(0.1)  # of a killed process, whose question is on its way
    return Counter((folder / "asked").read_text().splitlines() if (folder / "asked").exists() else [])


def finished_run(root: Path) -> Run:
    """The run below a root that was scored last."""
    return max(find_runs(root), key=lambda run: (run.path / "run.json").stat().st_mtime)


def end_of_run(root: Path) -> Any:
    return run_result(finished_run(root).path / "summary.json")


def kills_of_a_run(world: World, rng: Random, times: int, **changes: Any) -> Iterator[str]:
    """Kills while a finished run is scored anew with other evaluators."""
    yield from killed(lambda root: world.run(root, **changes), end_of_run, rng, times, world.copy)


@kind("killed while a judge is asked", f"{SAME}; no question is asked twice but those under way at a kill")
def judged(world: World, rng: Random, times: int) -> Iterator[str]:
    folder = world.place()
    with beside(lambda: serve(folder)):
        url = f"http://127.0.0.1:{wait_for(folder / 'port')}/v1"
        judge = {"model": "openai:m", "url": url, "versus": 0, "concurrency": CONCURRENCY}
        whole: Counter[str] = Counter()

        def end(root: Path) -> Any:
            nonlocal whole
            now = asked(folder)
            since = now - whole
            whole = now
            ends.append(since.total())
            return end_of_run(root)

        ends: list[int] = []
        found = [*killed(lambda root: world.run(root, evaluators={"judge": judge}), end, rng, times, world.copy)]
        wanted, extra = ends[0] * len(ends), sum(ends)
        allowed = wanted + CONCURRENCY * len(found)
        yield from (text or ("" if extra <= allowed else f"{extra} questions, {wanted} wanted") for text in found)


@kind("killed while lm-eval scores", SAME, needs="lm_eval")
def benchmarked(world: World, rng: Random, times: int) -> Iterator[str]:
    yield from kills_of_a_run(world, rng, times, evaluators={**GOLD, "lm_eval": {"limit": 2}})


class Noting:
    """A tracker that writes to a file below the run what it is told."""

    package = "json"

    def __init__(self, run: Run):
        self.file = run.path / ".told"

    def start(self, name: str, config: dict[str, Any]) -> None:
        self.name = name

    def log(self, values: dict[str, float], step: int) -> None:
        self._note(f"{self.name} {step} {sorted(values)}")

    def finish(self) -> None:
        self._note(f"{self.name} end")

    def _note(self, text: str) -> None:
        with open(self.file, "a") as stream:
            stream.write(text + "\n")


@kind("killed while a tracker is told", f"{SAME}; every cell is sent once, or again where the kill fell into it")
def tracked(world: World, rng: Random, times: int) -> Iterator[str]:
    def work(root: Path) -> None:
        tracker.TRACKERS["tensorboard"] = Noting  # in this fork alone
        world.run(root, evaluators=GOLD, tracker="tensorboard")

    def end(root: Path) -> Any:
        lines = Counter((finished_run(root).path / ".told").read_text().splitlines())
        noted = json.loads((finished_run(root).path / "tracked.json").read_text())["tensorboard"]
        return end_of_run(root), sorted(lines), sorted(noted)

    yield from killed(work, end, rng, times, world.copy)


@kind("killed while a report is written", "the run is as it was, and the report, given again, is that of a quiet one")
def reported(world: World, rng: Random, times: int) -> Iterator[str]:
    formats = ("html", "md", "latex", "csv", "parquet", "json", "svg")

    def end(root: Path) -> Any:
        run = finished_run(root)
        files = {
            p.relative_to(run.path).as_posix(): p.stat().st_size for p in run.report_path.rglob("*") if p.is_file()
        }
        return end_of_run(root), files

    yield from killed(lambda root: render(find_runs(root), formats=formats), end, rng, times, world.copy)


ROWS = [
    {"prompt": f"Question {i}?", "chosen": f"the better answer {i}", "rejected": f"the worse one {i} " * (1 + i % 3)}
    for i in range(40)
]


@kind("killed while preferences are converted", "no file, the old or the new one, whole; given again, the new one")
def converted(world: World, rng: Random, times: int) -> Iterator[str]:
    def place() -> Path:
        folder = world.place()
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        return folder

    for number, name in enumerate(("out.jsonl", "out.parquet", "out.csv")):

        def work(folder: Path, name: str = name) -> None:
            if (folder / name).exists():  # of a killed process
                read_whole(folder / name)
            convert(str(folder / "pairs.jsonl"), str(folder / name))

        yield from killed(
            work, lambda folder, name=name: read_whole(folder / name), rng, times // 3 + (number < times % 3), place
        )


def read_whole(path: Path) -> list[Any]:
    """The rows of a converted file; ValueError where some are missing."""
    from alignment_bench.preferences.read import read_preferences

    rows = [*read_preferences(str(path))]
    if len(rows) != len(ROWS):
        raise ValueError(f"{path.name} has {len(rows)} rows of {len(ROWS)}")
    return [str(row) for row in rows]


@kind("killed while a model labels", f"{SAME}; every item has one label")
def labelled(world: World, rng: Random, times: int) -> Iterator[str]:
    prompt = ({"role": "user", "content": "Why?"},)

    def place() -> Path:
        folder = world.place()
        append(folder / "items.jsonl", [Item(f"i{i}", prompt, f"one {i}", f"two {i} more") for i in range(130)])
        return folder

    person = SimulatedPerson("ann", "alignment_bench.benchmarks.world:true_reward")

    def end(folder: Path) -> Any:
        rows = [row for path in sorted((folder / "labels").glob("*.jsonl")) for row in read_jsonl(path)]
        return [{k: v for k, v in row.items() if k != "timestamp"} for row in rows]

    yield from killed(lambda folder: label_all(folder, person, "ann"), end, rng, (times + 1) // 2, place)
    served = world.place()
    with beside(lambda: serve(served)):
        port = wait_for(served / "port")
        judge = JudgeLabeller("j", Judge("openai:m", f"http://127.0.0.1:{port}/v1"))
        yield from killed(lambda folder: label_all(folder, judge, "j"), end, rng, times // 2, place)
