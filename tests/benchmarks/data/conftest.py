"""What the tests of a benchmark's data have in common: rows, a file of them, and the corpus that is made of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.data.corpus import load_corpus
from alignment_bench.benchmarks.definition.spec import BenchmarkSpec
from alignment_bench.results.store import Looking, Store

PARTS = ("sft", "training", "evaluation", "heldout")
STAGE = {"examples": 8, "lr": 1e-3}


def row(number, chosen="yes", rejected="no", **more):
    return {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected, **more}


def save(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def load(tiny, full, tmp_path):
    """load(rows or a file, looking=False, **spec): the corpus, with everything below tmp_path."""

    def load_from(source, *, looking=False, base=tiny, precision="fp32", **more):
        path = source if isinstance(source, Path) else save(tmp_path / "pairs.jsonl", source)
        lengths = {"max_prompt_tokens": 60, "max_response_tokens": 30}
        spec = BenchmarkSpec(**{
            "name": "made-up", "model": str(base.path), "preferences": str(path), "sft": STAGE,
            "reward_model": STAGE, "budget": 8, **lengths, **more,
        })  # fmt: skip
        store = (Looking if looking else Store)(tmp_path / "results")
        return load_corpus(spec, base, Workshop(store, replace(full, precision=precision), {}))

    return load_from
