"""Labelled pairs from elsewhere: what the model has seen is left out by what it sees, and cut replies have no end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from alignment_bench.benchmarks.data.prompts import show
from alignment_bench.benchmarks.stages.reward_audit import read_external, read_scored, score_pairs
from alignment_bench.errors import InputError
from alignment_bench.models.chat import load_tokenizer

WITHOUT_SYSTEM = (
    "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}"
    "{% if 'bad' in m['content'] %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
)


def row(text, **more):
    prompt = [{"role": "system", "content": "other"}, {"role": "user", "content": text}]
    return {"prompt": prompt, "chosen": "yes</s>", "rejected": "no", **more}


def test_pairs_from_elsewhere_are_known_by_what_the_model_sees(make_tiny, tmp_path):
    tokenizer = load_tokenizer(make_tiny(tmp_path / "m", template=WITHOUT_SYSTEM))
    (seen,) = show(tokenizer, [[{"role": "user", "content": "known"}]])
    corpus = SimpleNamespace(prompt_hashes=lambda *parts: np.array([seen.hash], np.uint64))
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (row("known"), row("new", rejected_cut=True), row("bad"))))
    source, (pair,), left_out = read_external(str(path), corpus, tokenizer)
    assert (source, left_out) == (str(path), 2)
    assert (pair.chosen, pair.rejected, pair.cut) == ("yes", "no", (False, True))
    path.write_text(json.dumps(row("known")) + "\n")
    with pytest.raises(InputError, match="all of its 1 prompts"):
        read_external(str(path), corpus, tokenizer)

    def build(kind, inputs, build):
        build(tmp_path)
        return SimpleNamespace(path=tmp_path)

    shown = []
    model = SimpleNamespace(tuning=None, rewards=lambda sides: shown.extend(sides) or [1.0, 0.0])
    shop = SimpleNamespace(store=SimpleNamespace(stage=build), tuning=SimpleNamespace(identity=lambda: {}), packages={})
    (scored,) = read_scored(score_pairs(shop, model, "key", tokenizer, [pair]))
    assert [g.finished for g in shown] == [True, False]
    assert (scored.chosen_length, scored.rejected_length) == (4, 2)  # "yes" and EOS; "no", which was cut
