"""Preference data: every row format gives the same row, bad rows are counted, bad files are named, splits hold."""

import csv
import gzip
import json
import random
from pathlib import Path

import pytest

from alignment_bench.preferences.files import source_digest
from alignment_bench.preferences.read import HashSet, from_rows, read_preferences, split_by_prompt
from alignment_bench.results.records import InputError

REAL = Path(__file__).parents[3] / "shared" / "data"
SHARES = {"sft": 0.25, "training": 0.4, "evaluation": 0.2, "heldout": 0.15}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def error_of(source, **options):
    with pytest.raises(InputError) as caught:
        list(read_preferences(source, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# One conversation of three turns in every format; all must give the very same row.
TURNS = [user("Pens?"), assistant("A joke?"), user("Yes")]
TALK = "\n\nHuman: Pens?\n\nAssistant: A joke?\n\nHuman: Yes\n\nAssistant:"
CONVERSATIONS = {
    "conversational": {"prompt": TURNS, "chosen": [assistant("No.")], "rejected": [assistant("Draw.")]},
    "plain replies": {"prompt": TURNS, "chosen": "No.", "rejected": "Draw."},
    "implicit": {"chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "null prompt": {"prompt": None, "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "prompt twice": {"prompt": TURNS, "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "prompt in one side": {"prompt": "Yes", "chosen": "No.", "rejected": [*TURNS, assistant("Draw.")]},
    "first turn": {"prompt": "Pens?", "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "last turn": {"prompt": "Yes", "chosen": [*TURNS, assistant("No.")], "rejected": [*TURNS, assistant("Draw.")]},
    "transcripts": {"chosen": f"{TALK} No.", "rejected": f"{TALK} Draw."},
    "transcript as prompt": {"prompt": TALK, "chosen": " No.", "rejected": " Draw.\n"},
    "more keys": {"prompt": [m | {"name": None} for m in TURNS], "chosen": "No.", "rejected": "Draw.", "score": 3},
}


@pytest.mark.parametrize("raw", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_every_format_gives_the_same_row(raw):
    (row,) = from_rows([raw], "memory")
    assert (list(row.prompt), row.chosen, row.rejected) == (TURNS, "No.", "Draw.")
    (first,) = from_rows([CONVERSATIONS["conversational"]], "elsewhere")
    assert row.id == first.id


def test_text_prompt_is_one_user_message_and_labels_are_kept():
    raw = GOOD | {"subset": "honest", "labeler_id": 7, "model": "ignored"}
    (row,) = from_rows([raw], "memory")
    assert row.prompt == (user("Hi"),)
    assert (row.subset, row.labeler_id) == ("honest", "7")
    (bare,) = from_rows([GOOD | {"subset": None, "labeler_id": float("nan")}], "memory")
    assert (bare.subset, bare.labeler_id) == (None, None)


def test_system_message_stays_in_the_prompt():
    context = [SYSTEM, user("Hi")]
    raw = {"prompt": "Hi", "chosen": [*context, assistant("Hello!")], "rejected": [*context, assistant("No.")]}
    (row,) = from_rows([raw], "memory")
    assert list(row.prompt) == context


def test_a_reply_that_begins_with_the_prompt_is_left_whole():
    (row,) = from_rows([{"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi"}], "memory")
    assert (row.chosen, row.rejected) == ("Hi there", "Hi")


BAD = [
    ({"prompt": "p", "rejected": "b"}, "chosen is missing"),
    ({"prompt": "p", "chosen": "a", "rejected": None}, "rejected is missing"),
    ({"prompt": "p", "chosen": "", "rejected": "b"}, "chosen is empty"),
    ({"prompt": "p", "chosen": [], "rejected": "b"}, "chosen is empty"),
    ({"prompt": "p", "chosen": "a", "rejected": [assistant("")]}, "rejected is empty"),
    ({"prompt": "p", "chosen": [assistant(None)], "rejected": "b"}, "chosen is empty"),
    ({"chosen": f"{TALK}", "rejected": f"{TALK} Draw."}, "chosen is empty"),
    ({"prompt": "p", "chosen": "a", "rejected": "a "}, "chosen equals rejected"),
    ({"prompt": "p", "chosen": 3, "rejected": "b"}, "chosen is neither text nor messages"),
    ({"prompt": "p", "chosen": ["a"], "rejected": "b"}, "chosen is neither text nor messages"),
    ({"prompt": [user(["image"])], "chosen": "a", "rejected": "b"}, "prompt is neither text nor messages"),
    ({"prompt": [{"role": "gpt", "content": "p"}], "chosen": "a", "rejected": "b"}, "prompt has a role other than"),
    ({"prompt": [{"content": "p"}], "chosen": "a", "rejected": "b"}, "prompt has a role other than"),
    ({"prompt": "p", "chosen": "\ud83d", "rejected": "b"}, "chosen is not valid Unicode"),
    ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
    ({"prompt": [SYSTEM, user("")], "chosen": "a", "rejected": "b"}, "prompt is empty"),
    ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "prompt is missing"),
    ({"prompt": [SYSTEM], "chosen": "a", "rejected": "b"}, "prompt has no user message"),
    ({"prompt": TURNS[:2], "chosen": "a", "rejected": "b"}, "prompt does not end with the user's turn"),
    ({"prompt": "p", "chosen": [user("a")], "rejected": "b"}, "chosen does not end with the assistant's turn"),
    ({"prompt": "p", "chosen": [assistant("a"), assistant("c")], "rejected": "b"}, "chosen is not one reply"),
    ({"prompt": "p", "chosen": [user("q"), assistant("a")], "rejected": "b"}, "chosen is not one reply"),
    ({"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]}, "do not share a prompt"),
    ({"chosen": f"{TALK} No.", "rejected": "\n\nHuman: Other\n\nAssistant: Draw."}, "do not share a prompt"),
    ({"chosen": f"{TALK} No.", "rejected": "Draw."}, "do not share a prompt"),
    ({"prompt": "Yes", "chosen": f"{TALK} No.", "rejected": [user("Yes"), assistant("b")]}, "do not share a prompt"),
    (GOOD, "duplicate row"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD)
def test_a_bad_row_is_dropped_and_counted(raw, reason):
    preferences = from_rows([GOOD, raw], "memory")
    assert [row.chosen for row in preferences] == ["Hello!"]
    assert preferences.read == 2
    ((counted, count),) = preferences.dropped.items()
    assert reason in counted and count == 1


def test_bad_rows_are_counted_together_and_most_frequent_first():
    preferences = from_rows([GOOD, GOOD, GOOD | {"chosen": ""}, GOOD | {"chosen": " "}], "memory")
    assert len(list(preferences)) == 1
    assert list(preferences.dropped.items()) == [("chosen is empty", 2), ("duplicate row", 1)]


def test_two_labelers_of_the_same_pair_are_two_rows():
    preferences = from_rows([GOOD | {"labeler_id": name} for name in ("ann", "bob", "ann")], "memory")
    rows = list(preferences)
    assert [row.labeler_id for row in rows] == ["ann", "bob"]
    assert len({row.id for row in rows}) == 2
    assert preferences.dropped == {"duplicate row": 1}


def test_a_set_of_hashes_is_a_set():
    """As Python's, through several times it grows: repeats, 0, and keys that want the same place."""
    rng = random.Random(0)
    keys = [rng.getrandbits(64) for _ in range(5000)] + [0, 0, 5, 5 + 2**20, 5 + 2**40, 5]
    keys += rng.sample(keys, 3000)
    ours, theirs = HashSet(), set()
    for key in keys:
        assert ours.add(key) == (key not in theirs)
        theirs.add(key)
    assert ours.count == len(theirs) == 5004
    assert 11 * ours.count > 8 * len(ours.places) / 2  # never more than 22 bytes a key, once it has grown


ROWS = [GOOD | {"prompt": f"Question {i}\u2028, \"quoted\",\nand 'more'", "subset": "a"} for i in range(3)]


def save_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def save_parquet(path, rows):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


SAVERS = {
    "p.jsonl": lambda path, rows: path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8"),
    "lines.json": lambda path, rows: path.write_text(lines(rows) + "\n\n", "utf-8"),
    "list.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1), "utf-8-sig"),
    "p.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(lines(rows).encode())),
    "p.csv": save_csv,
    "P.PARQUET": save_parquet,
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_file_format_gives_the_same_rows(tmp_path, name):
    SAVERS[name](tmp_path / name, ROWS)
    preferences = read_preferences(str(tmp_path / name))
    assert list(preferences) == list(from_rows(ROWS, "memory"))
    assert (preferences.source, preferences.read, preferences.dropped) == (str(tmp_path / name), 3, {})


def test_messages_in_parquet_and_long_cells_in_csv(tmp_path):
    save_parquet(tmp_path / "p.parquet", [CONVERSATIONS["conversational"]])
    (row,) = read_preferences(str(tmp_path / "p.parquet"))
    assert list(row.prompt) == TURNS
    save_csv(tmp_path / "p.csv", [GOOD | {"prompt": "x" * 200_000}])
    (row,) = read_preferences(str(tmp_path / "p.csv"))
    assert len(row.prompt[0]["content"]) == 200_000


def test_folder_is_read_by_split(tmp_path):
    for name, row in zip(["harmless/train.jsonl", "helpful/train.jsonl", "helpful/test.jsonl"], ROWS, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, lines([row]))
    write(tmp_path / "README.md", "not data")
    write(tmp_path / ".hidden.jsonl", "not data")
    ids = [row.id for row in from_rows(ROWS, "memory")]
    assert [row.id for row in read_preferences(str(tmp_path))] == ids[:2]
    assert [row.id for row in read_preferences(str(tmp_path), "test")] == ids[2:]
    message = error_of(str(tmp_path), split="tset")
    assert "'tset'" in message and "did you mean 'test'" in message


def test_folder_without_splits_is_read_whole(tmp_path):
    write(tmp_path / "a.jsonl", lines(ROWS[:1]))
    save_csv(tmp_path / "b.csv", ROWS[1:])
    assert tuple(read_preferences(str(tmp_path))) == tuple(from_rows(ROWS, "memory"))


def test_folder_saved_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(str(tmp_path / "dict"))
    assert tuple(read_preferences(str(tmp_path / "one"))) == tuple(from_rows(ROWS, "memory"))
    assert len(tuple(read_preferences(str(tmp_path / "dict"), "test"))) == 1
    assert "did you mean 'train'" in error_of(str(tmp_path / "dict"), split="trian")
    (tmp_path / "one" / "state.json").write_text("{")
    assert "cannot be read as a saved data set" in error_of(str(tmp_path / "one"))


CUT = lines([GOOD])[:-8]
MALFORMED = {
    "broken line": ("p.jsonl", lines([GOOD]) + "{oops}\n" + lines([GOOD]), ["line 2", "not valid JSON"]),
    "cut lines": ("p.jsonl", lines([GOOD, GOOD]) + CUT, ["line 3", "not valid JSON", "cut short"]),
    "cut list": ("p.json", json.dumps([GOOD, GOOD], indent=1)[:-12], ["line 10", "not valid JSON", "cut short"]),
    "not objects": ("p.jsonl", '"text"\n', ["line 1", "not an object"]),
    "list of texts": ("p.json", json.dumps([GOOD, "text"]), ["item 2", "not an object"]),
    "absurd nesting": ("p.jsonl", "[" * 200_000, ["line 1", "not valid JSON"]),
    "short row": ("p.csv", "prompt,chosen,rejected\np,a,b\np,a\n", ["line 3", "not as many fields"]),
    "long row": ("p.csv", "prompt,chosen,rejected\np,a,b,c\n", ["line 2", "not as many fields"]),
    "cut quote": ("p.csv", 'prompt,chosen,rejected\np,a,"b', ["line 2", "not valid CSV"]),
    "messages": ("p.csv", "prompt,chosen\n[{'role': 'user'}],a\n", ["line 2, field prompt", "save JSON Lines"]),
    "not parquet": ("p.parquet", "PAR1 but no more", ["not a readable Parquet file"]),
    "not gzip": ("p.jsonl.gz", lines([GOOD]), ["cannot be read"]),
    "misnamed field": ("p.jsonl", '{"choosen": "a", "rejected": "b"}', ["'chosen'", "did you mean 'choosen'"]),
    "misnamed header": ("p.csv", "prompt,chosen,reject\np,a,b\n", ["'rejected'", "did you mean 'reject'"]),
    "misnamed prompt": ("p.csv", "promt,chosen,rejected\np,a,b\n", ["prompt is missing: 1", "did you mean 'promt'"]),
    "empty": ("p.jsonl", "", ["no rows"]),
    "blank": ("p.jsonl", "\n \n", ["no rows"]),
    "empty list": ("p.json", "[]", ["no rows"]),
    "header only": ("p.csv", "prompt,chosen,rejected\n", ["no rows"]),
    "no usable row": ("p.jsonl", lines([GOOD | {"chosen": ""}] * 2), ["none of its 2 rows", "chosen is empty: 2"]),
    "unknown format": ("p.xlsx", "", ["format", ".jsonl"]),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named_with_place_and_remedy(tmp_path, case):
    name, text, parts = MALFORMED[case]
    message = error_of(write(tmp_path / name, text))
    for part in [str(tmp_path / name), *parts]:
        assert part in message


def test_damaged_bytes_are_named(tmp_path):
    words = random.Random(0)
    rows = (json.dumps({"prompt": "p", "chosen": words.random(), "rejected": "r"}) + "\n" for _ in range(200))
    whole = gzip.compress("".join(rows).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:2000])
    assert "cut.jsonl.gz cannot be read" in error_of(str(tmp_path / "cut.jsonl.gz"))
    (tmp_path / "latin.jsonl").write_bytes(lines([GOOD]).encode() + '{"prompt": "é"}'.encode("latin-1"))
    assert "latin.jsonl, line 2: not UTF-8" in error_of(str(tmp_path / "latin.jsonl"))


def test_missing_sources(tmp_path):
    for source in (str(tmp_path / "none.jsonl"), "none.jsonl", "some/where/else/data"):
        assert f"there is no preference file or folder {source}" in error_of(source)
    assert "holds no preference files" in error_of(str(tmp_path))
    assert "no preferences are named" in error_of("")


def test_unreachable_hub_is_asked_once_and_then_only_the_cache(monkeypatch, tmp_path):
    import datasets
    import huggingface_hub

    asked = []

    def unreachable(self, name, timeout):
        asked.append((name, timeout))
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    message = error_of("nobody/nothing")
    assert "'nobody/nothing' is not a local path" in message and "only the cache was tried" in message
    assert asked == [("nobody/nothing", 10.0)]
    assert datasets.config.HF_HUB_OFFLINE is False

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "only the cache" in error_of("nobody/nothing")
    assert len(asked) == 1  # the user's wish to stay offline is respected


def test_unknown_hub_id(monkeypatch):
    import datasets
    import httpx
    import huggingface_hub

    def unknown(self, name, timeout):
        response = httpx.Response(404, request=httpx.Request("GET", "https://x"))
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unknown)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    assert "neither a local path nor a data set on the hub" in error_of("nobody/nothing")


def test_hub_rows_and_split_are_used(monkeypatch):
    import datasets
    import huggingface_hub

    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: {"some/data": splits}[name][split])
    assert tuple(read_preferences("some/data")) == tuple(from_rows(ROWS, "memory"))
    assert len(list(read_preferences("some/data", "test"))) == 1
    assert source_digest("some/data") == source_digest("some/data") != source_digest("some/data", "test")


def test_a_source_is_known_by_its_content(tmp_path):
    """Whatever the folder; another split, another byte or another file beside it is another source."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        write(folder / "train.jsonl", lines(ROWS))
    assert source_digest(str(one)) == source_digest(str(two)) != source_digest(str(one), "test")
    assert source_digest(str(one / "train.jsonl")) == source_digest(str(two / "train.jsonl"))
    write(two / "train.jsonl", lines(ROWS[:2]))
    assert source_digest(str(one)) != source_digest(str(two))
    assert source_digest(str(one / "train.jsonl")) != source_digest(str(two / "train.jsonl"))
    write(two / "train.jsonl", lines(ROWS))
    write(two / "test.jsonl", lines(ROWS))
    assert source_digest(str(one)) != source_digest(str(two))
    with pytest.raises(InputError, match="there is no preference file or folder"):
        source_digest(str(tmp_path / "none.jsonl"))


def many(prompts, each):
    """Rows of several prompts, prompt after prompt, with one reply or more each."""
    rows = [{"prompt": f"p{i}", "chosen": f"a{j}", "rejected": "b"} for j in range(each) for i in range(prompts)]
    return tuple(from_rows(rows, "memory"))


def prompts_of(rows):
    return {row.prompt[0]["content"] for row in rows}


def test_split_sizes_are_shares_of_prompts():
    # 103 prompts: 25.75, 41.2, 20.6, 15.45. Floors leave 2 over; the largest remainders are sft's and evaluation's.
    parts = split_by_prompt(many(103, 3), SHARES, seed=0)
    assert list(parts) == ["sft", "training", "evaluation", "heldout"]
    assert [len(prompts_of(rows)) for rows in parts.values()] == [26, 41, 21, 15]
    assert [len(rows) for rows in parts.values()] == [78, 123, 63, 45]
    # Shares need not sum to 1.
    assert split_by_prompt(many(103, 3), {name: 20 * share for name, share in SHARES.items()}, seed=0) == parts


def test_split_depends_on_seed_and_not_on_the_order_of_rows():
    rows = many(40, 2)
    parts = split_by_prompt(rows, SHARES, seed=0)
    shuffled = random.Random(1).sample(rows, len(rows))
    again = split_by_prompt(shuffled, SHARES, seed=0)
    for name, part in parts.items():
        assert prompts_of(again[name]) == prompts_of(part)
        assert part == [row for row in rows if row in part]  # the input's order is kept
        assert again[name] == [row for row in shuffled if row in part]
    other = split_by_prompt(rows, SHARES, seed=1)
    assert any(prompts_of(other[name]) != prompts_of(parts[name]) for name in SHARES)


def test_split_tells_conversations_apart_by_all_their_messages():
    chats = [[user("x"), assistant(f"{i}"), user("same")] for i in range(10)]
    rows = tuple(from_rows([{"prompt": chat, "chosen": "a", "rejected": "b"} for chat in chats], "memory"))
    parts = split_by_prompt(rows, {"one": 0.5, "two": 0.5}, seed=0)
    assert [len(part) for part in parts.values()] == [5, 5]


def test_too_few_prompts_to_split(tmp_path):
    source = write(tmp_path / "one.jsonl", lines([GOOD]))
    preferences = read_preferences(source)
    rows = list(preferences)
    assert len(rows) == 1
    # The smallest share is 15%: 7 prompts give it at least one for certain (7 * 0.15 > 1 > 6 * 0.15).
    with pytest.raises(InputError, match=r"needs at least 7 prompts, .*one\.jsonl has 1"):
        split_by_prompt(rows, SHARES, seed=0, source=preferences.source)
    with pytest.raises(InputError, match="needs at least 7 prompts, the preferences has 1"):
        split_by_prompt(many(1, 50), SHARES, seed=0)
    assert all(split_by_prompt(many(7, 1), SHARES, seed=0).values())


def real(name):
    if not (REAL / name).is_file():
        pytest.skip(f"shared/data/{name} does not lie beside the project")
    preferences = read_preferences(str(REAL / name))
    return preferences, list(preferences)


def test_real_chats():
    preferences, rows = real("hh_harmless.jsonl.gz")
    assert (preferences.read, len(rows), preferences.dropped) == (1861, 1861, {})
    assert all(row.prompt[-1]["role"] == "user" and row.prompt[-1]["content"] for row in rows)


def test_real_transcripts_are_rows_of_the_real_chats():
    preferences, rows = real("hh_harmless_raw_sample.jsonl")
    # One transcript ends in "Assistant:" with nothing after it.
    assert (preferences.read, len(rows), preferences.dropped) == (169, 168, {"chosen is empty": 1})
    chats = {row.id: row for row in real("hh_harmless.jsonl.gz")[1]}
    assert all(chats[row.id] == row for row in rows)


def test_real_pairs_with_many_replies_to_a_prompt():
    preferences, rows = real("alpacaeval_gpt4.jsonl.gz")
    assert (preferences.read, len(rows), preferences.dropped) == (9061, 9061, {})
    parts = split_by_prompt(rows, SHARES, seed=0)
    # 442 prompts: 110.5, 176.8, 88.4, 66.3. Floors leave 2 over: training's and sft's.
    assert [len(prompts_of(rows)) for rows in parts.values()] == [111, 177, 88, 66]
    # The counts sum to 442, so if the union has 442 prompts as well, no prompt is on two sides.
    assert len(set().union(*(prompts_of(rows) for rows in parts.values()))) == 442
    assert sum(len(rows) for rows in parts.values()) == 9061


def test_labels_without_a_preference_are_dropped_and_counted(tmp_path):
    """The labels of a collection: what every labeller wrote, whatever the names; ties and skips by reason."""
    (tmp_path / "items.jsonl").write_text("")
    (tmp_path / "labels").mkdir()
    base = {"prompt": [{"role": "user", "content": "p"}], "chosen": "a", "rejected": "b", "tie": False}
    rows = [
        {**base, "answer": "a"},
        {**base, "answer": "tie", "tie": True, "chosen": "c"},
        {**base, "answer": "both_bad", "tie": True, "chosen": "d"},
        {**base, "answer": "skip", "chosen": "e"},
    ]
    for name in ("ann", "test"):  # a labeller's name that is also the name of a split
        lines = [json.dumps({**row, "labeler_id": name}) for row in rows]
        (tmp_path / "labels" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for source in (tmp_path / "labels", tmp_path):
        found = read_preferences(str(source))
        assert [row.labeler_id for row in found] == ["ann", "test"]
        assert found.dropped == {"tie": 2, "both bad by the labeller": 2, "skipped by the labeller": 2}


def test_ties_in_a_csv_are_dropped(tmp_path):
    (tmp_path / "x.csv").write_text("prompt,chosen,rejected,tie\np,a,b,False\np,a,c,True\n")
    found = read_preferences(str(tmp_path / "x.csv"))
    assert len(list(found)) == 1 and found.dropped == {"tie": 1}
