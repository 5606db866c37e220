"""The commands that only read: list, show, compare, cache, doctor; and what they draw with."""

import io
import json
import re
import shutil
import tomllib
from email.message import Message
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from rich.console import Console

from alignment_bench.analysis.findings import findings
from alignment_bench.benchmarks.cli import doctor, show
from alignment_bench.benchmarks.cli.terminal import count, duration, size, sparkline
from alignment_bench.benchmarks.definition.plugins import available, describe, load
from alignment_bench.errors import InputError
from alignment_bench.reports.text_plot import interval_plot
from alignment_bench.results.progress import Recorder, StepProgress
from alignment_bench.results.store import Store

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_run):
    folder = tmp_path_factory.mktemp("runs")
    return folder, make_run(folder), make_run(folder, budget=32, noise=1)


def test_list_says_what_is_needed_and_the_paper(bench, tmp_path):
    lines = bench("list", cwd=tmp_path).stdout.splitlines()

    def row(name):
        cells = re.split(r"\s{2,}", next(line for line in lines if line.split()[:1] == [name]).strip())
        unfinished.update({name: cells.pop(3)} if re.fullmatch(r"\d+ of \d+", cells[3]) else {})  # else that is empty
        return cells

    unfinished: dict[str, str] = {}
    assert row("dpo")[1:4] == ["pairs, reference", "optimum, TRL", "Rafailov et al. (2023, arXiv:2305.18290)"]
    assert row("ppo")[1:4] == ["critic, reference, reward", "optimum, TRL", "Ouyang et al. (2022, arXiv:2203.02155)"]
    assert row("orpo")[1:4] == ["pairs", "optimum, TRL", "Hong et al. (2024, arXiv:2403.07691)"]
    assert row("trl-kto")[1:4] == ["pairs", "is TRL", "Ethayarajh et al. (2024, arXiv:2402.01306)"]
    assert row("dpop")[3] == "Pal et al. (2024, arXiv:2402.13228)"  # of a module whose classes have each their own
    assert row("apo_zero")[3].startswith("D'Oosterlinck et al. (2024")
    assert unfinished.keys() == {"dpo", "ppo", "orpo", "trl-kto", "dpop"}  # of which runs are published
    assert {"judge", "quick", "hh"} <= {line.split()[0] for line in lines if line.strip()}


def test_what_the_source_says_is_what_the_classes_say():
    """The table is read from the source; the imported classes agree, inherited attributes too."""
    for name, entry in available("methods").items():
        cls = load("methods", name)
        flags = sorted(f.removeprefix("needs_") for f in dir(cls) if f.startswith("needs_") and getattr(cls, f) is True)
        assert list(describe(entry).needs) == flags, name
        assert describe(entry).line == cls.__doc__.partition("\n")[0], name


def test_intervals_are_drawn_to_scale():
    """Eleven characters for 0 to 1: a tenth each."""
    assert interval_plot(0.2, 0.4, 0.7, mark=0.5, width=11) == "  ──●───   "  # the mark lies under the interval
    assert interval_plot(0.6, 0.8, 1.0, mark=0.5, width=11) == "     │──●──"
    assert interval_plot(None, 0.3, None, mark=0.5, width=11) == "   ● │     "
    assert interval_plot(-1, 2, 3, mark=0.5, width=11)[-1] == "●"


def test_sparklines_and_numbers_for_people():
    assert sparkline([0, 7]) == "▁█" and sparkline([3, 3, 3]) == "▁▁▁"
    assert sparkline([0, 2, 5, 9, 9, 9], width=3) == "▁▆█"  # means 1, 7, 9; 7 is 5.25 of the 7 steps up
    assert sparkline([float("nan"), 1.0]) == "▁" and sparkline([]) == ""
    assert [duration(s) for s in (None, 0.3, 40, 200, 9000)] == ["?", "0.3 s", "40 s", "3 min", "2.5 h"]
    assert [size(b) for b in (0, 512, 2048, 3 * 2**30)] == ["0 B", "512 B", "2.0 KiB", "3.0 GiB"]
    assert [count(n) for n in (None, 950, 25_000, 12_000_000)] == ["", "950", "25 k", "12 M"]


