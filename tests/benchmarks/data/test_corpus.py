"""A benchmark's pairs on disk: what is in which split by hand, found again, read as sequences; memory as rows grow."""

import gc
import hashlib
import json
import tracemalloc

import pyarrow
import pytest

from alignment_bench.analysis.data_account import account
from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.data import corpus as corpus_module
from alignment_bench.benchmarks.data.arrow_columns import PAIRS
from alignment_bench.benchmarks.data.arrow_rows import ArrowFile
from alignment_bench.benchmarks.data.corpus import load_corpus, rows_digest
from alignment_bench.benchmarks.definition.spec import BenchmarkSpec, Splits
from alignment_bench.errors import InputError
from alignment_bench.models.chat import encode_prompt, encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.results.integrity import digest
from alignment_bench.results.lazy import LazySequence
from alignment_bench.results.records import LabelledPair, Pair, Prompt
from alignment_bench.results.store import Store
from alignment_bench.training.task import shuffled

from .conftest import PARTS, STAGE, row, save


@pytest.fixture(scope="module")
def templated(make_tiny, tmp_path_factory):
    """templated(template): the checkpoint of a tiny model with that template."""
    return lambda template: Checkpoint(make_tiny(tmp_path_factory.mktemp("m"), template=template), digest(template))


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
    with pytest.raises(
        InputError, match=r"no pair can be used \(20 reply longer than 2 tokens, which max_response_tokens=4 fits\)"
    ):
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
    with pyarrow.ipc.new_file(str(path), PAIRS):
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


LEAVES_OUT = (  # the system message
    "{% for m in messages if m['role'] != 'system' %}{{ '[' ~ m['role'] ~ ']' ~ m['content'] }}{% endfor %}[assistant]"
)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + (
    LEAVES_OUT
)


def told(style, number, **more):
    prompt = [{"role": "system", "content": style}, {"role": "user", "content": f"Question {number}?"}]
    return row(number, **more) | {"prompt": prompt}


def test_prompts_that_are_one_to_the_model_are_one_and_on_one_side(load, templated, tmp_path):
    """Two system messages to each of 20 questions, with opposite labels; the template shows neither."""
    sides = {"French": {"chosen": "oui", "rejected": "yes"}, "English": {"chosen": "yes", "rejected": "oui"}}
    rows = [told(style, i, **sides[style]) for i in range(20) for style in sides]
    base = templated(LEAVES_OUT)
    corpus = load(rows, base=base)
    assert corpus.record["used"] == 40 and corpus.record["same_prompts"] == 20
    seen = {part: {p.prompt.ids for p in getattr(corpus, part)} for part in PARTS}
    assert sum(map(len, seen.values())) == 20 == len(set().union(*seen.values()))
    ids = {part: {p.prompt.id for p in getattr(corpus, part)} for part in PARTS}
    assert {part: len(of) for part, of in ids.items()} == {part: len(of) for part, of in seen.items()}
    texts = [rows[i]["prompt"] for i in range(40)]
    for part in PARTS:  # the id is the least of those of the texts
        for pair in getattr(corpus, part):
            question = pair.prompt.messages[-1]["content"]
            assert pair.prompt.id == min(sha(t)[:16] for t in texts if t[-1]["content"] == question)
    other = load(rows[::-1], base=base)  # the order of rows moves nothing
    assert {part: {p.id for p in getattr(other, part)} for part in PARTS} == {
        part: {p.id for p in getattr(corpus, part)} for part in PARTS
    }
    shown = load(rows)  # by a template that shows them the prompts are two
    assert shown.record["same_prompts"] == 0 and sum(s["prompts"] for s in shown.record["splits"].values()) == 40
    apart = {m.prompt.messages[-1]["content"] for part in ("evaluation", "heldout") for m in getattr(corpus, part)}
    rated = [{"prompt": f"Question {i}?", "completion": "fine", "label": i % 2 == 0} for i in range(20)]
    found = load(rows, base=base, unpaired=str(save(tmp_path / "rated.jsonl", rated)))
    assert {r.prompt.messages[-1]["content"] for r in found.unpaired} == {r["prompt"] for r in rated} - apart


