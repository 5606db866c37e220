"""A whole tiny study through the command line: what runs share, its page, that it resumes; and its plan."""

import json

import pandas
import pytest
import yaml

from alignment_bench.analysis.answer import sentences
from alignment_bench.benchmarks.studies.study import Planning, verdict_of
from alignment_bench.results.integrity import CHECK, read_record
from alignment_bench.results.run_folder import STUDY, Run
from alignment_bench.runtime import processes


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, make_tiny):
    folder = tmp_path_factory.mktemp("study")
    make_tiny(folder / "model", std=0.05)
    return folder


def made_in(text):
    return [line.partition(": made in")[0] for line in text.splitlines() if ": made in" in line]


def test_flips_and_beta_are_crossed_share_what_they_share_and_go_on(bench, workdir, write_tiny):
    write_tiny(workdir)
    fields = {
        "name": "noise", "benchmark": "tiny.yaml", "methods": ["dpo", "orpo"],
        "settings": {"model": str(workdir / "model")}, "axes": {"labels.flip": [0, 0.5], "dpo.beta": [0.1, 0.5]},
        "design": {
            "question": "Does ORPO lose where labels are wrong?", "tuning": "none", "hours": 0.1,
            "yes_if": [
                {"method": "orpo", "along": "labels.flip", "verdict": "lower"},
                {"method": "orpo", "along": "labels.flip", "verdict": "lower", "by": "eos_rate"},
            ],
            "no_if": [
                {"method": "orpo", "along": "labels.flip", "verdict": "lower", "by": "reward.gold.harmless"},
                {"method": "orpo", "than": "dpo", "at": {"labels.flip": 0}, "equal_kl": True, "verdict": "lower"}
            ],
            "papers": [{"paper": "Hong et al. (2024)", "shape": "none"}],
        },
    }  # fmt: skip
    path = workdir / "noise.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))

    planned = bench("study", path, "--dry-run", "--json", cwd=workdir)
    plan = json.loads(planned.stdout)
    assert [run["told"] for run in plan["runs"]] == ["labels.flip 0", "labels.flip 0.5"]
    assert plan["runs"][0]["rows"] == ["dpo:beta=0.1", "dpo:beta=0.5", "orpo"]
    both = sum(step["state"] == "to do" for run in plan["runs"] for step in run["steps"])
    assert plan["stages"] == both - 1  # SFT does not hang on labels, so it is made once
    assert not (workdir / "results").exists()

    done = bench("study", path, "--json", cwd=workdir)
    made = made_in(done.stderr)
    assert made.count("SFT") == 1 and made.count("evaluation reward model") == 1
    assert made.count("training reward model") == made.count("reference log-probs") == 2
    cells = [f"{row} seed 0, training" for row in ("dpo:beta=0.1", "dpo:beta=0.5", "orpo")]
    assert sorted(name for name in made if name.endswith(", training")) == sorted(cells * 2)

    study = json.loads(done.stdout)
    folder = workdir / "results" / "studies" / "noise" / study["study_id"]
    assert read_record(folder / STUDY) == study
    flips = study["axes"]["labels.flip"]
    (orpo,) = (c for c in flips["curves"] if (c["method"], c["metric"]) == ("orpo", "win_rate.gold"))
    assert [p["value"] for p in orpo["points"]] == [0, 0.5] and orpo["at"] == [None]
    for run, point in zip(study["runs"], orpo["points"], strict=True):  # the run's own figure
        cell = Run(run["run_dir"]).summary["methods"]["orpo"]["metrics"]["win_rate.gold"]
        assert point["mean"] == cell["mean"] and point["n"] == cell["n"] == 6
    betas = [c for c in study["axes"]["dpo.beta"]["curves"] if c["metric"] == "kl"]
    assert [(c["method"], c["at"]) for c in betas] == [("dpo", [0]), ("dpo", [1])]
    assert [list(part["methods"]) for part in study["frontiers"]] == [["dpo", "orpo"]] * 2
    assert [p["name"] for p in study["frontiers"][0]["methods"]["orpo"]["points"]] == ["orpo"]
    labels = [Run(run["run_dir"]).record["contract"].get("labels") for run in study["runs"]]
    assert labels[0] is None and labels[1]["flip"] == 0.5 and labels[1]["changed"] > 0
    assert any(
        "were changed on purpose (flip 0.5, bias 0 to length)" in w
        for w in Run(study["runs"][1]["run_dir"]).summary["warnings"]
    )

    assert study["answer"]["sentences"] == sentences(study) and study["answer"]["answer"] == "not decided"
    assert list(study["code"]) == ["training", "scoring", "world", "dpo", "orpo"]
    assert study["environment"] == Run(study["runs"][0]["run_dir"]).record["environment"]
    kept = {row["metric"] for row in flips["curves"]}
    assert {"reward.reward_model.training", "eos_rate"} <= kept  # the latter because the design asks about it
    assert "reward.gold.harmless" in kept  # as is what would make it a no
    assert "reward.gold.helpful" not in kept

    page = (folder / "report" / "index.html").read_text()
    assert "Does ORPO lose where labels are wrong?" in page and "Hong et al. (2024)" in page
    assert "Along labels.flip" in page and "dpo, labels.flip 0.5" in page and "dpo, dpo.beta 0.1" in page
    assert all(sentence.split("<")[0][:40] in page for sentence in study["verdict"])
    for run in study["runs"]:
        audit = Run(run["run_dir"]).summary["reward_models"]["heldout"]["models"]
        assert run["reward_models"]["accuracy"] == {role: row["accuracy"] for role, row in audit.items()}
        assert run["reward_models"]["missed"] <= run["reward_models"]["ruined"] <= 3
        rows = Run(run["run_dir"]).summary["methods"]
        assert (run["reward_models"]["tau_of_judge"] is None) == ("win_rate.judge" not in rows["orpo"]["metrics"])
    assert "Reward models under audit" in page
    assert "| orpo | 0 | 0.5 |" in (folder / "report" / "report.md").read_text()

    again = bench("study", path, "--json", cwd=workdir)
    assert made_in(again.stderr) == []
    changes = {"created": 0, CHECK: 0}
    assert {**json.loads(again.stdout), **changes} == {**study, **changes}
    text = bench("report", folder, cwd=workdir).stdout
    assert str(folder / "report") in text
    bench("report", folder, "--out", workdir / "files", "--format", "csv,svg", cwd=workdir)
    assert not (workdir / "files" / "index.html").exists() and [*(workdir / "files" / "figures").glob("axis-*.svg")]
    curves = pandas.read_csv(workdir / "files" / "tables" / "curves.csv")
    found = curves[(curves["axis"] == "labels.flip") & (curves["method"] == "orpo")]
    assert found[found["metric"] == "win_rate.gold"].set_index("value")["mean"].to_dict() == {
        point["value"]: point["mean"] for point in orpo["points"]
    }
    tested = pandas.read_csv(workdir / "files" / "tables" / "tested.csv")
    assert set(tested["what"]) == {"changes"} and set(tested["axis"]) == {"labels.flip", "dpo.beta"}


