"""A benchmark's pairs on disk: what is in which split by hand, found again, read as sequences; memory as rows grow."""

import gc
import hashlib
import json
import tracemalloc
from pathlib import Path

import pyarrow
import pytest

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.data import corpus as corpus_module
from alignment_bench.benchmarks.data.arrow_rows import ArrowFile
from alignment_bench.benchmarks.data.corpus import load_corpus, rows_digest
from alignment_bench.benchmarks.definition.spec import BenchmarkSpec, Splits
from alignment_bench.errors import InputError
from alignment_bench.models.chat import encode_prompt, encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.results.lazy import LazySequence
from alignment_bench.results.records import LabelledPair, Pair, Prompt
from alignment_bench.results.store import Looking, Store
from alignment_bench.training.task import shuffled

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

    def load_from(source, *, looking=False, **more):
        path = source if isinstance(source, Path) else save(tmp_path / "pairs.jsonl", source)
        lengths = {"max_prompt_tokens": 60, "max_response_tokens": 30}
        spec = BenchmarkSpec(**{
            "name": "made-up", "model": str(tiny.path), "preferences": str(path), "sft": STAGE,
            "reward_model": STAGE, "budget": 8, **lengths, **more,
        })  # fmt: skip
        store = (Looking if looking else Store)(tmp_path / "results")
        return load_corpus(spec, tiny, Workshop(store, full, {}))

    return load_from


