"""Pairs of a model's own responses: sampled and labelled once, kept, and part of a whole run of `sentiment`."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("vaderSentiment")

from alignment_bench.benchmarks import harness
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.plan import ON_DISK, plan
from alignment_bench.benchmarks.request import Request
from alignment_bench.errors import InputError
from alignment_bench.evaluators.reward_function import reward_of
from alignment_bench.preferences.sentence import first_sentence
from alignment_bench.preferences.sentiment import true_reward
from alignment_bench.results.cache import look
from alignment_bench.results.records import Generation
from alignment_bench.results.store import Store, read_json

SMALL = {  # the model that is shipped says "kind", "nice" and "steal", which VADER knows, and ends sentences
    "collected": {"prompts": 64, "k": 8, "margin": 0.05, "seed": 1},
    "sft": {"examples": 16},
    "reward_model": {"examples": 16},
    "budget": 8,
    "evaluation": {"prompts": 4},
    "evaluators": {"gold": {"reward": "alignment_bench.preferences.sentiment:true_reward"}, "divergence": {}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def request_small(root):
    """request_small(**changes): a run like those of `sentiment`, small."""

    def request(**changes):
        path = root / "small.yaml"
        path.write_text(json.dumps({"extends": "sentiment", "model": "builtin/base_model", **SMALL, **changes}))
        return Request(load_spec(str(path)), ("dpo",), 1, root, device="cpu")

    return request


@pytest.fixture(scope="module")
def run(request_small):
    """The folder of a run with all but its summary."""
    return harness.score(request_small()).run.path


def kept(root):
    return [stage for stage in Store(root).made() if stage.manifest["stage"] == "collected"]


def test_pairs_are_sentences_that_differ_and_are_labelled_by_the_truth(run, root):
    """Labels at sharpness 8 are right more often than not; sigmoid(0.4) = 0.6 at the margin itself."""
    (stage,) = kept(root)
    rows = [json.loads(line) for line in (stage.path / "labels" / "true_reward.jsonl").read_text().splitlines()]
    counts = read_json(stage.path / "collection.json")["counts"]
    assert counts["sampled"] == 64 * 8 and len(rows) == counts["pairs"] > 20
    gaps = [true_reward("", row["chosen"])["reward"] - true_reward("", row["rejected"])["reward"] for row in rows]
    assert min(map(abs, gaps)) >= 0.05
    assert sum(gap > 0 for gap in gaps) > 0.6 * len(gaps)
    assert not any(row["chosen_cut"] or row["rejected_cut"] for row in rows)
    texts = [row[side] for row in rows for side in ("chosen", "rejected")]
    assert all(first_sentence(text, is_whole=True) in (text, None) for text in texts)  # None: it ended without a stop
    assert any(text.endswith(".") for text in texts)


def test_a_run_says_whose_pairs_these_are_and_how_prompts_are_shown(run):
    record = read_json(run / "run.json")
    assert record["data"]["source"] == "builtin/openings"
    notes = " ".join(record["data"]["notes"])
    assert "builtin/base_model's own responses to 64 prompts" in notes and "prompts are bare text" in notes
    generation = json.loads((run / "dpo" / "seed-0" / "generations.jsonl").read_text().splitlines()[0])
    assert not generation["response"].startswith(" ")


def test_pairs_are_sampled_once_and_kept_as_long_as_a_run_refers_to_them(run, root, request_small):
    (stage,) = kept(root)
    states = {planned.step.label: planned.state for planned in plan(request_small()).steps}
    assert states["SFT"] == states["dpo seed 0, training"] == ON_DISK
    (item,) = [item for item in look(Store(root)).items if item.kind == "collected"]
    assert item.path == stage.path and item.kept


def test_a_plan_makes_the_pairs_and_nothing_else(tmp_path, request_small, caplog):
    request = replace(request_small(collected={**SMALL["collected"], "prompts": 24, "seed": 2}), root=tmp_path)
    planned = plan(request)
    told = [text for text in caplog.messages if "sampled first" in text]
    assert told == [
        "the pairs are not on disk and are sampled first: 24 prompts of builtin/openings get 8 responses each"
    ]
    (stage,) = kept(tmp_path)
    assert planned.data["used"] == read_json(stage.path / "collection.json")["counts"]["pairs"]
    assert {made.manifest["stage"] for made in Store(tmp_path).made()} == {"collected"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preferences": "builtin/opening"}, "small.yaml.*: there are no built-in prompts 'opening'; .*openings"),
        ({"collected": {**SMALL["collected"], "reward": "no.such:thing"}}, "collected.reward 'no.such:thing' cannot"),
        (
            {"collected": {**SMALL["collected"], "prompts": 4, "margin": 2.5}, "tuning": {"precision": "fp32"}},
            "as far apart as the margin .*; lower --margin",
        ),
    ],
)
def test_what_cannot_be_collected_is_told(tmp_path, request_small, changes, told):
    small = {"collected": {**SMALL["collected"], "prompts": 4}}
    with pytest.raises(InputError, match=told):
        plan(replace(request_small(**{**small, **changes}), root=tmp_path))


def test_an_error_of_the_reward_names_the_field_that_asked_for_it(monkeypatch, tmp_path):
    (tmp_path / "rewards_of_a_test.py").write_text("def odd(prompt, response):\n    return {'reward': 1 / 0}\n")
    monkeypatch.syspath_prepend(tmp_path)
    rewards = reward_of("rewards_of_a_test:odd", "x.yaml: collected.reward")
    with pytest.raises(InputError, match=r"^x.yaml: collected.reward: rewards_of_a_test:odd failed \(ZeroDivisionErr"):
        rewards([Generation(prompt_id="a", prompt=(), response="b", length=1, finished=True)])
