"""Labels made worse on purpose: shares, tastes, the training side alone, and keys."""

import numpy as np
import pyarrow
import pytest

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.data.arrow_columns import PAIRS
from alignment_bench.benchmarks.data.arrow_rows import ArrowFile
from alignment_bench.benchmarks.data.corpus import load_corpus, rows_digest
from alignment_bench.benchmarks.data.labels import changed
from alignment_bench.benchmarks.definition.spec import BenchmarkSpec, Labels
from alignment_bench.errors import InputError
from alignment_bench.results.integrity import digest
from alignment_bench.results.store import Store

IDS = np.array([int(digest(i)[:16], 16) for i in range(4000)], dtype=np.uint64)
LONG, SHORT = "a kind and long reply", "no"
KIND = "alignment_bench.benchmarks.world:friendliness"
FRIENDLY = "Rome. I hope this helps you a lot."


@pytest.fixture
def swapped(tmp_path):
    """Which of 4,000 pairs of these two replies change sides, a token a word."""

    def swapped(chosen, rejected, **labels):
        row = {
            "prompt_id": 0, "prompt_hash": 0, "prompt": [{"role": "user", "content": "Where?"}], "prompt_ids": [1],
            "chosen": chosen, "rejected": rejected, "chosen_ids": [1] * len(chosen.split()),
            "rejected_ids": [1] * len(rejected.split()), "chosen_cut": False, "rejected_cut": False, "subset": None,
        }  # fmt: skip
        with pyarrow.ipc.new_file(str(tmp_path / "pairs.arrow"), PAIRS) as file:
            for part in (IDS[:1500], IDS[1500:]):
                file.write_batch(pyarrow.RecordBatch.from_pylist([{**row, "id": int(i)} for i in part], PAIRS))
        return changed(ArrowFile(tmp_path / "pairs.arrow"), Labels(**labels), "here")

    return swapped


def test_a_share_is_flipped_and_a_larger_one_flips_these_as_well(swapped):
    quarter = swapped(LONG, SHORT, flip=0.25)
    tenth = swapped(LONG, SHORT, flip=0.1)
    # 4000 draws of a share p have an sd of sqrt(4000 p (1 - p)): 27 and 19
    assert len(quarter) == pytest.approx(1000, abs=100) and len(tenth) == pytest.approx(400, abs=80)
    assert set(tenth) < set(quarter) and list(quarter) == sorted(quarter)
    assert swapped(LONG, SHORT).size == 0
    # which pairs are flipped has nothing to do with which have the smallest ids, by which pairs are taken
    assert np.mean(quarter < np.median(IDS)) == pytest.approx(0.5, abs=0.06)


def test_a_biased_labeller_chooses_the_longer_reply(swapped):
    assert swapped(LONG, SHORT, bias=1.0).size == 0  # the longer one was chosen already
    assert swapped(LONG, LONG, bias=1.0).size == 0
    assert swapped(SHORT, LONG, bias=1.0).size == len(IDS)
    assert swapped(SHORT, LONG, bias=0.3).size == pytest.approx(1200, abs=120)
    # a quarter of the biased labels is flipped back, and of all others as well
    both = swapped(SHORT, LONG, bias=1.0, flip=0.25)
    assert set(both) == set(IDS) - set(swapped(SHORT, LONG, flip=0.25))
    # the two are drawn apart: 0.3 and 0.25 meet in 0.075 of the pairs
    both = swapped(SHORT, LONG, bias=0.3, flip=0.25)
    assert both.size == pytest.approx(4000 * (0.3 + 0.25 - 2 * 0.075), abs=130)


def test_a_taste_of_ones_own_is_a_function(swapped):
    assert swapped(LONG, "Rome.", bias=1.0, taste=KIND).size == 0  # neither is friendly
    assert swapped(FRIENDLY, LONG, bias=1.0, taste=KIND).size == 0
    assert set(swapped(LONG, FRIENDLY, bias=1.0, taste=KIND)) == set(IDS)
    # the pairs that are swayed are the same whatever the taste
    assert set(swapped(SHORT, FRIENDLY, bias=0.3, taste=KIND)) == set(swapped(SHORT, LONG, bias=0.3))
    with pytest.raises(InputError, match=r"^here 'nowhere:at_all' cannot be loaded"):
        swapped(LONG, FRIENDLY, bias=1.0, taste="nowhere:at_all")


@pytest.fixture
def load(tiny, full, tmp_path):
    def load_with(**labels):
        stage = {"examples": 8, "lr": 1e-3}
        spec = BenchmarkSpec(
            name="x", model="m", preferences="builtin/world", rows=200, max_prompt_tokens=150, max_response_tokens=90,
            sft=stage, reward_model=stage, budget=8, labels=labels,
        )  # fmt: skip
        return load_corpus(spec, tiny, Workshop(Store(tmp_path / "results"), full, {}))

    return load_with


def test_the_training_side_alone_is_changed_and_it_is_recorded(load):
    clean, noisy = load(), load(flip=0.5)
    assert clean.record["stage"] == noisy.record["stage"]  # tokenized once
    pairs = list(zip(clean.training, noisy.training, strict=True))
    swapped = [a.id for a, b in pairs if (a.chosen, a.rejected) == (b.rejected, b.chosen)]
    assert all(a == b or a.id in swapped for a, b in pairs) and 0.3 < len(swapped) / len(pairs) < 0.7
    assert noisy.record["labels"] == {"flip": 0.5, "bias": 0.0, "taste": "length", "changed": len(swapped)}
    for part in ("sft", "evaluation", "heldout"):
        assert list(getattr(clean, part)) == list(getattr(noisy, part))
        assert rows_digest(getattr(clean, part)) == rows_digest(getattr(noisy, part))
    assert rows_digest(clean.training) != rows_digest(noisy.training) and clean.digest != noisy.digest
    assert load(flip=0.4).digest not in (clean.digest, noisy.digest)
    # where no label changes, the rows are the clean ones, and nothing is trained twice
    assert load(bias=0.0, taste=KIND).digest == load(flip=1e-9).digest == clean.digest
    assert load(bias=1.0, taste=KIND).digest != clean.digest
    with pytest.raises(InputError, match=r"labels.taste 'no.such:thing' cannot be loaded"):
        load(taste="no.such:thing")
    assert "labels" not in clean.record


def test_some_pairs_are_those_with_the_smallest_ids_in_their_order(load):
    rows = load().training
    few = rows.some(10)
    smallest = sorted(pair.id for pair in rows)[:10]
    assert [pair.id for pair in few] == [pair.id for pair in rows if pair.id in smallest]
    assert len(rows.some(10_000)) == len(rows)


def test_a_share_out_of_range_is_refused():
    spec = BenchmarkSpec(
        name="x", model="m", preferences="p", max_prompt_tokens=9, max_response_tokens=9,
        sft={"examples": 8, "lr": 1e-3}, reward_model={"examples": 8, "lr": 1e-3}, budget=8,
    )  # fmt: skip
    assert spec.with_fields({"labels.flip": 0.25, "sft.seed": 2}, "--vary").labels == Labels(flip=0.25)
    with pytest.raises(InputError, match=r"^--vary labels.flip: labels.flip: .* less than or equal to 0.5, not 0.6$"):
        spec.with_fields({"labels.flip": 0.6}, "--vary labels.flip")
    with pytest.raises(InputError, match="there is no field 'labels.flop'"):
        spec.with_fields({"labels.flop": 0.6}, "--vary labels.flop")
