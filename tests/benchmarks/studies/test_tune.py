"""A whole tiny `bench tune`: equal trials, the rule, fresh seeds, what is trained once, what is said everywhere."""

import json
from pathlib import Path

import pytest

from alignment_bench.analysis.selection import pick
from alignment_bench.benchmarks.api import tune
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import Store

SPLITS = {"selection": 0.2, "tuning": 0.15}
TRIAL_SEED = 1000


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, make_tiny, write_tiny):
    folder = tmp_path_factory.mktemp("tune")
    make_tiny(folder / "model", std=0.05)
    write_tiny(folder, model=str(folder / "model"), splits=SPLITS, select={"beside": ["gold", "labels"]})
    return folder


@pytest.fixture(scope="module")
def tuned(bench, workdir):
    """The record of one tuning, and what was said."""
    arguments = ("tune", "-b", "tiny.yaml", "-m", "dpo,orpo", "--trials", "3", "--seeds", "2", "--shared", "--json")
    done = bench(*arguments, cwd=workdir)
    return json.loads(done.stdout), done.stderr, arguments


def trainings(root):
    """The training stages on disk: method, seed, settings, budget."""
    inputs = [made.manifest["inputs"] for made in Store(root).made() if made.manifest["stage"] == "train"]
    return [(i["method"], i["seed"], i["settings"], i["budget"]) for i in inputs]


def test_every_method_has_as_many_trials_and_winners_have_fresh_seeds(tuned, workdir):
    record, _, _ = tuned
    for row in record["methods"].values():
        assert len(row["trials"]) == 3 and [t["number"] for t in row["trials"]] == [0, 1, 2]
        assert len({tuple(t["settings"].items()) for t in row["trials"]}) == 3
        for trial in (*row["trials"], row["shared"]):
            assert set(trial["scores"]) == {"selection_reward_model", "gold", "labels"} and trial["kl"] >= 0
            assert trial["cost"]["examples"] == 16 and trial["failed"] is None
    found = trainings(workdir / "results")
    seeds = {method: sorted(s for m, s, _, _ in found if m == method) for method in ("dpo", "orpo")}
    assert seeds == {m: [0, 0, 1, 1, *[TRIAL_SEED] * 4] for m in ("dpo", "orpo")}  # tuned and shared; trials and shared


def test_the_pick_follows_the_rule_and_the_winners_have_its_settings(tuned, workdir):
    record, _, _ = tuned
    assert record["contract"]["rule"] == {"by": "selection_reward_model", "at_most_kl": 1.0, "margin": 0.0}
    run = Run(workdir / record["run"])
    for label, row in record["methods"].items():
        assert row["picked"] == pick(row["trials"], "selection_reward_model", 1.0)["number"]
        picked = row["trials"][row["picked"]]["settings"]
        params = run.record["methods"][label]["params"]
        assert {field: params[field] for field in picked} == picked
        assert run.record["contract"]["tuned"]["settings"][label] == picked
    assert set(run.summary["methods"]) == {
        "sft",
        *record["methods"],
        "dpo:lr=0.001:beta=0.1",
        "orpo:lr=0.001:weight=0.1",
    }


def test_held_out_prompts_and_the_evaluation_reward_model_are_for_winners_alone(tuned, workdir):
    record, _, _ = tuned
    trials, winners = Run(workdir / record["trials_run"]), Run(workdir / record["run"])

    def prompts(run):
        return {g.prompt_id for cell in run.cells() for g in cell.generations()}

    assert prompts(trials) and prompts(winners) and not prompts(trials) & prompts(winners)
    used = [set(run.record["contract"]["reward_model"]) & {"training", "selection", "evaluation"}
            for run in (trials, winners)]  # fmt: skip
    assert used == [{"training", "selection"}, {"training", "evaluation"}]
    models = [run.record["contract"]["reward_model"] for run in (trials, winners)]
    assert models[0]["training"] == models[1]["training"] and models[0]["selection"] != models[1]["evaluation"]
    shared = [made.manifest["stage"] for made in Store(workdir / "results").made()]
    assert shared.count("sft") == 1 and shared.count("reward_model") == 3
    assert shared.count("reference") == 2  # of the pairs that the trials' seed draws, and of those of the winners'