def test_rows_of_the_same_tokens_are_one_row_and_two_people_are_two(load, templated):
    rows = [*(told(style, i) for i in range(20) for style in ("a", "b")), told("c", 0, labeler_id="ann")]
    corpus = load(rows, base=templated(LEAVES_OUT), rows=15)
    assert corpus.record["dropped"] == {"same tokens as another row": 20}
    assert (corpus.record["used"], corpus.record["left_over"]) == (15, 6)
    names = sorted(sha([r["prompt"], "yes", "no", r.get("labeler_id")])[:16] for r in rows)
    kept = sorted(p.id for part in PARTS for p in getattr(corpus, part))
    assert set(kept) < set(names)
    again = load(rows[::-1], base=templated(LEAVES_OUT), rows=15)
    assert sorted(p.id for part in PARTS for p in getattr(again, part)) == kept


def test_what_the_template_refuses_is_dropped_and_everything_adds_up(load, templated):
    rows = (
        [row(i) for i in range(30)] + [told("s", i) for i in range(3)] + [row(99, chosen="y" * 40), row(5), row(6, "")]
    )
    record = load(rows, base=templated(REFUSES), rows=20).record
    assert record["dropped"] == {
        "chosen is empty": 1,
        "duplicate row": 1,
        "the chat template refuses the prompt: System role not supported": 3,
        "reply longer than 30 tokens": 1,
    }
    assert record["read"] == 36 == record["used"] + record["left_over"] + sum(record["dropped"].values())
    assert record["settings"] == {"reply longer than 30 tokens": "max_response_tokens=41"}  # with EOS
    lines = account(record)
    assert lines[0].startswith("20 of 36 rows of ") and lines[0].endswith("are used as pairs, 16 are not:")
    assert lines[1:] == [
        "3 dropped: the chat template refuses the prompt: System role not supported",
        "1 dropped: duplicate row",
        "1 dropped: chosen is empty",
        "1 dropped: reply longer than 30 tokens (max_response_tokens=41 fits all)",
        "10 usable ones left over by rows=20 (rows=null takes them)",
    ]
    assert account({"read": 4, "dropped": {}}) == []  # of a run that was made before


def test_a_cut_reply_has_no_end_and_fits_where_an_ended_one_does_not(load, tiny):
    """30 tokens at most: 30 bytes and no EOS are 30, and with EOS 31."""
    eos = tiny.tokenizer().eos_token_id
    rows = [row(i, chosen="c" * 30, rejected="r" * 29, chosen_cut=True) for i in range(10)]
    rows += [row(i, chosen="c" * 30, rejected="r" * 29) for i in range(10, 20)]
    corpus = load(rows)
    assert corpus.record["dropped"] == {"reply longer than 30 tokens": 10}
    for part in PARTS:
        for pair, said in zip(getattr(corpus, part), corpus.labelled_of(part), strict=True):
            assert len(pair.chosen) == 30 and eos not in pair.chosen
            assert len(pair.rejected) == 30 and pair.rejected[-1] == eos
            assert said.cut == (True, False) and (said.chosen, said.rejected) == ("c" * 30, "r" * 29)


def test_replies_are_written_as_the_model_would_write_them(load, templated):
    """One EOS where the text has it too, and no second opening of the thoughts that the prompt opens."""
    base = templated(LEAVES_OUT + "<think>\n")
    rows = [row(i, chosen="<think>\nhm\n</think>\n\nyes</s>", rejected="no") for i in range(10)]
    corpus = load(rows, base=base)
    tokenizer = base.tokenizer()
    for pair, said in zip(corpus.training, corpus.labelled_of("training"), strict=True):
        assert (said.chosen, said.rejected) == ("hm\n</think>\n\nyes", "\n</think>\n\nno")
        assert tokenizer.decode(list(pair.prompt.ids) + list(pair.chosen)).count("<think>") == 1
        assert pair.chosen.count(tokenizer.eos_token_id) == 1 and pair.chosen[-1] == tokenizer.eos_token_id
        assert pair.rejected == tuple(encode_response(tokenizer, said.rejected))


def test_columns_of_other_names_and_their_place_in_the_key(load):
    rows = [{"q": f"Question {i}?", "good": "yes", "bad": "no"} for i in range(20)]
    named = load(rows, columns={"prompt": "q", "chosen": "good", "rejected": "bad"})
    plain = load([row(i) for i in range(20)])
    assert named.digest == plain.digest
    other = load(rows, columns={"prompt": "q", "chosen": "bad", "rejected": "good"})
    assert other.digest != named.digest
