"""`bench run --dry-run`: what is on disk and what is not, and estimates that follow from what was measured."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from alignment_bench.benchmarks.cost import pace
from alignment_bench.benchmarks.cost.pace import Pace
from alignment_bench.benchmarks.cost.rough import BY_PACE, MIB, MOMENT, Estimate, Rough
from alignment_bench.benchmarks.definition.rows import Row
from alignment_bench.benchmarks.estimate import Earlier
from alignment_bench.benchmarks.plan import CLOSING, START, TO_DO, TRAINERS, Plan, Planned, lasting
from alignment_bench.benchmarks.stages import steps as order
from alignment_bench.benchmarks.stages.steps import Step
from alignment_bench.evaluators.base import Traits
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.ppo import PPO
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.sampler import Sample
from alignment_bench.results.integrity import write_json
from alignment_bench.results.progress import PROGRESS
from alignment_bench.results.records import Pair, Prompt
from alignment_bench.results.store import COST, RUN, Store, folder_digest
from alignment_bench.runtime.memory import resident


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_tiny):
    folder = tmp_path_factory.mktemp("plan")
    make_tiny(folder / "model", std=0.05)
    return folder


@pytest.fixture
def dry_run(bench, work, write_tiny):
    """dry_run(*options, code=0, **changes): `bench run --dry-run` of a tiny benchmark of two evaluators."""

    def run(*options, code=0, **changes):
        write_tiny(work, **{"evaluators": {"gold": None, "divergence": None}, **changes})
        return bench("run", "-b", "tiny.yaml", "--model", "model", "--dry-run", *options, cwd=work, code=code)

    return run


def test_a_plan_before_between_and_after(bench, work, dry_run):
    """Nothing is there, so all is to do and nothing is written; after the run all is there; then what was added."""

    def planned(*options, **changes):
        return json.loads(dry_run("--json", *options, **changes).stdout)

    first = planned("-m", "dpo")
    assert {s["state"] for s in first["steps"]} == {"to do"}
    assert [s["stage"] for s in first["steps"]] == [
        "SFT", "training reward model", "evaluation reward model", "reference log-probs",
        "sft seed 0, responses", "sft seed 0, reward_model", "sft seed 0, length", "sft seed 0, training_reward_model",
        "dpo seed 0, training", "dpo seed 0, responses",
        "dpo seed 0, reward_model", "dpo seed 0, length", "dpo seed 0, training_reward_model",
    ]  # fmt: skip
    assert first["steps"][0]["basis"] == first["steps"][5]["basis"] == BY_PACE  # SFT, and SFT's rewards
    assert first["steps"][6]["basis"] == "assumed, a moment" and first["seconds_unknown"] == []
    assert first["seconds"] == pytest.approx(sum(p["seconds"] for p in (*first["steps"], *first["beside"].values())))
    assert first["beside"].keys() == {START, CLOSING} and min(p["seconds"] for p in first["beside"].values()) > 0
    assert not (work / "results").exists()

    bench("run", "-b", "tiny.yaml", "--model", "model", "-m", "dpo", cwd=work)
    before = folder_digest(work / "results")
    after = planned("-m", "dpo")
    assert {s["state"] for s in after["steps"]} == {"on disk"}
    assert after["seconds"] == pytest.approx(sum(part["seconds"] for part in after["beside"].values()))
    assert after["seconds_unknown"] == []
    closing = json.loads(next(Path(work / "results/runs").rglob(PROGRESS)).read_text())["closing"]
    assert after["beside"][CLOSING]["seconds"] == closing > 0

    several = [s["stage"] for s in planned("-m", "dpo,ppo_ensemble,ppo_ensemble:reward_models=2")["steps"]]
    assert [name for name in several if "reward model" in name] == [
        "training reward model", "evaluation reward model", "training 2 reward model", "training 3 reward model"
    ]  # fmt: skip

    grown = planned("-m", "dpo,orpo", "--seeds", "2", "--at-once", "2")
    assert grown["beside"].keys() == {START, TRAINERS, CLOSING}  # processes train, each of which starts
    assert grown["beside"][TRAINERS]["seconds"] == grown["beside"][START]["seconds"]
    states = {s["stage"]: s["state"] for s in grown["steps"]}
    assert states["dpo seed 0, training"] == "on disk" and states["dpo seed 1, training"] == "to do"
    assert states["orpo seed 0, training"] == "to do" and states["sft seed 1, responses"] == "to do"
    assert folder_digest(work / "results") == before

    # another budget is another training; three times as much takes three times what the one on disk took, and as many
    # looks at the policy
    cost = json.loads(next(Path(work / "results/cache/train").glob("*/cost.json")).read_text())
    larger = {s["stage"]: s for s in planned("-m", "dpo,orpo", budget=48)["steps"]}
    dpo = larger["dpo seed 0, training"]
    assert dpo["state"] == "to do" and dpo["basis"] == "measured, 1 earlier"
    assert dpo["seconds"] == pytest.approx(3 * cost["seconds"] + cost["looking_seconds"])
    assert dpo["tokens"] == pytest.approx(3 * (cost["trained_tokens"] + cost["generated_tokens"]))
    assert dpo["memory_mb"] == cost["peak_memory_mb"]
    assert larger["orpo seed 0, training"]["basis"] == BY_PACE
    # responses and scores have no ledger; how long they took stands in their manifests
    took = [m.manifest["seconds"] for m in Store(work / "results").made() if m.manifest["stage"] == "generations"]
    assert len(took) == 2 and larger["dpo seed 0, responses"]["seconds"] == pytest.approx(sum(took) / 2)
    assert larger["dpo seed 0, length"]["basis"] == "measured, 2 earlier"
    changed = planned("-m", "dpo", methods={"dpo": {"lr": 2e-3}})
    assert changed["steps"][8]["basis"] == "measured, 1 earlier, other settings"


def test_a_stage_that_is_added_is_in_the_plan_and_in_the_run(bench, work, dry_run, monkeypatch):
    """One entry and one function: a shared stage that writes a file, once, and is asked for after it."""
    shared, made = order._shared, []

    def build(out):
        made.append(out)
        (out / "file").write_text("text")

    def with_another(pipeline, rows):
        yield from shared(pipeline, rows)
        yield Step("one more", "one_more", lambda made: pipeline.shop.store.stage("one_more", {"of": "it"}, build))

    monkeypatch.setattr(order, "_shared", with_another)
    options = ("-m", "dpo", "--root", "added")
    for state in ("to do", "on disk"):
        planned = json.loads(dry_run("--json", *options).stdout)["steps"]
        names = [s["stage"] for s in planned]
        assert names.index("one more") == names.index("reference log-probs") + 1
        assert {s["state"] for s in planned} == {state}
        said = bench("run", "-b", "tiny.yaml", "--model", "model", *options, cwd=work).stderr
        assert f"one more: {'made in' if state == 'to do' else 'found on disk'}" in said
        assert len(made) == 1


def test_a_table_for_people(work, dry_run):
    done = dry_run("-m", "dpo", "--root", "none")
    assert "dpo seed 0, scores: reward_model, length, training_reward_model" in done.stdout
    assert "13 of 13 stages to do, about" in done.stdout and "nothing was trained, asked or written" in done.stdout
    assert not (work / "none").exists()


def test_a_judges_comparisons_of_rows_are_planned_and_priced(dry_run):
    """Three pairs of rows: 3 * 2 orders * 2 prompts beside 3 * 2 * 4 against SFT; none comes before the first row."""
    judge = {"evaluators": {"length": None, "judge": {"model": "openai:none"}}, "evaluation": {"prompts": 4}}
    found = json.loads(dry_run("--json", "-m", "dpo,orpo,ppo", "--judge-pairs", "2", "--root", "none", **judge).stdout)
    assert found["judging"].startswith(
        "at most 36 questions (12 of them on rows against each other, see --judge-pairs)"
    )
    states = {
        step["stage"]: step["state"] for step in found["steps"] if step["stage"].endswith("judge on pairs of rows")
    }
    asks = "asks for what is missing"
    assert states == {f"{row} seed 0, judge on pairs of rows": asks for row in ("orpo", "ppo")}
    none = json.loads(dry_run("--json", "-m", "dpo,orpo", "--judge-pairs", "0", "--root", "none", **judge).stdout)
    assert none["judging"].startswith("at most 16 questions, ")
    assert not any("pairs of rows" in step["stage"] for step in none["steps"])
    assert "go with a judge" in dry_run("-m", "dpo", "--judge-pairs", "0", code=2).stderr


def test_bad_input_is_told_by_a_dry_run_too(dry_run):
    assert "did you mean 'beta'?" in dry_run("-m", "dpo:betta=1", code=2).stderr


def test_tokens_and_seconds_by_hand(work, full):
    """The tiny model has 259 x 32 shared embeddings, and a layer of 2 x 32 x 32 + 2 x 32 x 16 + 3 x 32 x 64 + 2 x 32
    weights, two of them, and a last norm of 32: 26880 in all."""
    prompt = Prompt("p", (), tuple(range(10)))
    rough = Rough(Checkpoint(work / "model", "k"), full, [Pair("a", prompt, (1,) * 4, (1,) * 8)], micro_tokens=100)
    assert rough.size == 259 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32 == 26880
    rough.pace = rough.pace_of_cells = Pace(trained=1e-3, read=1e-4, sampled=1e-2, opened=2.0)
    # 5 examples of both sides, 10 + 6 tokens each; policy and reference opened; the probe reads the one pair's sides 5
    # times, and 4 times draws 16 responses of 6 tokens, each read by both
    offline = rough.training(DPO(), 5)
    looks = 5 * 2 * 16 * 1e-4 + 4 * 16 * (6 * 1e-2 + 2 * 16 * 1e-4)
    assert offline.tokens == 160 and offline.seconds == pytest.approx(160 * 1e-3 + 2 * 2 + looks)
    held = (16 + 4) * 26880 + 4 * 100 * 259  # trained and reference, and logits
    assert offline.memory_mb == pytest.approx((held + resident()) / MIB, rel=0.02)
    # 5 responses of 6 tokens, read 3 times (reference, reward, critic), 2 epochs of policy and critic
    online = rough.training(PPO(epochs=2), 5)
    assert online.tokens == 5 * 16 * 4 + 5 * 6
    seconds = 5 * 16 * 4 * 1e-3 + 5 * 6 * 1e-2 + 5 * 16 * 3 * 1e-4 + 4 * 2 + 5 * 2 * 16 * 1e-4
    assert online.seconds == pytest.approx(seconds)
    # 2 responses to each of 6 prompts, the answers read by policy and reference
    assert rough.generations(6, 2).seconds == pytest.approx(12 * 6 * 1e-2 + 6 * 2 * 16 * 1e-4 + 2 * 2)
    # a reward model reads 6 answers, two policies both sides of 3 pairs; a length takes a moment, a judge who knows
    assert rough.scores(Traits(needs_reward_model=True), 6, 3).seconds == pytest.approx(6 * 16 * 1e-4 + 2)
    asked = Traits(needs_policy=True, needs_pairs=True)
    assert rough.scores(asked, 6, 3).seconds == pytest.approx(2 * 2 * 3 * 16 * 1e-4 + 2 * 2)
    assert rough.scores(Traits(), 6, 3) == MOMENT and rough.scores(Traits(is_judge=True), 6, 3) is None
    # 8 responses of 6 tokens are drawn by a policy that is opened beside SFT; how many others draw nobody knows
    drawing = rough.scores(Traits(needs_policy=True, draws=8), 6, 3)
    assert drawing.seconds == pytest.approx(8 * 6 * 1e-2 + 2 * 2)
    assert rough.scores(Traits(needs_policy=True), 6, 3) is None
    # two judges of as many weights read 3 questions of 4 tokens, a prompt of 10 and two replies of 6
    judges = [Checkpoint(work / "model", "k")] * 2
    assert rough.judged(judges, 3, 4).seconds == pytest.approx(2 * 3 * (4 + 10 + 2 * 6) * 1e-4)


def test_what_judges_and_reports_took_before_by_hand(tmp_path, full):
    """12 questions in 6 s and 10 in 15 s: 1 s a question. One whose answers were there tells nothing of asking."""
    store, asks = Store(tmp_path), {"models": ["j"], "prompt": "compact", "facets": [], "limit": None}

    def stage(name, responses, seconds, questions, judge=asks, **more):
        inputs = {"evaluator": name, "judge": judge, "responses": responses, **more}
        cost = {"seconds": seconds, "questions": questions}
        store.stage("scores", inputs, lambda out: write_json(out / COST, cost))

    stage("judge", "a", 6.0, 12)
    stage("judge", "b", 15.0, 10)
    stage("judge", "c", 0.25, 0)
    stage("rows", "b", 0.25, 0, versus=["dpo", "orpo"])
    stage("judge", "a", 900.0, 1, judge={**asks, "models": ["larger"]})
    for name, closing in (("quick/a", 4.0), ("quick/b", 6.0), ("hh/c", 60.0)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_json(folder / RUN, {})
        write_json(folder / PROGRESS, {"steps": [], "closing": closing})
    earlier = Earlier(store, Checkpoint(tmp_path, "k"), full)
    assert earlier.judging(asks, 30) == Estimate("measured, 2 earlier", 30.0)
    assert earlier.judging({**asks, "prompt": "pairwise"}, 30) is None
    assert earlier.is_judged("judge", asks, "a", []) and not earlier.is_judged("judge", asks, "d", [])
    assert not earlier.is_judged("judge", {**asks, "facets": ["honest"]}, "a", [])
    assert earlier.is_judged("rows", asks, "b", ["dpo"]) and not earlier.is_judged("rows", asks, "b", ["dpo", "kto"])
    assert earlier.closing("quick") == Estimate("measured, 2 earlier", 5.0)
    assert earlier.closing("other") == Estimate("measured, 3 earlier", 6.0)


@pytest.mark.parametrize(("tick", "share", "rows"), [(1.0, 2.0, 4), (0.1, 1.5, 16), (0.1, 0.25, 16)])
def test_a_pace_is_of_what_was_done(work, full, monkeypatch, tick, share, rows):
    """By a clock that goes on at each look each kind of work takes a tick, on few rows where that is long.

    share: part of that time that two threads used together; where it is less than the time, others had the rest.
    """
    ticks, used = itertools.count(), itertools.count()
    monkeypatch.setattr(pace.time, "perf_counter", lambda: tick * next(ticks))
    monkeypatch.setattr(pace.time, "process_time", lambda: share * tick * next(used))
    took = min(share, 1.0) * tick
    monkeypatch.setattr(
        pace, "sample_rows", lambda _, asked, *__, **how: [Sample(p, (5,) * how["max_new_tokens"], True) for p in asked]
    )
    threads = torch.get_num_threads()
    pace.pace_of.cache_clear()
    found = pace.pace_of(Checkpoint(work / "model", "k"), full, 10, 6, 1)
    each = pytest.approx(took / (rows * 16))
    assert (found.trained, found.read, found.sampled) == (each, each, pytest.approx(took / (rows * 6)))
    assert found.opened == pytest.approx(took) and torch.get_num_threads() == threads


def test_cells_side_by_side_take_a_share_of_the_time(work, dry_run):
    """Two at once on a machine of two cores; what cells share comes one after another."""
    methods = Row("dpo", "dpo", None), Row("orpo", "orpo", None)
    steps = [Planned(Step("SFT", "sft", None, trains=True), TO_DO, Estimate("", 10.0))]
    for row in methods:
        steps.append(Planned(Step("training", "train", None, row=row, seed=0, trains=True), TO_DO, Estimate("", 40.0)))
        steps.append(Planned(Step("length", "scores", None, row=row, seed=0), TO_DO, Estimate("", 3.0)))
    steps.append(Planned(Step("judge", "scores", None, row=row, seed=0, asks=True), TO_DO))
    beside = {START: Estimate("", 5.0), TRAINERS: Estimate("", 5.5), CLOSING: Estimate("", 7.0)}
    found = Plan({}, steps, None, [], [], [], at_once=2, beside=beside)
    assert found.seconds == (10 + 80 / 2 + 2 * 3 + 5 + 5.5 + 7, ["orpo seed 0, judge"])


def test_the_longest_training_takes_the_first_free_place():
    """Of two places: 40 and 30 begin, 20 follows the 30 and 5 the 40; one alone has nothing beside it."""
    row = Row("dpo", "dpo", None)

    def training(seconds, seed):
        return Planned(Step("training", "train", None, row=row, seed=seed, trains=True), TO_DO, Estimate("", seconds))

    trainings = [training(seconds, seed) for seed, seconds in enumerate((5.0, 20.0, 30.0, 40.0))]
    assert lasting(trainings, 2) == 50.0 and lasting(trainings, 1) == 95.0 and lasting(trainings, 8) == 40.0
    assert lasting(trainings[-1:], 2) == 40.0 and lasting([], 2) == 0.0
    assert lasting([*trainings, Planned(Step("SFT", "sft", None, trains=True), TO_DO, Estimate("", 10.0))], 2) == 60.0


def test_a_plan_warns_of_what_can_show_nothing(dry_run):
    shown = dry_run("-m", "dpo", "--root", "none", evaluation={"prompts": 3}).stdout
    assert "warning: 3 prompts and one seed can show nothing; raise evaluation.prompts or --seeds" in shown
    assert "warning: one seed says nothing of methods, only of the policies that it trains" in shown
