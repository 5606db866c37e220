"""Checkpoints along training, and judges of a run (until decided, their bill, people's labels), on a whole tiny run."""

import dataclasses
import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment_bench.analysis.sequential import UNTIL_DECIDED, asking_order
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.export import export
from alignment_bench.benchmarks.harness import run as run_harness
from alignment_bench.benchmarks.judging import people as judge_people
from alignment_bench.benchmarks.request import Request
from alignment_bench.errors import InputError
from alignment_bench.evaluators import judge
from alignment_bench.evaluators.judge_cache import Answer, RememberingAsker
from alignment_bench.models.chat import encode_prompt
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import to_generations
from alignment_bench.models.sampling import sample
from alignment_bench.models.tuning import Tuning
from alignment_bench.reports.render import render
from alignment_bench.results.outputs import read_outputs
from alignment_bench.results.records import Prompt
from alignment_bench.results.run_folder import Run

ENDPOINT = {"model": "openai:none", "url": "http://localhost:1/v1"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, make_tiny, write_tiny):
    folder = tmp_path_factory.mktemp("along")
    model = str(make_tiny(folder / "model", std=0.05))
    path = write_tiny(folder, name="along", model=model, budget=32, evaluation={"along": 3})
    found = run_harness(Request(load_spec(str(path)), ("ppo", "dpo"), 1, folder / "results"))
    assert found.failures == {}
    return found


def test_checkpoints_are_saved_and_scored(outcome):
    """Marks at 1.7, 4.5 and 12 of 32 examples, rounds or steps of 8: checkpoints at 8 and 16, then the final policy."""
    cells = {cell.method: cell for cell in outcome.run.cells()}
    assert cells["sft"].along() is None
    for method in ("ppo", "dpo"):
        folders = sorted(p.name for p in (cells[method].path / "along").iterdir())
        assert folders == ["000000008", "000000016"]
        AutoModelForCausalLM.from_pretrained(cells[method].path / "along" / folders[0])
        table = cells[method].along()
        assert sorted(table["examples"].unique()) == [0, 8, 16, 32]
        facets = {f"reward.gold.{facet}" for facet in ("helpful", "honest", "harmless")}
        whole = {"kl", "reward.training", "reward.reward_model", "reward.gold"}
        assert whole < set(table["metric"]) <= whole | facets
        sizes = table.groupby(["examples", "metric"]).size().unstack()
        assert (sizes[sorted(whole)] == 6).all(axis=None)
        assert (sizes[[m for m in sizes if m in facets]].sum(axis=1) == 6).all()  # each prompt has one facet
        assert (table.loc[(table["metric"] == "kl") & (table["examples"] == 0), "value"] == 0).all()
        # the last point is the policy of the table, by the same evaluators
        last = table[(table["examples"] == 32) & (table["metric"] == "reward.gold")].set_index("prompt_id")["value"]
        scores = cells[method].scores()
        final = scores[scores["metric"] == "reward.gold"].set_index("prompt_id")["value"]
        assert last.sort_index().equals(final.sort_index())


@pytest.mark.figures
def test_the_summary_and_the_page_tell_of_it(outcome):
    found = outcome.summary["overoptimization"]
    assert list(found) == ["ppo", "dpo"]
    assert [p["examples"] for p in found["dpo"]["points"]] == [8, 16, 32]
    for row in found.values():
        fitted = set() if row["refused"] else {"reward.training", "reward.reward_model", "reward.gold"}
        assert set(row["fits"]) == fitted and row["seeds"] == 1
    hacked = outcome.summary["hacking"]  # dpo never sees the reward
    assert hacked["optimized"] == list(hacked["rows"]) == ["ppo"] and hacked["rows"]["ppo"]["metric"] == "reward.gold"
    assert outcome.summary["far"]["dpo"]["responses"] == 6 and set(outcome.summary["far"]) == {"ppo", "dpo"}
    render([outcome.run])
    page = (outcome.run.report_path / "index.html").read_text()
    assert "Reward along training" in page and "dpo" in found["dpo"]["text"]


