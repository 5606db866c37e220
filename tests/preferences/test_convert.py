"""Conversion: round trips between all shapes and formats, and a count of everything that does not fit."""

import errno
import json
import tracemalloc
from pathlib import Path

import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences.export import convert
from alignment_bench.preferences.files import open_source
from alignment_bench.preferences.read import read_preferences
from alignment_bench.preferences.shapes import SHAPES

DATA = Path(__file__).parents[3] / "shared" / "data"
MORE = {"labeler_id": "ann", "timestamp": "2026-01-02T03:04:05+00:00", "prompt_source": "web", "margin": 1.5}
TURNS = [
    {"role": "user", "content": 'hi, "you"\nthere'},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "why?"},
]
PAIRS = [
    {"prompt": [{"role": "user", "content": "one, line\nand another"}], "chosen": "yes", "rejected": "no", **MORE},
    {"prompt": [{"role": "user", "content": "zwei ü 中"}], "chosen": "a\r\nb", "rejected": "c"},
    {"prompt": TURNS, "chosen": "because", "rejected": "no idea"},
    {"prompt": TURNS, "chosen": "because", "rejected": "third", "labeler_id": "ben"},
]
TIE = {"prompt": [{"role": "user", "content": "q"}], "chosen": "x", "rejected": "y", "tie": True}
NO_ROOM = "tie: the shape has no room for it, --to ties has"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(source):
    return [row for _, rows in open_source(str(source)) for row in rows]


def text(value):
    return value if isinstance(value, str) else value[-1]["content"]


def facts(source):
    """The contents of a file of pairs, independent of how it is laid out."""
    found = []
    for row in rows_of(source):
        prompt = [{"role": "user", "content": row["prompt"]}] if isinstance(row["prompt"], str) else row["prompt"]
        more = {name: row[name] for name in MORE if row.get(name) not in (None, "")}
        found.append((json.dumps(prompt), text(row["chosen"]), text(row["rejected"]), more))
    return found


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".jsonl.gz", ".csv.gz", ""])
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "scored"])
def test_round_trips_keep_every_fact(tmp_path, shape, suffix):
    """pairs -> shape in a format -> pairs; multi-turn prompts and ties where the shape has room for them.

    Pairs have none: whoever reads `chosen` and `rejected` would take a tie for a preference.
    """
    with_ties = shape in ("ties", "alpacaeval")
    single = shape == "alpacaeval"
    rows = [r for r in PAIRS if not (single and len(r["prompt"]) > 1)] + [TIE] * with_ties
    source = write(tmp_path / "in.jsonl", rows)
    middle, back = str(tmp_path / f"middle{suffix}"), tmp_path / "back.jsonl"
    if suffix.startswith(".csv") and shape in ("pairs", "implicit", "unpaired"):
        with pytest.raises(InputError, match=f"a CSV holds texts, but .* of the shape {shape} are lists"):
            convert(source, middle, shape)
        return
    there = convert(source, middle, shape)
    again = convert(middle, str(back))
    assert there.dropped == {} and again.dropped == ({NO_ROOM: 1} if with_ties else {})
    assert (there.read, there.written) == (len(rows), len(rows) * (2 if shape == "unpaired" else 1))
    assert facts(back) == facts(source)[: again.written]
    if with_ties:
        convert(middle, str(tmp_path / "kept.jsonl"), "ties")
        assert [row["label"] for row in rows_of(tmp_path / "kept.jsonl")] == ["a"] * again.written + ["tie"]


def test_what_a_shape_has_no_room_for_is_counted(tmp_path):
    system = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "q"}]
    forged = [{"role": "user", "content": "q"}]
    rows = [*PAIRS, TIE, {"prompt": system, "chosen": "x", "rejected": "y"}]
    rows += [
        {"prompt": forged, "chosen": "x\n\nHuman: z", "rejected": "y"},
        {"prompt": "", "chosen": "x", "rejected": "y"},
    ]
    source = write(tmp_path / "in.jsonl", rows)
    done = convert(source, str(tmp_path / "hh.jsonl"), "hh")
    assert (done.read, done.comparisons, done.written) == (8, 7, 4)
    assert done.dropped == {
        NO_ROOM: 1,
        "a system message does not fit a transcript": 1,
        "a text holds the marker of a turn, Human: or Assistant:": 1,
        "prompt is empty": 1,
    }
    there = read_preferences(str(tmp_path / "hh.jsonl"))
    assert len(list(there)) == 4 and there.dropped == {}
    done = convert(source, str(tmp_path / "alpaca.jsonl"), "alpacaeval")
    assert done.dropped["a conversation of several turns is not an instruction"] == 3
    assert done.written + sum(done.dropped.values()) == done.read


