"""The checkpoint that is evaluated: the rule on made-up checkpoints, and a whole tiny run that goes by it."""

import pytest

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.definition.spec import CheckpointRule, load_spec
from alignment_bench.benchmarks.harness import run as run_harness
from alignment_bench.benchmarks.plan import plan
from alignment_bench.benchmarks.request import Request
from alignment_bench.benchmarks.stages.picked import pick_checkpoint, picked_policy
from alignment_bench.benchmarks.stages.responses import Responses
from alignment_bench.errors import InputError
from alignment_bench.results.integrity import seal
from alignment_bench.results.records import Generation
from alignment_bench.results.store import Stage, Store, folder_digest, read_json


@pytest.fixture
def shop(tmp_path, full):
    return Workshop(Store(tmp_path), full, {})


@pytest.fixture
def training(tmp_path):
    """A training of 32 examples with checkpoints at 8 and 16, the weights of each its number."""
    folder = tmp_path / "train"
    for name, text in (("along/000000008", "8"), ("along/000000016", "16"), ("policy", "32")):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text(text)
    (folder / "cost.json").write_text('{"examples": 32}')
    seal(folder, {"stage": "train", "key": "t"})
    return Stage(folder, "t", fresh=False)


@pytest.mark.parametrize(("kl", "weights"), [(0.2, "8"), (0.5, "16"), (0.9, "32"), (9.0, "32")])
def test_the_first_checkpoint_that_reaches_the_kl_else_the_last(shop, training, kl, weights):
    kls = {"8": 0.3, "16": 0.5, "32": 0.4}

    def generate(policy):
        nats = kls[(policy.path / "weights").read_text()] if policy else 0.0
        ours = [Generation(f"p{i}", (), "", 1, True, kl=nats + off) for i, off in enumerate((-0.1, 0.1))]
        return Responses(f"{nats}", lambda: ours)

    stage = pick_checkpoint(shop, CheckpointRule(by="kl", kl=kl), training, generate, None)
    assert (stage.path / "policy" / "weights").read_text() == weights
    found = read_json(stage.path / "picked.json")
    assert found["examples"] == int(weights) and found["last"] == 32
    assert [(p["examples"], round(p["kl"], 9)) for p in found["points"]] == [(8, 0.3), (16, 0.5), (32, 0.4)]
    folder = "" if weights == "32" else f"/{int(weights):09d}"
    assert picked_policy(stage).key == f"{training.content}{folder}"


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory, make_tiny, write_tiny):
    """tiny_run(rule): dpo and best_of_n with checkpoints at 8 and 16 of 32 examples, picked by the rule."""
    folder = tmp_path_factory.mktemp("picked")
    model, small = (str(make_tiny(folder / name, std=0.05, layers=n)) for name, n in (("model", 2), ("small", 1)))
    splits = {"selection": 0.2, "tuning": 0.15}

    def request(**rule):
        evaluation = {"along": 3, "checkpoint": rule}
        more = {"splits": splits, "evaluation": evaluation, "reward_model": {"training_model": small}}
        path = write_tiny(folder, name="picked", model=model, budget=32, **more)
        return Request(load_spec(str(path)), ("dpo", "best_of_n"), 1, folder / "results", at_once=1)

    return request


def test_a_run_evaluates_what_the_selection_reward_model_picks_on_tuning_prompts(tiny_run):
    outcome = run_harness(tiny_run(by="selection_reward_model", kl=1e9))
    assert outcome.failures == {}
    run, summary = outcome.run, outcome.summary
    cells = {cell.method: cell for cell in run.cells()}
    picked = cells["dpo"].picked()
    points = {p["examples"]: p["selection_reward_model"] for p in picked["points"]}
    assert [*points] == [8, 16, 32] and points[picked["examples"]] == max(points.values())
    folder = "policy" if picked["examples"] == 32 else f"along/{picked['examples']:09d}"
    made = [made for made in Store(run.path.parents[2]).made() if made.manifest["stage"] == "train"]
    (trained,) = (each.path for each in made if each.manifest["inputs"]["method"] == "dpo")
    assert folder_digest(cells["dpo"].path / "policy") == folder_digest(trained / folder)
    # the table's own scores are those of that checkpoint along training
    along = cells["dpo"].along()
    at = along[(along["metric"] == "reward.gold") & (along["examples"] == picked["examples"])].set_index("prompt_id")
    scores = cells["dpo"].scores()
    ours = scores[scores["metric"] == "reward.gold"].set_index("prompt_id")
    assert ours["value"].sort_index().tolist() == at["value"].sort_index().tolist()
    assert cells["best_of_n"].picked()["points"] == []
    contract = run.record["contract"]
    assert contract["evaluation"]["checkpoint"]["by"] == "selection_reward_model"
    models = [contract["reward_model"][role] for role in ("training", "evaluation", "selection")]
    assert len(set(models)) == 3 and [g["name"] for g in summary["gates"]][1:] == [
        "reward_model.training", "reward_model.evaluation", "reward_model.selection",
    ]  # fmt: skip
    report = (run.report_path / "report.md").read_text()
    assert "best on the tuning prompts by the selection reward model" in report
    assert "best_of_n saved no checkpoints to pick from" in report
    again = plan(tiny_run(by="selection_reward_model", kl=1e9))
    assert not again.to_do  # neither the training nor the pick


def test_a_rule_without_checkpoints_or_splits_is_one_sentence(tiny_run):
    for evaluation, splits, said in (
        ({"along": 0}, {}, "no checkpoints are saved along training; give for example --set evaluation.along=6"),
        ({}, {"selection": 0.0}, "the splits give selection no share"),
        ({}, {"selection": 0.0, "tuning": 0.0}, "the splits give selection and tuning no share"),
    ):
        request = tiny_run(by="selection_reward_model")
        values = {f"evaluation.{k}": v for k, v in evaluation.items()} | {f"splits.{k}": v for k, v in splits.items()}
        spec = request.spec.with_fields(values, "--set")
        with pytest.raises(InputError, match=said):
            plan(Request(spec, request.methods, 1, request.root))