def test_export_of_the_run_and_of_answers_to_other_questions(outcome, tmp_path):
    own = export(outcome.run, "alpaca_eval", tmp_path / "own")
    assert [p.name for p in own] == [f"along-{m}-seed0.json" for m in ("sft", "ppo", "dpo")]
    generations = next(c for c in outcome.run.cells() if c.method == "dpo").generations()
    assert [a.output for a in read_outputs(own[2], "alpaca_eval")] == [g.response for g in generations]

    (tmp_path / "question.jsonl").write_text(
        '{"uid": "x1", "prompt": "Hello"}\n{"uid": "x2", "prompt": "Is 2 even?"}\n'
    )
    ask = {"questions": tmp_path / "question.jsonl", "device": "cpu"}
    made = export(outcome.run, "arena", tmp_path, max_new_tokens=8, **ask)
    assert [p.name for p in made] == ["along-ppo-seed0.jsonl", "along-dpo-seed0.jsonl"]
    answers = read_outputs(made[0], "arena")
    assert [a.id for a in answers] == ["x1", "x2"] and all(0 < a.tokens <= 8 for a in answers)
    with pytest.raises(InputError, match="lower --max-new-tokens"):
        export(outcome.run, "arena", tmp_path, max_new_tokens=250, **ask)


def test_a_damaged_policy_is_not_exported(outcome, tmp_path):
    run = Run(shutil.copytree(outcome.run.path, tmp_path / "run"))
    (tmp_path / "question.jsonl").write_text('{"uid": "x1", "prompt": "Hello"}\n')
    weights = run.path / "dpo" / "seed-0" / "policy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="model.safetensors is damaged"):
        export(run, "arena", tmp_path, questions=tmp_path / "question.jsonl", max_new_tokens=8, device="cpu")


def test_checkpoints_and_export_of_adapters(tmp_path, make_tiny, write_tiny):
    """With LoRA both are adapters on the SFT checkpoint: they differ from each other, are scored, and answer."""
    model = str(make_tiny(tmp_path / "model", std=0.05))
    methods = {"ppo": {"critic_warmup": 0}}  # learns from round one
    tuning, evaluation = {"lora_rank": 4}, {"prompts": 4, "along": 1}
    path = write_tiny(tmp_path, name="along", model=model, tuning=tuning, evaluation=evaluation, methods=methods)
    made = run_harness(Request(load_spec(str(path)), ("ppo", "dpo"), 1, tmp_path / "results"))
    assert made.failures == {}
    hello = ({"role": "user", "content": "Hello"},)
    for cell in (c for c in made.run.cells() if c.method != "sft"):
        folders = [cell.path / "along" / "000000008", cell.path / "policy"]
        assert all((folder / "adapter_config.json").exists() for folder in folders)
        sft = made.run.path / "sft" / "model"
        models = [PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sft), folder) for folder in folders]
        ids = encode_prompt(AutoTokenizer.from_pretrained(folders[1]), hello)
        halfway, final = (model(input_ids=torch.tensor([ids])).logits for model in models)
        assert not torch.allclose(halfway, final, atol=1e-6)
        table = cell.along()
        assert sorted(table["examples"].unique()) == [0, 8, 16]
        kl = table[table["metric"] == "kl"].groupby("examples")["value"].mean()
        assert kl[0] == 0 and kl[8] > 0 and kl[16] > 0 and kl[8] != kl[16]
    (tmp_path / "question.jsonl").write_text('{"uid": "x1", "prompt": "Hello"}\n')
    files = export(made.run, "arena", tmp_path, questions=tmp_path / "question.jsonl", max_new_tokens=8, device="cpu")
    assert [p.name for p in files] == ["along-ppo-seed0.jsonl", "along-dpo-seed0.jsonl"]
    for file, method in zip(files, ("ppo", "dpo"), strict=True):
        policy = Checkpoint(made.run.path / method / "seed-0" / "policy", "")
        network = Policy.open(policy, Tuning(4, precision="fp32", device="cpu"), trainable=False)
        prompt = Prompt("x1", hello, tuple(ids))
        [expected] = to_generations(network, sample(network, [prompt], max_new_tokens=8, seed=0))
        assert [a.output for a in read_outputs(file, "arena")] == [expected.response]
        network.network.close()