def test_a_run_that_is_not_finished_is_shown_as_far_as_it_is(bench, tmp_path, make_run):
    """What is done is shown with its figures, and nothing is compared before all that was planned is there."""
    run, steps = make_run(tmp_path), []
    (run.path / "summary.json").unlink()
    for cell in run.cells():
        label = f"{cell.method} seed {cell.seed}"
        steps.append(StepProgress(f"{label}, training", "training", label, state="done"))
    for label in ("dpo seed 0", "dpo seed 1"):
        shutil.rmtree(run.path / label.replace(" seed ", "/seed-"))
    steps = [step for step in steps if not step.cell.startswith("dpo")]
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "metrics.jsonl").write_text('{"step": 1, "loss": 4.0}\n{"step": 2, "loss": 2.0}\n')
    at_work = StepProgress("dpo seed 0, training", "training", "dpo seed 0", state="at work", folder=str(partial))
    recorder = Recorder()
    with recorder.kept(run.path, [*steps, at_work, StepProgress("x", "training", "dpo seed 1")], 1):
        said = "4 of 6 cells are done; at work: dpo seed 0 (training); waiting: dpo seed 1"
        shown = bench("show", run.path, cwd=tmp_path).stdout
        assert f"no verdict yet: {said}" in shown and "bench watch" in shown and "index.html" not in shown
        ppo = next(line for line in shown.splitlines() if line.split()[:1] == ["ppo"])
        assert re.search(r"●─* +97% \[15, 100\] +2.5 s", ppo)
        assert re.search(r"dpo seed 0\s+loss\s+█▁\s+4\s+2", shown)
        found = json.loads(bench("show", run.path, "--json", cwd=tmp_path).stdout)
        assert found["unfinished"] == said and found["comparisons"] == [] and list(found["methods"]) == ["sft", "ppo"]
        bench("report", run.path, "--out", tmp_path / "page", cwd=tmp_path)
        page = (tmp_path / "page" / "report.md").read_text()
        assert f"No verdict yet: {said}." in page and re.search(r"\| ppo .*1\.00", page)
        assert "no method of this run has been scored" not in page.lower()
        assert not (run.path / "summary.json").exists()
        (run.path / "ppo" / "seed-0" / "scores.parquet").unlink()
        assert "figures are left out: " in bench("show", run.path, cwd=tmp_path).stdout
        for cell in [*run.cells()]:
            shutil.rmtree(cell.path)
        assert f"no verdict yet: {said}" in bench("show", run.path, cwd=tmp_path).stdout  # no cell is there
        bench("report", run.path, "--out", tmp_path / "page", cwd=tmp_path)
        assert f"No verdict yet: {said}." in (tmp_path / "page" / "report.md").read_text()


def test_show(bench, runs):
    folder, run, _ = runs
    shown = bench("show", run.path, cwd=folder).stdout
    first, second, *_ = shown.splitlines()
    assert first == "nowhere: 16 prompts" and "run made-up-16" in second
    heads = ["Which", "How sure", "At what cost", "Where it breaks", "What was not shown"]
    assert [line for line in shown.splitlines() if line in heads] == heads
    ppo = next(line for line in shown.splitlines() if line.split()[:1] == ["ppo"])
    assert re.search(r"●─* +97% \[15, 100\] +2.5 s", ppo)  # 1.5 longer, with a deviation of 0.5; 2 and 3 s
    assert re.search(r"ppo seed 0\s+loss\s+█▃▂▁\s+1\s+0.25", shown)  # 1, 1/2, 1/3, 1/4
    found = findings(run.summary)
    told = [found.recommendation, *found.certainty, *found.cost, *found.confounds, *found.watch, *found.not_shown]
    assert all(said in shown for said in told) and len(told) > 5 and "index.html" in shown
    assert json.loads(bench("show", run.path, "--json", cwd=folder).stdout) == run.summary
    told = bench("show", folder, cwd=folder, code=2).stderr
    assert "holds 2 runs; give the folder of one, for example" in told
    assert "holds no run" in bench("show", folder / "nothing", cwd=folder, code=2).stderr