def test_what_was_tuned_is_said_everywhere(tuned, workdir, bench):
    record, said, _ = tuned
    assert "3 trials each (halton) and the benchmark's own settings; picked by the selection reward model" in said
    assert "then 2 fresh seeds of each winner" in said and "dpo: lr 0.0003 to 0.003 (log), beta 0.01 to 5 (log)" in said
    assert "trials: " in said and "stages to do" in said
    report = (workdir / record["run"] / "report" / "report.md").read_text()
    assert "Tuned with 3 trials each (halton), picked by the selection reward model with KL at most 1 nat." in report
    assert "dpo:lr=0.001:beta=0.1, orpo:lr=0.001:weight=0.1 were not tuned like the others" in report
    assert "dpo:lr=0.001:beta=0.1 (not tuned)" in report and "| dpo (not tuned)" not in report
    study = workdir / "results" / "studies" / "tiny" / record["study"]
    page = (study / "report" / "report.md").read_text()
    assert "Shared settings of the benchmark | lr 0.001, beta 0.1 |" in page and "Tuned, by the rule" in page
    pages = bench("report", workdir / "results", "--out", workdir / "pages", cwd=workdir).stdout
    assert record["study"] in pages and record["trials_run"].rpartition("/")[2] not in pages
    assert (workdir / "pages" / record["study"] / "report.md").read_text() == page


def test_the_same_again_trains_nothing_and_another_rule_trains_no_trial(tuned, workdir, bench):
    record, _, arguments = tuned
    before = len(trainings(workdir / "results"))
    again = bench(*arguments, cwd=workdir)
    changes = ("created",)
    assert {k: v for k, v in json.loads(again.stdout).items() if k not in changes} == {
        k: v for k, v in record.items() if k not in changes
    }
    assert "made in" not in again.stderr and len(trainings(workdir / "results")) == before
    by_gold = bench(*arguments, "--set", "select={by: gold, margin: 0.4, beside: [labels]}", cwd=workdir)
    made = [line for line in by_gold.stderr.splitlines() if "made in" in line]
    assert not any(f"seed {TRIAL_SEED}" in line for line in made)
    other = json.loads(by_gold.stdout)
    assert other["study"] != record["study"]
    for label, row in other["methods"].items():
        assert [t["scores"] for t in row["trials"]] == [t["scores"] for t in record["methods"][label]["trials"]]
        lowest = min((t for t in row["trials"] if t["kl"] <= 1.0), key=lambda t: t["kl"])
        assert row["picked"] == lowest["number"]  # gold is near one half for all of them


@pytest.mark.slow
def test_in_python_it_is_the_same(tuned, workdir, monkeypatch):
    record, _, _ = tuned
    monkeypatch.chdir(workdir)
    results, again = tune("tiny.yaml", "dpo,orpo", trials=3, seeds=2, shared=True)
    assert {k: v for k, v in again.items() if k != "created"} == {k: v for k, v in record.items() if k != "created"}
    assert results.path == Path(record["run"]) and results.contract["tuned"]["trials"] == {"dpo": 3, "orpo": 3}


@pytest.mark.slow
def test_compute_is_shared_out_equally_by_what_the_own_settings_take(workdir, bench):
    """dpo reads pairs, best_of_n trains nothing and gets the number of trials that was asked for."""
    root = ("--root", workdir / "results", "--json")
    base = ("tune", "-b", "tiny.yaml", "-m", "dpo,best_of_n", "--trials", "2", "--seeds", "1")
    record = json.loads(bench(*base, *root, cwd=workdir).stdout)
    each = record["methods"]["dpo"]["shared"]["cost"]["flops"]
    equal = json.loads(bench(*base, "--tune-flops", 3.4 * each, *root, cwd=workdir).stdout)
    assert [len(equal["methods"][m]["trials"]) for m in ("dpo", "best_of_n")] == [3, 2]
    others = equal["methods"]["best_of_n"]["shared"]["cost"]["flops"]  # of a few responses that are watched
    assert equal["spent"]["flops"] == pytest.approx(3 * each + 2 * others, rel=0.01)  # responses differ in length
    few = bench(*base, "--tune-flops", 1.9 * each, *root, cwd=workdir, code=2)
    assert "does not pay for two trials of dpo" in few.stderr


