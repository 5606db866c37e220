"""The page of a run at work: what it is told, who may ask, and how it looks in a browser while the run goes on."""

import json
import shutil
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.testclient import TestClient

from alignment_bench.benchmarks.watch import HOST, POINTS, build_app, curves, find_progress, watched
from alignment_bench.errors import InputError
from alignment_bench.preferences.serve import at_address, listen
from alignment_bench.results.progress import Recorder, StepProgress

HOSTILE = "<img src=x onerror=window.pwned=1>"


def steps(method, seed):
    label = f"{method} seed {seed}"
    return [
        StepProgress(f"{label}, training", "training", label, f"training {method}", True, 60.0),
        StepProgress(f"{label}, responses", "responses", label, "responses"),
    ]


@contextmanager
def working(run, partial):
    """A run of which sft and ppo seed 0 are done, dpo seed 0 is in training, and two cells have not begun."""
    recorder = Recorder()
    shutil.rmtree(run.path / "dpo")
    shutil.rmtree(run.path / "ppo" / "seed-1")
    shutil.rmtree(run.path / "sft" / "seed-1")
    (run.path / "summary.json").unlink()
    partial.mkdir()
    log(partial, 2)
    order = [StepProgress("SFT", "SFT", alike="SFT", trains=True)]
    order += [step for seed in (0, 1) for method in ("ppo", "dpo") for step in steps(method, seed)]
    order.insert(1, StepProgress("sft seed 0, responses", "responses", "sft seed 0", "responses"))
    with recorder.kept(run.path, order, 1):
        for label in ("SFT", "sft seed 0, responses", "ppo seed 0, training", "ppo seed 0, responses"):
            recorder.begin(label)
            recorder.done(label, fresh=True)
        recorder.begin("dpo seed 0, training", partial)
        yield recorder


def log(partial, count):
    rows = [{"step": s, "examples": 8 * s, "loss": 1 / s, "seconds": s} for s in range(1, count + 1)]
    (partial / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_the_page_is_told(make_run, tmp_path):
    run = make_run(tmp_path)
    with working(run, tmp_path / "partial"):
        told = watched(tmp_path / "results")  # found from above
        assert told["title"] == "made-up, run made-up-16" and told["state"] == "at work"
        assert told["sentence"].startswith("2 of 5 cells are done; at work: dpo seed 0 (training); waiting: ppo seed 1")
        assert 110 < told["left"] < 120.1 and told["unknown"] == 0  # dpo twice 60 s, ppo once what it took just now
        states = {(c["method"], c["seed"]): (c["state"], c["done"], c["steps"]) for c in told["cells"]}
        assert states[("ppo", 0)] == ("done", 2, 2) and states[("dpo", 0)] == ("training", 0, 2)
        assert told["shared"][0]["name"] == "SFT" and told["shared"][0]["state"] == "done"
        loss = next(curve for curve in told["curves"] if curve["title"] == "Loss")
        assert loss["axis"] == "examples"
        assert {line["cell"]: line["points"] for line in loss["lines"]} == {
            "ppo seed 0": [[4, 1.0], [8, 1 / 2], [12, 1 / 3], [16, 1 / 4]],
            "dpo seed 0": [[8, 1.0], [16, 1 / 2]],
        }
        assert told["samples"]["cell"] in ("ppo seed 0", "sft seed 0")
        assert told["samples"]["rows"][1]["prompt"] == "Why p01?" and len(told["samples"]["rows"]) == 3
    assert watched(run.path)["state"] == "done" and watched(run.path)["left"] is None
    with pytest.raises(InputError, match="holds no run that could be watched"):
        find_progress(tmp_path / "partial")


def test_a_long_log_is_drawn_to_its_end_by_few_points():
    rows = [{"step": s, "loss": float(s)} for s in range(1, 1002)]
    (curve,) = curves({"dpo seed 0": rows})
    points = curve["lines"][0]["points"]
    assert curve["axis"] == "step" and len(points) <= POINTS and points[0] == [1, 1.0] and points[-1] == [1001, 1001.0]


def test_only_this_machine_may_ask_and_only_for_the_page(make_run, tmp_path):
    run = make_run(tmp_path)
    with working(run, tmp_path / "partial"):
        client = TestClient(build_app(run.path), base_url="http://127.0.0.1")
        assert client.get("/api/state").json()["state"] == "at work"
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert client.get("/..%2frun.json").status_code == client.get("/run.json").status_code == 404
        policy = client.get("/").headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        shutil.rmtree(run.path)
        gone = client.get("/api/state")
        assert gone.status_code == 503 and "holds no run that could be watched" in gone.json()["error"]


def test_a_browser_sees_the_run_go_on(browser, make_run, tmp_path):
    run, problems = make_run(tmp_path), []
    with working(run, tmp_path / "partial") as recorder, listen(HOST, 0) as listening:
        server = uvicorn.Server(uvicorn.Config(build_app(run.path), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(at_address(HOST, listening))
        page.locator("#sentence", has_text="2 of 5 cells are done").wait_for()
        assert "about 2 min left" in page.locator("#left").inner_text()
        points = "#curves figure:has-text('Loss') polyline >> nth=1"
        assert len(page.locator(points).get_attribute("points").split()) == 2
        assert page.locator("#samples blockquote").count() == 3
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        log(tmp_path / "partial", 5)  # the page is left alone from here on
        recorder.failed("dpo seed 1", HOSTILE)
        page.locator("td.failed", has_text="onerror").wait_for()
        assert len(page.locator(points).get_attribute("points").split()) == 5
        assert page.evaluate("window.pwned") is None and page.locator("td img").count() == 0
        server.should_exit = True
        thread.join(10)
        page.get_by_text("The server does not answer").wait_for()
    assert [p for p in problems if "Failed to load resource" not in p] == []


def test_a_run_without_a_folder_yet_has_its_benchmarks_name(tmp_path):
    with Recorder().kept(tmp_path / "runs" / "quick" / ".begun-12ab", [StepProgress("SFT", "SFT")], 1):
        found = watched(tmp_path / "runs")
    assert found["title"] == "quick" and found["folder"].endswith(".begun-12ab")