def test_a_run_that_is_not_finished(bench, tmp_path, make_run):
    run = make_run(tmp_path)
    (run.path / "summary.json").unlink()
    told = bench("compare", run.path, run.path, cwd=tmp_path, code=2).stderr
    assert "has no summary.json: the run is not finished; give its command again" in told
    shown = bench("show", run.path, cwd=tmp_path).stdout  # of a version that kept no progress
    assert "no verdict yet: the run is not finished; cells that are there: sft seed 0, sft seed 1, ppo seed 0" in shown


def test_compare(bench, runs):
    folder, a, b = runs
    shown = bench("compare", a.path, b.path, cwd=folder).stdout
    assert re.search(r"contract: budget\s+16\s+32", shown)
    assert re.search(r"length\s+ppo.*\d+\s*$", shown, re.M)
    found = json.loads(bench("compare", a.path, b.path, "--json", cwd=folder).stdout)
    assert found["contract"] == {"budget": [16, 32]} and found["methods"] == {} and found["cautions"] == []
    means = [run.summary["methods"]["ppo"]["metrics"]["length"]["mean"] for run in (a, b)]
    (length,) = [c for c in found["changes"] if (c["method"], c["metric"]) == ("ppo", "length")]
    assert length["difference"] == pytest.approx(means[1] - means[0]) and length["prompts"] == 16
    assert length["low"] < length["difference"] < length["high"]
    same = bench("compare", a.path, a.path, cwd=folder).stdout
    assert "the same contract, settings and machine" in same and "* " not in same.replace("* the interval", "")


def test_cache(bench, tmp_path, make_run):
    run = make_run(tmp_path)
    store = Store(tmp_path / "results")
    unused = Store(tmp_path / "results").stage("sft", {}, lambda out: (out / "model").write_text("x" * 3000))
    listed = bench("cache", "ls", cwd=tmp_path).stdout
    assert re.search(r"all_scores\s+6 .*\s0\s+0 B", listed) and re.search(r"sft\s+1 .*\s1\s+3", listed)
    assert "1 runs were checked" in listed
    assert "1 more were used within 1 days" in bench("cache", "gc", "--yes", cwd=tmp_path).stdout
    dry = bench("cache", "gc", "--older-than", "0", cwd=tmp_path).stdout
    assert str(unused.path.relative_to(tmp_path)) in dry and "add --yes" in dry and unused.path.exists()
    done = bench("cache", "gc", "--older-than", "0", "--yes", cwd=tmp_path).stdout
    assert "1 folders deleted" in done and not unused.path.exists()
    assert len(list(run.cells())) == 6 and len(list(store.made())) == 6
    assert "holds no cache" in bench("cache", "ls", "--root", "nowhere", cwd=tmp_path, code=2).stderr


