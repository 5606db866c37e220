"""Which of the training pairs a benchmark takes: fewer, alike ones, those of one CHES, all but a subset's."""

import numpy as np
import pytest

from alignment_bench.analysis.data_account import account
from alignment_bench.benchmarks.data import corpus as corpus_module
from alignment_bench.errors import InputError
from alignment_bench.models.ches import ches
from alignment_bench.models.policy import Policy
from alignment_bench.runtime import processes

from .conftest import PARTS, row


def test_fewer_training_pairs_by_hash_or_by_how_alike_their_replies_are(load):
    """Odd rows have replies of which one letter differs, even ones share nothing but the end."""
    rows = [row(n, "aaaaaaaa", "aaaaaaab" if n % 2 else "zzzz") for n in range(60)]
    whole, fewer = load(rows), load(rows, training_pairs={"most": 5})
    ids = sorted(pair.id for pair in whole.training)[:5]
    assert [pair.id for pair in fewer.training] == [pair.id for pair in whole.training if pair.id in ids]
    assert all([*getattr(whole, part)] == [*getattr(fewer, part)] for part in PARTS if part != "training")
    left = len(whole.training) - 5
    assert (
        fewer.record["used"] == 60 - left
        and fewer.record["left_over"] == left == fewer.record["training_pairs"]["left_out"]
    )
    assert account(fewer.record)[-1] == f"{left:,} of the training split left out by training_pairs"
    both = load(rows, training_pairs={"most": 5}, rows=50)
    (told,) = [said for said in account(both.record) if "rows=50" in said]
    assert told.startswith("10 usable ones left over")
    assert "training_pairs" not in whole.record and fewer.digest != whole.digest
    alike = load(rows, training_pairs={"alike": 0.75, "most": 4})
    found = [pair for pair in whole.training if int(pair.prompt.messages[0]["content"].split()[1][:-1]) % 2]
    ids = sorted(pair.id for pair in found)[:4]
    assert len(found) > 4 and [pair.id for pair in alike.training] == [pair.id for pair in found if pair.id in ids]
    with pytest.raises(InputError, match="no training pair has replies that are alike to 0.99; give a smaller share"):
        load(rows, training_pairs={"alike": 0.99})


def test_training_pairs_of_the_lowest_or_highest_ches(load, tiny, full):
    rows = [row(n, "yes" * (1 + n % 3), "no" * (1 + n % 4)) for n in range(40)]
    whole = load(rows, rows=30).training  # of forty, so that places among them are no places in the file
    scores = ches(Policy.open(tiny, full, trainable=False), whole)
    ids = [whole[int(place)].id for place in scores.argsort()]
    assert len(set(scores.round(6))) > 6
    for by, wanted in {"low_ches": ids[:6], "high_ches": ids[-6:]}.items():
        found = load(rows, rows=30, training_pairs={"most": 6, "by": by})
        assert {pair.id for pair in found.training} == set(wanted)
        assert [pair.id for pair in found.training] == [pair.id for pair in whole if pair.id in wanted]
        assert found.record["training_pairs"]["by"] == by
    asked = {"training_pairs": {"most": 6, "by": "low_ches"}}
    assert load(rows, **asked).record["stage"] != load(rows, precision="bf16", **asked).record["stage"]  # other states
    with pytest.raises(InputError, match=r"low_ches says which pairs come first, and all are taken; give training_pa"):
        load(rows, training_pairs={"by": "low_ches"})


def test_one_of_several_processes_looks_at_the_states_as_if_it_were_alone(load, monkeypatch):
    sizes = []
    monkeypatch.setattr(processes, "_SIZE", 2)
    monkeypatch.setattr(processes, "broadcast", lambda value: value)
    monkeypatch.setattr(corpus_module, "ches", lambda _, pairs: sizes.append(processes.size()) or np.arange(len(pairs)))
    load([row(n) for n in range(40)], training_pairs={"most": 6, "by": "low_ches"})
    assert sizes == [1] and processes.size() == 2


def test_training_pairs_of_one_subset_are_left_out_and_no_others(load):
    rows = [{**row(n), "subset": "harm" if n % 3 else None} for n in range(60)]
    whole, fewer = load(rows, rows=45), load(rows, rows=45, training_pairs={"without": "harm"})
    kept = [pair for pair in whole.training if int(pair.prompt.messages[0]["content"].split()[1][:-1]) % 3 == 0]
    assert 0 < len(kept) < len(whole.training) and [*fewer.training] == kept
    assert all([*getattr(whole, part)] == [*getattr(fewer, part)] for part in PARTS if part != "training")
    assert fewer.record["training_pairs"]["without"] == "harm" and whole.subsets == fewer.subsets
    with pytest.raises(InputError, match=r"'harmful' is not one of several subsets of the training pairs \(harm\)"):
        load(rows, training_pairs={"without": "harmful"})
    with pytest.raises(InputError, match=r"\(they have none\); give one of those, or null"):
        load([row(n) for n in range(60)], training_pairs={"without": "harm"})
    with pytest.raises(InputError, match="'harm' is not one of several subsets"):  # nothing would be left
        load([{**row(n), "subset": "harm"} for n in range(60)], training_pairs={"without": "harm"})