class Always:
    """A judge behind an endpoint that prefers the first response of each pair asked about, for 100 tokens and 1."""

    def __init__(self):
        self.asked = 0

    def ask(self, prompts, keep=None):
        self.asked += len(prompts)
        answers = ["A", "B"] * (len(prompts) // 2)
        for place, answer in enumerate(answers):
            keep(place, Answer(answer, 100, 1))
        return answers


@pytest.fixture
def always(monkeypatch):
    """Every judge is one such, with a memory of its own."""
    judges = {}

    def opened(settings, model):
        scripted, asker = judges.setdefault(model, (one := Always(), RememberingAsker(lambda: one, None, None)))
        return asker

    monkeypatch.setattr(judge, "open_asker", opened)
    monkeypatch.setattr(judge_people, "open_asker", opened)
    return judges


def test_a_judge_asked_until_decided_makes_its_own_metric(outcome, always):
    """The same run scored again, with a judge that always prefers the policy's response."""
    found = run_harness(_request(outcome, {"judge": ENDPOINT | {"until_decided": 0.6}}))
    cell = found.summary["methods"]["dpo"]["metrics"][UNTIL_DECIDED]
    assert "win_rate.judge" not in found.summary["methods"]["dpo"]["metrics"]
    assert cell["mean"] > 0.5 and always["openai:none"][0].asked > 0
    pairs = [(c["a"], c["b"]) for c in found.summary["comparisons"] if c["metric"] == UNTIL_DECIDED]
    assert pairs == [("dpo", "sft")]


def test_the_bill_of_a_run_is_that_of_all_its_calls(outcome, always):
    """dpo is judged in one call, ppo in the next; the summary then has the verdicts on both, whoever asked for them."""
    first = run_harness(_request(outcome, {"judge": ENDPOINT}))
    asked = always["openai:none"][0].asked
    used = first.summary["judges"]["usage"]["none"]
    assert used == {"verdicts": asked, "tokens_in": 100 * asked, "tokens_out": asked, "dollars": None}
    second = run_harness(_request(outcome, {"judge": ENDPOINT | {"price": (1.0, 2.0)}}, methods=("ppo",)))
    total = always["openai:none"][0].asked
    assert total > asked
    assert second.summary["judges"]["usage"]["none"] == {
        "verdicts": total, "tokens_in": 100 * total, "tokens_out": total, "dollars": pytest.approx(total * 102e-6)
    }  # fmt: skip


def test_rows_are_compared_with_each_other_and_asked_about_once(outcome, always):
    """The judge prefers the later row, on the 3 prompts that it may ask; the other way round is the same question."""
    both = _request(outcome, {"judge": ENDPOINT | {"versus": 3}}, methods=("ppo", "dpo"))
    found = run_harness(both)
    texts = {cell.method: {g.prompt_id: g.response for g in cell.generations()} for cell in found.run.cells()}
    prompts = asking_order(texts["dpo"])[:3]
    expected = {p: 0.5 if texts["dpo"][p] == texts["ppo"][p] else 1.0 for p in prompts}
    asked, scores = always["openai:none"][0].asked, _direct(found.run)
    assert scores == {("dpo", "versus.judge:ppo"): expected} and 1.0 in expected.values()
    differ = sum(value == 1.0 for value in expected.values())
    alone = sum(texts[m][p] != texts["sft"][p] for m in ("ppo", "dpo") for p in texts["sft"])
    assert asked == 2 * (alone + differ) == found.summary["judges"]["usage"]["none"]["verdicts"]
    shown = json.dumps([found.summary[part] for part in ("methods", "changes", "ties")])
    assert "judge.answered" in shown and "versus" not in shown
    assert "versus" not in (found.run.report_path / "index.html").read_text()
    turned = run_harness(dataclasses.replace(both, methods=("dpo", "ppo")))
    assert _direct(turned.run) == {("ppo", "versus.judge:dpo"): {p: 1 - value for p, value in expected.items()}}
    assert always["openai:none"][0].asked == asked
    apart = run_harness(dataclasses.replace(both, methods=("ppo",)))
    assert any("did not compare ppo and dpo directly" in line for line in apart.summary["warnings"])
    none = run_harness(_request(outcome, {"judge": ENDPOINT | {"versus": 0}}, methods=("ppo", "dpo")))
    assert _direct(none.run) == {} and not any("directly" in line for line in none.summary["warnings"])


def _direct(run):
    """By row and metric the values of direct comparisons by prompt."""
    scores = run.scores()
    kept = scores[scores["metric"].str.match(r"versus\.judge:")]
    return {key: dict(zip(part["prompt_id"], part["value"], strict=True))
            for key, part in kept.groupby(["method", "metric"])}  # fmt: skip


def test_another_judge_never_shares_a_column(outcome, always):
    """Judged by one, a method keeps that judge until all methods of the run are judged by the other."""
    run_harness(_request(outcome, {"judge": ENDPOINT}, methods=("ppo", "dpo")))
    other = {"judge": ENDPOINT | {"model": "openai:other"}}
    with pytest.raises(InputError, match=r"ppo seed 0 was scored by another judge \(differs in model\)"):
        run_harness(_request(outcome, other))
    assert "openai:other" not in always  # refused before anything is paid
    found = run_harness(_request(outcome, other, methods=("ppo", "dpo")))
    assert list(found.summary["judges"]["usage"]) == ["other"]
    run_harness(_request(outcome, {"length": {}}))  # no judge at all is no other judge


def test_agreement_with_people_is_in_the_summary(outcome, always, tmp_path, capsys):
    """The judge says "a" of every pair; two of three people's majorities do."""
    labels = [("p", ["a", "a", "b"]), ("q", ["b", "b", "b"]), ("r", ["a"])]
    rows = [
        {"id": i, "prompt": p, "response_a": "x", "response_b": "y", "human": human, "subset": p}
        for i, (p, human) in enumerate(labels)
    ]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ENDPOINT | {"labels": str(tmp_path / "people.jsonl")}
    found = run_harness(_request(outcome, {"judge": settings}, methods=("ppo", "dpo"))).summary["judges"]["people"]
    row = found["judges"]["none"]
    assert row["accuracy"]["mean"] == pytest.approx(2 / 3) and row["coverage"] == 1.0 and row["flip"]["mean"] == 0.0
    assert found["people"]["pairs"] == 3 and found["people"]["labels"] == 7 and "panel" not in found
    assert {name: part["accuracy"]["mean"] for name, part in row["subsets"].items()} == {"p": 1.0, "q": 0.0, "r": 1.0}
    said = capsys.readouterr().err
    assert "people.jsonl: 6 questions, about" in said.partition("SFT:")[0]  # what it takes, before anything is made
    assert "gives the majority's label in 0.67 of 3 pairs" in said
    settings["labels"] = str(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="none.jsonl"):
        run_harness(_request(outcome, {"judge": settings}))


def _request(outcome, evaluators, methods=("dpo",)):
    root = outcome.run.path.parents[2]
    spec = load_spec(str(root.parent / "tiny.yaml"))
    return Request(spec.model_copy(update={"evaluators": evaluators}), methods, 1, root)