@pytest.mark.slow
def test_halving_counts_what_it_spends_and_says_that_it_misleads(workdir, bench):
    """Three trials with a third of the budget, then the best of them with all of it."""
    arguments = ("tune", "-b", "tiny.yaml", "-m", "dpo", "--trials", "3", "--seeds", "1", "--halving", "--json")
    budget = ("--set", "budget=48", "--set", "methods.dpo.batch_size=8")
    done = bench(*arguments, *budget, cwd=workdir)
    record = json.loads(done.stdout)
    assert "successive halving over budgets of 16, 48" in done.stderr and "good early are bad late" in done.stderr
    row = record["methods"]["dpo"]
    assert [t["budget"] for t in row["trials"]] == [16, 16, 16, 48] and row["picked"] == 3
    best = pick(row["trials"][:3], "selection_reward_model", 1.0)
    assert row["trials"][3]["settings"] == best["settings"]
    assert record["spent"]["examples"] == 3 * 16 + 48 and record["spent"]["trials"] == 4
    assert Run(workdir / record["run"]).record["contract"]["tuned"]["trials"] == {"dpo": 3}


@pytest.mark.slow
def test_tpe_asks_one_trial_after_another_and_goes_on_where_it_was(workdir, bench):
    arguments = ("tune", "-b", "tiny.yaml", "-m", "dpo", "--seeds", "1", "--optimizer", "tpe", "--json")
    first = json.loads(bench(*arguments, "--trials", "3", cwd=workdir).stdout)
    again = bench(*arguments, "--trials", "3", cwd=workdir)
    assert json.loads(again.stdout)["methods"] == first["methods"] and "made in" not in again.stderr
    assert len(first["methods"]["dpo"]["trials"]) == 3


def test_a_trial_that_fails_is_told_and_the_others_go_on(workdir, bench):
    """A learning rate of 1e30 is no number after a step."""
    space = "{low: 1.0e-3, high: 1.0e+38, scale: log}"
    settings = ("--set", f"space.dpo.lr={space}", "--set", "methods.dpo.batch_size=4")
    arguments = ("tune", "-b", "tiny.yaml", "-m", "dpo:beta=0.2", "--trials", "4", "--seeds", "1", "--json")
    record = json.loads(bench(*arguments, *settings, cwd=workdir).stdout)
    row = record["methods"]["dpo:beta=0.2"]
    failed = [t["number"] for t in row["trials"] if t["failed"]]
    assert failed and row["picked"] not in failed
    assert row["warnings"][0] == f"{len(failed)} of 4 trials failed."
    assert record["rows"] == {"dpo:beta=0.2": f"dpo:beta=0.2:lr={row['trials'][row['picked']]['settings']['lr']:g}"}


def test_bad_input_is_one_sentence_before_anything_trains(workdir, bench):
    arguments = ("tune", "-b", "tiny.yaml", "--root", workdir / "none")
    for given, said in (
        (("-m", "dpo", "--trials", "1"), "--trials 1 is no search; give at least 2"),
        (("-m", "dpoo"), "there is no method 'dpoo'"),
        (("-m", "dpo", "--optimizer", "grid"), "--optimizer grid is not known; give halton or tpe"),
        (("-m", "dpo", "--set", "select.by=judge"), "benchmark tiny has no evaluator judge"),
        (("-m", "dpo", "--set", "rows=6"), "needs at least"),
    ):
        assert said in bench(*arguments, *given, cwd=workdir, code=2).stderr
        assert not (workdir / "none" / "studies").exists() and not (workdir / "none" / "cache" / "sft").exists()


def test_a_plan_trains_nothing(workdir, bench):
    done = bench("tune", "-b", "tiny.yaml", "-m", "dpo", "--root", workdir / "plan", "--dry-run", cwd=workdir)
    assert "12 trials each (halton)" in done.stdout and "winners: " in done.stdout
    assert not (workdir / "plan" / "cache" / "train").exists() and not (workdir / "plan" / "studies").exists()
