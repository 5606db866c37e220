"""TRL's trainer behind our interface ends where ours does, and a machine without TRL is told so."""

import sys

import pytest
from safetensors.torch import load_file

from alignment_bench.methods.base import Budget, Pair, PairDataset, Prompt, PromptDataset, TrainingError, TrainingTask
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.policy import Policy
from alignment_bench.methods.trl_dpo import TRLDPO

PROMPT = ({"role": "user", "content": "?"},)
PAIRS = [
    Pair(f"r{i}", Prompt(f"p{i}", PROMPT, (0, 10 + i, 11)), chosen=(20 + i, 21, 1), rejected=(40, 41 + i, 42, 43, 1))
    for i in range(12)
]


def make_task(sft, tuning, out, examples=32):
    out.mkdir()

    def reference():
        frozen = Policy.open(sft, tuning, trainable=False)
        return tuple(
            frozen.total_logps([(p.prompt.ids, getattr(p, side)) for p in PAIRS]) for side in ("chosen", "rejected")
        )

    pairs = PairDataset(PAIRS, reference)
    return TrainingTask(sft, pairs, PromptDataset([], 8), None, Budget(examples), 0, out, tuning)


def test_dpo_and_trl_dpo_end_at_the_same_weights(tiny, full, tmp_path):
    """Eight steps of full fine-tuning with warm-up, decay and clipping; rows, order and schedule are the same."""
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    settings = {"lr": 1e-3, "batch_size": 4, "beta": 0.3, "warmup": 0.25, "weight_decay": 1.0}
    ours = DPO(**settings).train(make_task(tiny, full, tmp_path / "ours"))
    theirs = TRLDPO(**settings).train(make_task(tiny, full, tmp_path / "theirs"))
    before, mine, trls = (load_file(folder / "model.safetensors") for folder in (tiny.path, ours.path, theirs.path))
    moved = sum(float(((mine[name] - before[name]) ** 2).sum()) for name in mine) ** 0.5
    apart = sum(float(((mine[name] - trls[name]) ** 2).sum()) for name in mine) ** 0.5
    assert apart < 0.02 * moved


def test_without_trl_one_sentence_says_so(tiny, full, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(TrainingError, match="TRL is not installed; pip install trl"):
        TRLDPO().train(make_task(tiny, full, tmp_path / "t"))
