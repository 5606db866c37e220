"""Pairs of a model's own responses: sampled and labelled once, kept, and part of a whole run of `sentiment`."""

import json

import pytest

pytest.importorskip("vaderSentiment")

from alignment_bench.preferences.sentence import first_sentence
from alignment_bench.preferences.sentiment import true_reward
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
def write_small(tmp_path_factory):
    """write_small(**changes): a benchmark like `sentiment`, small; its path."""

    def write(**changes):
        path = tmp_path_factory.mktemp("small") / "small.yaml"
        path.write_text(json.dumps({"extends": "sentiment", "model": "builtin/base_model", **SMALL, **changes}))
        return path

    return write


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def run(bench, write_small, root):
    """A whole run, and its record."""
    bench("run", "-b", write_small(), "-m", "dpo", "--root", root, "--device", "cpu", cwd=root)
    (record,) = root.glob("runs/*/*/run.json")
    return record.parent


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


def test_pairs_are_sampled_once_and_kept_as_long_as_a_run_refers_to_them(run, root, bench, write_small):
    (stage,) = kept(root)
    plan = json.loads(
        bench("run", "-b", write_small(), "-m", "dpo", "--root", root, "--dry-run", "--json", cwd=root).stdout
    )
    states = {step["stage"]: step["state"] for step in plan["steps"]}
    assert states["SFT"] == states["dpo seed 0, training"] == "on disk"
    assert [each.path for each in kept(root)] == [stage.path]
    bench("cache", "gc", "--root", root, "--older-than", "0", "--yes", cwd=root)
    assert [each.path for each in kept(root)] == [stage.path]
