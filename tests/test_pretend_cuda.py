"""All that computes, on a pretend CUDA device: no devices mixed, no more waits, copies and launches than are recorded.

The record is results/published/pretend_cuda.json; after a change for the better or a new method write it anew by
`python tests/pretend_runs.py`.
"""

import contextlib
import json
from functools import lru_cache
from typing import Any

import pytest
import torch
from pretend_cuda import pretend_cuda
from pretend_runs import PUBLISHED, TUNINGS, beyond, counts, page, placed, run, runs, save_model, train, versions
from safetensors.torch import load_file

from alignment_bench.methods.dpo import DPO

NAMES = list(runs())
COVERING = [(name, TUNINGS[i % len(TUNINGS)]) for i, name in enumerate(NAMES)]
OTHERS = [(name, tuning) for name in NAMES for tuning in TUNINGS if (name, tuning) not in COVERING]


@lru_cache
def record() -> dict[str, Any]:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def slack() -> float:
    """Of counts: none with the libraries of the record; others take other steps."""
    return 1.0 if record()["versions"] == versions() else 1.25


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("pretend"))


def check(name, tuning, model):
    seen = run(name, model, tuning)
    told = beyond(counts(seen), record()["runs"][name][tuning], slack())
    assert not told, "\n".join([*told, seen.table()])


@pytest.mark.parametrize(("name", "tuning"), COVERING)
def test_nothing_is_mixed_and_nothing_grows(name, tuning, model):
    """Each run once, the tunings by turns."""
    check(name, tuning, model)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tuning"), OTHERS)
def test_nothing_is_mixed_and_nothing_grows_in_other_tunings(name, tuning, model):
    check(name, tuning, model)


def test_every_run_is_recorded_in_every_tuning():
    assert {name: [*found] for name, found in record()["runs"].items()} == {name: TUNINGS for name in sorted(NAMES)}


def test_the_page_is_made_from_the_record():
    assert PUBLISHED.with_suffix(".md").read_text(encoding="utf-8") == page(record())


def test_what_is_computed_there_is_what_the_cpu_computes(model):
    """DPO's weights after two steps. Passes are cut by the device's constants, so sums may be in another order."""
    made = []
    for device, where in (("cuda", pretend_cuda()), ("cpu", contextlib.nullcontext())):
        with placed(model, "full fp32", device=device) as place:
            with where as seen:
                train(DPO(batch_size=8, lr=1e-3))(place, seen)
            made.append(load_file(place.out / "policy/model.safetensors"))
            start = load_file(place.model / "model.safetensors")
    there, here = made
    for name, weight in here.items():
        assert torch.allclose(there[name], weight, atol=1e-6), name
        assert not torch.equal(weight, start[name]), name