SCORED = [
    {"instruction": "q1", "completions": [
        {"model": "m1", "response": "low", "overall_score": 2.0},
        {"model": "m2", "response": "high", "overall_score": 8.5},
        {"model": "m3", "response": "also low", "overall_score": 2.0},
    ]},
    {"instruction": "q2", "completions": [
        {"response": "x", "overall_score": 1}, {"response": "y", "overall_score": 3},
    ]},
    {"instruction": "q3", "completions": [{"response": "alone", "overall_score": 1}]},
    {"instruction": "q4", "completions": [
        {"response": "a", "overall_score": None}, {"response": "b", "overall_score": 1},
    ]},
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".json"])
def test_scored_lists_become_pairs_with_a_margin_and_back(tmp_path, suffix):
    """Three responses are three comparisons: 8.5 over 2 twice (margin 6.5) and one tie of the two 2s, no pair."""
    there = convert(write(tmp_path / "in.jsonl", SCORED), str(tmp_path / f"pairs{suffix}"))
    assert (there.read, there.comparisons, there.written) == (4, 4, 3)
    assert there.dropped == {"fewer than two completions": 1, "a completion has no score": 1, NO_ROOM: 1}
    pairs = rows_of(tmp_path / f"pairs{suffix}")
    told = {(text(r["chosen"]), text(r["rejected"]), r["margin"], r["model_version"] if i < 2 else None)
            for i, r in enumerate(pairs)}  # fmt: skip
    assert told == {
        ("high", "low", 6.5, "m2 | m1"),
        ("high", "also low", 6.5, "m2 | m3"),
        ("y", "x", 2.0, None),
    }
    back = convert(str(tmp_path / f"pairs{suffix}"), str(tmp_path / "back.jsonl"), "scored")
    assert back.dropped == {} and back.written == 2
    for old, new in zip(SCORED, rows_of(tmp_path / "back.jsonl"), strict=False):
        assert new["prompt"][0]["content"] == old["instruction"]
        given = {(c["response"], c["overall_score"], c.get("model")) for c in old["completions"]}
        assert {(c["response"], c["overall_score"], c["model"]) for c in new["completions"]} == given
    plain = convert(write(tmp_path / "p.jsonl", [*PAIRS, *pairs]), str(tmp_path / "s.jsonl"), "scored")
    assert plain.dropped == {"no scores to write": 4}


def test_alpacaeval_preferences(tmp_path):
    """1 and 2 name the output, 1.5 and 0 are ties, weights between keep their strength as a margin."""
    rows = [
        {"instruction": "q", "output_1": "x", "output_2": "y", "generator_1": "g", "generator_2": "h",
         "annotator": "gpt4", "preference": p} for p in (1, 2, 2.0, 1.5, 0, 1.9, 1.05, None, 3)
    ]  # fmt: skip
    done = convert(write(tmp_path / "in.jsonl", rows), str(tmp_path / "out.jsonl"), "ties")
    assert done.dropped == {"preference is not a number": 1, "preference is not from 1 to 2 (0 and 1.5 are ties)": 1}
    found = rows_of(tmp_path / "out.jsonl")
    assert [text(r["response_a"]) for r in found] == ["x", "y", "y", "x", "x", "y", "x"]
    assert [r["label"] for r in found] == ["a", "a", "a", "tie", "tie", "a", "a"]
    assert [r.get("margin") for r in found] == [None] * 5 + [pytest.approx(0.8), pytest.approx(0.9)]
    assert found[1]["model_version"] == "h | g" and found[0]["labeler_id"] == "gpt4"


def test_unpaired_rows_meet_in_order_and_leftovers_are_counted(tmp_path):
    rows = [("p", "g1", True), ("q", "b9", False), ("p", "g2", True), ("p", "b1", False), ("q", "b8", "false"),
            ("p", "b2", False), ("p", "g3", True), ("q", "g9", "True"), ("p", "x", None)]  # fmt: skip
    rows = [{"prompt": p, "completion": c, "label": label} for p, c, label in rows]
    done = convert(write(tmp_path / "in.jsonl", rows), str(tmp_path / "out.jsonl"))
    found = {(text(r["chosen"]), text(r["rejected"])) for r in rows_of(tmp_path / "out.jsonl")}
    assert found == {("g1", "b1"), ("g2", "b2"), ("g9", "b9")}
    assert done.dropped == {
        "label is neither true nor false": 1,
        "good completion without a bad one": 1,
        "bad completion without a good one": 1,
    }
    assert done.read == 9 and 2 * done.written + sum(done.dropped.values()) == 9


def test_labels_of_a_collection_convert_and_skips_are_counted(tmp_path):
    (tmp_path / "items.jsonl").write_text("")
    (tmp_path / "labels").mkdir()
    base = {"prompt": PAIRS[0]["prompt"], "chosen": "x", "rejected": "y", "labeler_id": "ann", "shown": "ba"}
    rows = [
        {**base, "tie": False, "answer": "b", "strength": 3, "item": "i1"},
        {**base, "tie": True, "answer": "both_bad", "strength": None},
        {**base, "tie": False, "answer": "skip"},
    ]
    write(tmp_path / "labels" / "ann.jsonl", rows)
    done = convert(str(tmp_path / "labels"), str(tmp_path / "out.parquet"), "ties")
    assert done.dropped == {"skipped by the labeller": 1}
    found = rows_of(tmp_path / "out.parquet")
    assert [(r["answer"], r["label"], r["strength"], r["shown"]) for r in found] == [
        ("b", "a", 3.0, "ba"),
        ("both_bad", "tie", None, "ba"),
    ]