@pytest.mark.slow
def test_the_short_form_and_worlds_of_per_seed(bench, workdir, write_tiny):
    spec = write_tiny(workdir)
    common = ["-b", spec, "--model", workdir / "model", "-m", "orpo"]
    done = bench("run", *common, "--vary", "budget=8,16", "--json", cwd=workdir)
    study = json.loads(done.stdout)
    assert study["name"] == "tiny-budget" and [run["at"]["budget"] for run in study["runs"]] == [0, 1]
    (part,) = study["frontiers"]  # budgets of a method are one frontier
    assert sorted(p["name"] for p in part["methods"]["orpo"]["points"]) == ["orpo:budget=16", "orpo:budget=8"]
    refused = bench("run", *common, "--vary", "budget=8,16", "--out", workdir / "x", cwd=workdir, code=2)
    assert "--out is the folder of one run" in refused.stderr

    fields = {
        "name": "worlds", "benchmark": "tiny.yaml", "methods": ["orpo"], "seeds": 2,
        "per_seed": ["sft", "reward_model"], "settings": {"model": str(workdir / "model")},
    }  # fmt: skip
    path = workdir / "worlds.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    done = bench("study", path, "--json", cwd=workdir)
    made, study = made_in(done.stderr), json.loads(done.stdout)
    # the world (0, 0) is known from above but for its second seed; (1, 1), (1, 0) and (0, 1) have one SFT more and
    # three pairs of reward models
    assert made.count("SFT") == 1 and made.count("training reward model") == 3
    assert made.count("orpo seed 0, training") == 3 and made.count("orpo seed 1, training") == 4
    rows = [row for row in study["variance"] if row["metric"] == "win_rate.gold"]
    assert [row["method"] for row in rows] == ["orpo"] or not rows  # a tiny policy may score the same everywhere
    assert any(
        {p["source"] for p in row["parts"]} == {"seed", "prompts", "sft", "reward_model"} for row in study["variance"]
    )