@pytest.mark.parametrize(("units", "wide"), [(True, "; bf16 from a hidden size of 576 on"), (False, "")])
def test_doctor_says_which_numbers_a_model_is_trained_in(units, wide, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("alignment_bench.models.tuning.has_fast_bf16", lambda device: units)
    assert next(each.found for each in doctor._torch() if each.what == "device") == f"cpu, fp32{wide}"


def test_doctor(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown = bench("doctor", cwd=tmp_path).stdout
    assert re.search(r"ok\s+torch", shown) and "HF_HUB_OFFLINE is set" in shown and "free at" in shown
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert "give local folders and files" in bench("doctor", cwd=tmp_path).stdout
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert re.search(r"broken\s+disk", bench("doctor", cwd=tmp_path, code=1).stdout)


def test_every_extra_is_explained():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(declared)


def test_missing_packages_of_an_extra_are_found(monkeypatch):
    needs = [
        "torch>=2",
        "no-package-of-all>=1 ; python_version >= '3'",
        "no-such-package>=1 ; extra == 'wandb'",
        "rich>=13 ; extra == 'wandb'",
        "rich>=1000 ; extra == 'ray'",
        "alignment-bench[wandb,ray] ; extra == 'test'",
        "no-test-package ; extra == 'test'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: needs)
    assert doctor.missing_packages("wandb") == ["no-such-package"]
    assert doctor.missing_packages("ray") == [f"rich>=1000 ({version('rich')} is installed)"]
    assert doctor.missing_packages("test") == [*doctor.missing_packages("ray"), "no-such-package", "no-test-package"]
    assert doctor.missing_packages("mlflow") == []


def test_doctor_looks_at_the_extras_that_the_package_has(monkeypatch):
    told = Message()
    told["Provides-Extra"] = "wandb"
    told["Provides-Extra"] = "new"
    monkeypatch.setattr("importlib.metadata.metadata", lambda _: told)
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["no-such-package ; extra == 'wandb'"])
    assert [(f.what, f.found, f.advice) for f in doctor._extras()] == [
        ("for --tracker wandb", "without no-such-package", "pip install 'alignment-bench[wandb]'"),
        ("for the extra new", "installed", ""),
    ]


def test_a_plugin_that_cannot_be_read_is_still_listed():
    (entry,) = entry_points(group="alignment_bench.methods", name="dpo")
    gone = type(entry)("gone", "no.such.module:Method", "alignment_bench.methods")
    assert describe(gone).line == "(cannot be read)"


def test_the_list_fits_a_narrow_terminal(monkeypatch):
    """At 80 columns the papers are left out, and every method stands in one piece beside what it needs."""
    for width, papers in ((80, False), (120, True)):
        out = io.StringIO()
        monkeypatch.setattr(show, "console", lambda w=width, o=out: Console(file=o, width=w))
        show.list_()
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        assert max(map(len, lines)) <= width
        assert any(line.split()[:4] == ["ppo", "critic,", "reference,", "reward"] for line in lines)
        assert ("paper" in lines[1].split()) is papers


def test_a_methods_page_says_its_settings_with_range_default_and_source(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(show, "console", lambda: Console(file=out, width=80))
    show.list_("ppo")
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "Paper: Ouyang et al. (2022, arXiv:2203.02155)" in words and "Needs: critic, reference, reward" in words
    assert re.search(r"Known optimum: within 0\.0\d{3} nats of KL in .* \(0\.02 wanted\)\.", words)
    assert "5 of 5 trainings finished (quick, quick_5_seeds)." in words
    assert re.search(r"\n clip +0\.2 +above 0 to 1 +Range of the", text)
    assert re.search(r"\n beta +0\.05 +from 0 +Weight of", text) and "Tuned from 0.01 to 1." in words
    assert "Tuned from 0.3 to 3 times the benchmark's own." in words
    with pytest.raises(InputError, match="there is no method or benchmark 'pppo'; did you mean 'ppo'"):
        show.list_("pppo")
    with pytest.raises(InputError, match="there is no method or benchmark 'quik'; did you mean 'quick'"):
        show.list_("quik")


def test_a_benchmarks_page_at_a_terminal_sets_its_notes_apart(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(show, "console", lambda: Console(file=out, width=80, force_terminal=True, color_system=None))
    show.list_("hh")
    assert "\n\nBy seeds: " in out.getvalue() and "none: not even the largest" in " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "above 0 to 1"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 0.5}, "from 0 below 0.5"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0.0}, {"type": "null"}]}, "above 0 or null"),
        ({"enum": ["sft", "base"]}, "sft, base"),
        ({"const": "pairs"}, "pairs"),
        ({"type": "string"}, ""),
    ],
)
def test_ranges_in_words(kind, said):
    assert show.allowed(kind) == said
