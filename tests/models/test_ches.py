"""CHES beside its definition, from transformers' own hidden states; and the order of pairs that a hand can tell."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment_bench.models.ches import ches
from alignment_bench.models.policy import Policy
from alignment_bench.results import lazy
from alignment_bench.results.records import Pair, Prompt


def pair(name: str, chosen: tuple[int, ...], rejected: tuple[int, ...], prompt=(0, 11, 12)) -> Pair:
    return Pair(name, Prompt(name, ({"role": "user", "content": name},), prompt), chosen, rejected)


PAIRS = [
    pair("same", (5, 6, 7, 1), (5, 6, 7, 1)),
    pair("other", (5, 6, 7, 1), (20, 21, 1)),
    pair("short", (8, 1), (5, 6, 7, 9, 9, 1), prompt=(0, 30)),
]


def by_definition(checkpoint, each: Pair) -> float:
    """<H_chosen, H_rejected> - |H_chosen|^2 of means, a state for each token of a reply: the one before it."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32).eval()

    def mean(reply):
        ids = torch.tensor([[*each.prompt.ids, *reply]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[-1][0].double()
        return states[len(each.prompt.ids) - 1 : -1].mean(0).numpy()

    chosen, rejected = mean(each.chosen), mean(each.rejected)
    return float(chosen @ rejected - chosen @ chosen)


def test_the_score_is_that_of_the_definition(tiny, full):
    found = ches(Policy.open(tiny, full, trainable=False), PAIRS)
    wanted = [by_definition(tiny, each) for each in PAIRS]
    assert found[0] == pytest.approx(0, abs=1e-3)  # a reply beside itself
    assert np.abs(wanted[1:]).min() > 0.1  # of what is compared there is something
    assert found[1:].tolist() == pytest.approx(wanted[1:], rel=1e-4)
    assert ches(Policy.open(tiny, full, trainable=False), []).shape == (0,)


def test_pairs_go_through_in_chunks(tiny, full, monkeypatch):
    policy = Policy.open(tiny, full, trainable=False)
    whole = ches(policy, PAIRS)
    monkeypatch.setattr(lazy, "CHUNK", 2)
    assert ches(policy, PAIRS).tolist() == pytest.approx(whole.tolist(), rel=1e-5, abs=1e-3)