def test_bad_input_is_told_before_anything_is_made(bench, workdir, write_tiny):
    spec = write_tiny(workdir)
    told = bench("run", "-b", spec, "--model", workdir / "model", "-m", "dpo", "--vary", "labels.flip=0,2",
                 "--root", workdir / "none", cwd=workdir, code=2)  # fmt: skip
    assert "--vary labels.flip=0,2: labels.flip: input should be less than or equal to 0.5, not 2" in told.stderr
    assert not (workdir / "none").exists()


def test_several_processes_are_refused(bench, workdir, write_tiny, monkeypatch):
    spec = write_tiny(workdir)
    monkeypatch.setattr(processes, "size", lambda: 2)
    told = bench("run", "-b", spec, "--model", workdir / "model", "-m", "dpo", "--vary", "budget=8,16",
                 cwd=workdir, code=2)  # fmt: skip
    assert "a study goes from run to run in one process" in told.stderr


def test_nothing_planned_takes_no_time():
    assert Planning([]).seconds == (0, 0)


def test_what_is_alike_at_several_values_is_said_once():
    """The same text of three parts of three, of two of them, and of two of three where the third has none."""
    row = {"a": "dpo", "b": "ppo", "metric": "win_rate.gold", "kl": None, "crosses": False, "verdict": "not decided"}
    axis = {"values": [5, 6, 7], "curves": [], "changes": [], "interactions": [], "pairs": []}
    found = {"axes": {"n": axis}, "design": None, "variance": [], "per_seed": [], "runs": [], "tuned": None}

    def parts(*far):
        own = [{"dpo": 1.0, "ppo": kl} for kl in far]
        of = [{name: {"points": [{"name": name, "kl": {"mean": kl}}]} for name, kl in each.items()} for each in own]
        more = {"comparisons": [row], "equal_compute": []}
        return {"frontiers": [{"at": {"n": place}, "methods": each, **more} for place, each in enumerate(of)]}

    def said(kl):
        spans = f"dpo 1 nats, ppo {kl} nats"
        return f"Nothing is said of dpo and ppo at equal KL to SFT, for they have none in common ({spans})"

    assert verdict_of({**found, **parts(2.0, 2.0, 2.0)}) == [f"{said(2)}."]
    assert verdict_of({**found, **parts(2.0, 3.0, 2.0)}) == [f"{said(2)} (n 5; n 7).", f"{said(3)} (n 6)."]
    assert verdict_of({**found, **parts(2.0, 2.0)}) == [f"{said(2)} (n 5; n 6)."]


def test_a_study_of_its_question_alone_does_not_say_that_nothing_is_compared():
    ends = {"difference": 0.02, "low": -0.05, "high": 0.09, "p": 0.4, "p_adjusted": 0.4}
    row = {"a": "ppo", "b": "dpo", "metric": "win_rate.gold", "seeds": 3, "verdict": "not decided", **ends}
    asked = {"method": "ppo", "than": "dpo", "verdict": "higher", "by": "win_rate.gold"}
    design = {"yes_if": [asked], "no_if": [{**asked, "verdict": "lower"}]}
    found = {"axes": {}, "frontiers": [], "variance": [], "per_seed": [], "runs": [], "tuned": None, "margin": 0.05}
    own = {**found, "beside_the_first": [row], "design": design}
    assert verdict_of(own) == ["Nothing else is compared."]
    assert verdict_of({**own, "design": None})[0].startswith("Not shown, in points of win rate by the true reward: a d")
    assert verdict_of({**found, "beside_the_first": [], "design": None})[0].startswith("Nothing is compared here")