def test_bad_input_is_told_and_leaves_the_target_alone(tmp_path):
    mixed = write(tmp_path / "mixed.jsonl", [PAIRS[0], SCORED[0]])
    (tmp_path / "old.jsonl").write_text("old")
    with pytest.raises(InputError, match="mixed.jsonl, row 2: its fields are those of scored, but the rows before"):
        convert(mixed, str(tmp_path / "old.jsonl"))
    assert (tmp_path / "old.jsonl").read_text() == "old"
    cut = tmp_path / "cut.jsonl"
    cut.write_text(json.dumps(PAIRS[0]) + "\n" + json.dumps(PAIRS[1])[:30])
    with pytest.raises(InputError, match="cut.jsonl, line 2: not valid JSON"):
        convert(str(cut), str(tmp_path / "old.jsonl"))
    assert (tmp_path / "old.jsonl").read_text() == "old"
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]
    good = write(tmp_path / "good.jsonl", PAIRS)
    for out, said in [
        (str(tmp_path / "x.txt"), "the name does not show the format"),
        (good, "is the source itself"),
        (str(tmp_path), "is a folder that is not empty"),
        ("hub:", "names no data set"),
    ]:
        with pytest.raises(InputError, match=said):
            convert(good, out)
    with pytest.raises(InputError, match="--to pair is not a shape of rows; did you mean 'pairs'"):
        convert(good, str(tmp_path / "y.jsonl"), "pair")
    with pytest.raises(InputError, match="no known shape has the fields text"):
        convert(write(tmp_path / "t.jsonl", [{"text": "x"}]), str(tmp_path / "y.jsonl"))
    with pytest.raises(InputError, match="none of its 1 rows fits the shape hh \\(tie"):
        convert(write(tmp_path / "tie.jsonl", [TIE]), str(tmp_path / "y.jsonl"), "hh")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    from alignment_bench.preferences import export

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    source = write(tmp_path / "in.jsonl", PAIRS)
    (tmp_path / "out.jsonl").write_text("old")
    monkeypatch.setattr(export.os, "fsync", full)
    with pytest.raises(InputError, match="out.jsonl cannot be written \\(No space left on device\\)"):
        convert(source, str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_push_gives_the_hub_the_rows_and_pull_reads_them(tmp_path, monkeypatch):
    """Without a network: what would be pushed is saved instead, and read back as `load_dataset` would give it."""
    import datasets
    import huggingface_hub

    given = {}

    def push(self, name, **settings):
        given.update(name=name, **settings)
        self.save_to_disk(str(tmp_path / "hub"))

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", push)
    source = write(tmp_path / "in.jsonl", PAIRS)
    assert convert(source, "hub:me/pairs", split="test").written == 4
    assert given == {"name": "me/pairs", "split": "test", "private": True}
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.load_from_disk(str(tmp_path / "hub")))
    convert("me/pairs", str(tmp_path / "back.jsonl"), split="test")
    assert facts(tmp_path / "back.jsonl") == facts(source)

    def refused(self, name, **settings):
        raise OSError("401 Unauthorized.")

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", refused)
    with pytest.raises(InputError, match="the hub did not take me/pairs \\(401 Unauthorized\\); log in"):
        convert(source, "hub:me/pairs")


@pytest.mark.parametrize("names", [("in.jsonl", "out.jsonl"), ("in.csv", "out.jsonl"), ("in.jsonl", "out.csv")])
def test_memory_stays_flat(tmp_path, names):
    """500 rows of 20 kB are 10 MB, the peak stays under 2 MB."""
    row = {"chosen": "x" * 10000, "rejected": "y" * 10000}
    plain = tmp_path / "plain.jsonl"
    with open(plain, "w") as stream:
        for i in range(500):
            stream.write(json.dumps({"prompt": f"p{i}", **row}) + "\n")
    source = tmp_path / names[0]
    if source.suffix == ".csv":
        convert(str(plain), str(source))
    else:
        plain.rename(source)
    convert(str(source), str(tmp_path / "warm.jsonl"), "text")  # imports are not what is measured
    tracemalloc.start()
    assert convert(str(source), str(tmp_path / names[1]), "text").written == 500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


@pytest.mark.parametrize(
    "name, comparisons", [("pandalm_3annotators.jsonl.gz", 1500), ("hh_harmless_raw_sample.jsonl", 169)]
)  # fmt: skip
def test_real_files_convert_whole(tmp_path, name, comparisons):
    """Three people's labels a row of PandaLM, 172 of the 1,500 a tie, 169 of them of rows that can be used."""
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there; the shared data is not part of the project")
    done = convert(str(DATA / name), str(tmp_path / "out.parquet"))
    ties = done.dropped.pop(NO_ROOM, 0)
    assert ties == (169 if "pandalm" in name else 0)
    assert done.written + ties + sum(done.dropped.values()) * (3 if "pandalm" in name else 1) == comparisons
    assert done.written > 0.8 * comparisons