def sha(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def test_what_is_in_which_split(load, tiny):
    """Worked out anew from the rule: prompts in the order of sha256([seed, messages]) are dealt out by shares, rows
    keep the file's order, and of the rows that fit those with the smallest ids are taken."""
    rows = [row(i % 30, chosen=f"answer {i}", rejected="x" * (20 + i % 12), subset=f"s{i % 3}") for i in range(75)]
    corpus = load(rows, rows=50, split_seed=4)
    tokenizer = tiny.tokenizer()

    def messages(r):
        return [{"role": "user", "content": r["prompt"]}]

    def name(r):
        return sha([messages(r), r["chosen"], r["rejected"], None])[:16]

    fitting = [r for r in rows if len(r["rejected"]) <= 29]  # a token a byte, and EOS
    kept = sorted(fitting, key=name)[:50]
    ranked = sorted({sha([4, messages(r)]) for r in kept})
    exact = {part: len(ranked) * share for part, share in zip(PARTS, (0.25, 0.4, 0.2, 0.15), strict=True)}
    found = [p for part in PARTS for p in getattr(corpus, part)]
    assert len(found) == len({p.id for p in found}) == 50
    start = 0
    for part in PARTS:
        pairs = getattr(corpus, part)
        prompts = {p.prompt.id for p in pairs}
        assert abs(len(prompts) - exact[part]) < 1  # rounded up or down
        mine = set(ranked[start : start + len(prompts)])
        start += len(prompts)
        expected = [r for r in rows if r in kept and sha([4, messages(r)]) in mine]
        assert [p.id for p in pairs] == [name(r) for r in expected]
        assert list(pairs) == [
            Pair(
                name(r),
                Prompt(sha(messages(r))[:16], tuple(messages(r)), tuple(encode_prompt(tokenizer, messages(r)))),
                tuple(encode_response(tokenizer, r["chosen"])),
                tuple(encode_response(tokenizer, r["rejected"])),
            )
            for r in expected
        ]
        if part == "heldout":
            assert list(corpus.labelled) == [
                LabelledPair(sha(messages(r))[:16], tuple(messages(r)), r["chosen"], r["rejected"], r["subset"])
                for r in expected
            ]
        assert corpus.record["splits"][part] == {"pairs": len(expected), "prompts": len(prompts)}
    assert start == len(ranked)
    too_long = len(rows) - len(fitting)
    assert corpus.record["dropped"] == {"reply longer than 30 tokens": too_long}
    assert (corpus.record["read"], corpus.record["used"]) == (75, 50)
    assert corpus.record["left_over"] == 75 - 50 - too_long


def test_rows_that_are_no_pairs_are_counted_and_blocks_do_not_show(load, monkeypatch):
    """A duplicate of a row that is too long is a duplicate; blocks of 7 rows give what one block gives."""
    long = row(1, chosen="y" * 40)
    rows = [long, *(row(i) for i in range(20)), long, row(3), row(4, chosen=""), row(0, chosen="no "), row(2, "a", "b")]
    whole = load(rows)
    assert whole.record["dropped"] == {
        "duplicate row": 2, "chosen is empty": 1, "chosen equals rejected": 1, "reply longer than 30 tokens": 1,
    }  # fmt: skip
    assert whole.record["used"] == 21
    monkeypatch.setattr("alignment_bench.results.lazy.CHUNK", 7)
    cut = load(rows, split_seed=0, splits=Splits(sft=0.5, training=0.8, evaluation=0.4, heldout=0.3))  # the same shares
    assert whole.record["stage"] != cut.record["stage"]
    assert [list(getattr(cut, part)) for part in PARTS] == [list(getattr(whole, part)) for part in PARTS]
    assert cut.digest == whole.digest


def test_splits_for_tuning_take_prompts_of_their_own_and_leave_a_benchmark_without_them_as_it_is(load):
    """Six splits of 60 prompts by the rule, largest hashes last; without the two, key and data are what they were."""
    rows = [row(i % 60, chosen=f"answer {i}") for i in range(90)]
    plain = load(rows)
    assert (len(plain.selection), len(plain.tuning)) == (0, 0) and set(plain.record["splits"]) == set(PARTS)
    assert plain.digest == sha({part: rows_digest(list(getattr(plain, part))) for part in PARTS})  # as it always was
    assert tuple(Splits().shares) == PARTS
    shares = {"sft": 0.2, "training": 0.3, "evaluation": 0.1, "heldout": 0.1, "selection": 0.2, "tuning": 0.1}
    corpus = load(rows, splits=Splits(**shares))
    assert corpus.digest != plain.digest
    ranked = sorted({sha([0, [{"role": "user", "content": r["prompt"]}]]): r["prompt"] for r in rows}.items())
    start = 0
    for part, share in shares.items():
        mine = {text for _, text in ranked[start : start + round(60 * share)]}
        pairs = getattr(corpus, part)
        assert {p.prompt.messages[0]["content"] for p in pairs} == mine
        assert corpus.record["splits"][part] == {"pairs": len(pairs), "prompts": len(mine)}
        assert [p.prompt_id for p in corpus.labelled_of(part)] == [p.prompt.id for p in pairs]
        start += len(mine)
    assert start == 60
    with pytest.raises(InputError, match="selection, tuning needs at least 10 prompts, .* has 6"):
        load(rows[:6], splits=Splits(**shares))


def test_the_prompts_of_a_split_are_each_there_once_in_the_order_of_ids(load):
    corpus = load([row(i % 12, chosen=f"{i}") for i in range(40)])
    of_pairs = {p.prompt.id: p.prompt for p in corpus.training}
    expected = [of_pairs[name] for name in sorted(of_pairs)]
    assert list(corpus.prompts(corpus.training, 9).prompts) == expected
    assert list(corpus.prompts(corpus.training, 9, limit=2).prompts) == expected[:2]
    names = [f"{name:016x}" for name in corpus.prompt_ids("training", "training")]
    assert names == sorted(of_pairs)


def test_it_is_made_once_and_follows_content_not_place(load, tmp_path):
    """Another file with the same bytes is another source, of the same pairs; other bytes are other pairs."""
    rows = [row(i) for i in range(20)]
    first, again = load(rows), load(rows)
    assert first.record == again.record and first.record["stage"]
    (stage,) = (tmp_path / "results/cache/corpus").glob("[!.]*")
    assert sorted(p.name for p in stage.iterdir()) == sorted(
        [*(f"{part}.arrow" for part in corpus_module.PARTS), "record.json", "manifest.json"]
    )
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    other = load(save(moved / "pairs.jsonl", rows))
    assert other.record == first.record | {"source": str(moved / "pairs.jsonl")}
    swapped = load([*rows[1:], rows[0]])
    assert swapped.record["stage"] != first.record["stage"]
    changed = load([*rows[1:], row(0, chosen="other")])
    assert len({first.digest, changed.digest}) == 2


def test_a_store_that_only_looks_gets_the_pairs_too_and_nothing_is_written(load, tmp_path):
    rows = [row(i) for i in range(20)]
    seen = load(rows, looking=True)
    assert not (tmp_path / "results").exists()
    made = load(rows)
    assert seen.digest == made.digest and list(seen.training) == list(made.training)
    assert list(seen.labelled) == list(made.labelled)
    assert load(rows, looking=True).record == made.record


def test_pairs_are_a_sequence(load):
    pairs = load([row(i) for i in range(40)]).training
    listed = list(pairs)
    assert len(pairs) == len(listed) == 16
    assert pairs[3:9:2] == listed[3:9:2] and pairs[-1] == listed[-1] and pairs[:] == listed
    assert listed[5] in pairs and list(reversed(pairs)) == listed[::-1]
    with pytest.raises(IndexError):
        pairs[16]
    with pytest.raises(IndexError):
        pairs[-17]
    assert rows_digest(listed) == rows_digest(pairs) != rows_digest(listed[::-1])
    assert rows_digest([]) != rows_digest(listed)


def test_pages_that_were_let_go_come_back(load, monkeypatch):
    """The same rows again and again, over the place at which pages are let go."""
    pairs = load([row(i) for i in range(40)]).training
    listed = list(pairs)
    monkeypatch.setattr("alignment_bench.benchmarks.data.arrow_rows.LOOKS", 3)
    assert [pairs[i % 16] for i in range(64)] == listed * 4


def test_unpaired_replies_keep_away_from_the_prompts_of_the_evaluation(load, tmp_path):
    rows = [row(i) for i in range(20)]
    corpus = load(rows)
    apart = {p.prompt.messages[0]["content"] for part in ("evaluation", "heldout") for p in getattr(corpus, part)}
    rated = [{"prompt": f"Question {i}?", "completion": "fine", "label": i % 2 == 0} for i in range(20)]
    rated += [rated[0], {"prompt": "New?", "completion": "z" * 50, "label": True}]
    found = load(rows, unpaired=str(save(tmp_path / "rated.jsonl", rated)))
    expected = [r for r in rated[:20] if r["prompt"] not in apart]
    assert [(r.prompt.messages[0]["content"], r.good) for r in found.unpaired] == [
        (r["prompt"], r["label"]) for r in expected
    ]
    assert found.record["unpaired"] == {
        "source": str(tmp_path / "rated.jsonl"),
        "used": len(expected),
        "good": sum(r["label"] for r in expected),
        "dropped": {
            "duplicate row": 1, "prompt is among those kept for evaluation": 20 - len(expected),
            "reply longer than 30 tokens": 1,
        },
    }  # fmt: skip
    assert found.digest != corpus.digest
    with pytest.raises(InputError, match="there is no file nowhere.jsonl"):
        load(rows, unpaired="nowhere.jsonl")
    for tuned in ("selection", "tuning"):
        more = load(rows, unpaired=str(tmp_path / "rated.jsonl"), splits=Splits(**{tuned: 0.5}))
        kept = {p.prompt.id for p in getattr(more, tuned)}
        assert kept and not kept & {r.prompt.id for r in more.unpaired}
    good = save(tmp_path / "good.jsonl", [r | {"label": True} for r in rated])
    with pytest.raises(InputError, match="are good and 0 are not"):
        load(rows, unpaired=str(good))


def test_more_pairs_stand_behind_the_training_pairs_and_never_on_prompts_of_other_splits(load, tmp_path):
    """On a training prompt, on one of its own, and the training pairs again; others are left out."""
    rows = [row(number) for number in range(24)]
    alone = load(rows)
    of = {part: [pair.prompt.messages[0]["content"] for pair in getattr(alone, part)] for part in PARTS}
    ours, unseen = ({"prompt": of[part][0]} for part in ("training", "heldout"))
    more = [
        {**row(0, "maybe"), **ours},
        row(99),
        {**row(0), **ours},
        {**row(0, "maybe"), **unseen},
        {**row(0, "maybe"), "prompt": of["evaluation"][0]},
        row(98, "y" * 99),
        {"prompt": "no pair"},
    ]
    first = save(tmp_path / "more.jsonl", more)
    second = save(tmp_path / "more2.jsonl", [more[0], row(97)])
    found = load(rows, more_pairs=(str(first), str(second)))
    texts = [(pair.prompt.messages[0]["content"], len(pair.chosen)) for pair in found.training]
    assert texts == [
        *[(text, 4) for text in of["training"]], (ours["prompt"], 6), ("Question 99?", 4), ("Question 97?", 4),
    ]  # fmt: skip
    assert all([*getattr(found, part)] == [*getattr(alone, part)] for part in PARTS if part != "training")
    assert found.digest != alone.digest
    told = found.record["more_pairs"]
    assert told["sources"] == [str(first), str(second)] and told["used"] == 3
    dropped = {"prompt is among those kept for evaluation or tuning": 2, "duplicate row": 2}
    assert {reason: told["dropped"][reason] for reason in dropped} == dropped
    assert sum(told["dropped"].values()) == 6  # one is too long, and one is no pair
    assert load(rows).digest == alone.digest
    with pytest.raises(InputError, match=r"none of these pairs can be added .*\(prompt is among those kept .*: 1\)"):
        load(rows, more_pairs=(str(save(tmp_path / "none.jsonl", [{**row(0, "maybe"), **unseen}])),))


def test_no_pair_fits(load, tmp_path):
    with pytest.raises(InputError, match=r"no pair fits the benchmark's lengths \(20 reply longer than 2 tokens\)"):
        load([row(i) for i in range(20)], max_response_tokens=2)
    assert list((tmp_path / "results/cache/corpus").glob("[!.]*")) == []


def test_memory_does_not_grow_with_the_rows(load, tiny, tmp_path, monkeypatch):
    """Peak of what Python and numpy hold, in making, opening and going over 200 and 1,400 rows of 200 characters.

    A pair has an id and a split key of 8 bytes each. While rows are read comes at most 22 + 22 for the set of ids as it
    grows, afterwards some ten arrays of 8 bytes while they are sorted, then 8 for the order of an epoch: never 100. The
    text alone of a pair has 200, and its token ids, as Python holds them, 8 * 200.
    """
    monkeypatch.setattr("alignment_bench.results.lazy.CHUNK", 100)
    monkeypatch.setattr("alignment_bench.preferences.files.BLOCK", 2**12)  # which 200 rows fill several times

    def peak(count):
        path = save(tmp_path / f"{count}.jsonl", (row(i, "a" * (70 + i % 50), "b" * 100) for i in range(count)))
        gc.collect()
        tracemalloc.start()
        corpus = load(path, max_response_tokens=200)
        opened = load(path, max_response_tokens=200)
        assert opened.record["used"] == count
        rows_digest(LazySequence(len(opened.training), opened.training.__getitem__))
        order = shuffled(len(opened.training), 0)
        assert sum(len(opened.training[next(order)].chosen) for _ in opened.training) > 70 * len(opened.training)
        assert corpus.prompts(corpus.training, 9).prompts[0]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # what is loaded at first use
    few, many = peak(200), peak(1400)
    assert (many - few) / 1200 < 100
    assert pyarrow.total_allocated_bytes() < 2**20  # rows of files are not copied into Arrow's own memory


def test_columns_of_an_empty_file(tmp_path):
    path = tmp_path / "none.arrow"
    with pyarrow.ipc.new_file(str(path), corpus_module.PAIRS):
        pass
    assert len(ArrowFile(path)) == 0 and len(ArrowFile(path).column("id")) == 0


def test_the_tokenizer_is_part_of_the_key(load, tiny, full, tmp_path):
    rows = [row(i) for i in range(20)]
    path = save(tmp_path / "pairs.jsonl", rows)
    spec = BenchmarkSpec(
        name="x", model="m", preferences=str(path), max_prompt_tokens=60, max_response_tokens=30, sft=STAGE,
        reward_model=STAGE, budget=8,
    )  # fmt: skip
    shop = Workshop(Store(tmp_path / "results"), full, {})
    one = load_corpus(spec, tiny, shop).record["stage"]
    assert one != load_corpus(spec, Checkpoint(tiny.path, "other"), shop).record["stage"]
    assert one != load_corpus(spec, tiny, Workshop(shop.store, full, {"tokenizers": "1"})).record["stage"]
