"""Preference files: every format gives the same rows, folders have splits, what cannot be read is named."""

import csv
import gzip
import json
import random

import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences.files import source_digest
from alignment_bench.preferences.read import from_rows, read_preferences

GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}


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
    said = [("user", "Pens?"), ("assistant", "A joke?"), ("user", "Yes")]
    turns = [{"role": role, "content": text} for role, text in said]
    replies = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    save_parquet(tmp_path / "p.parquet", [{"prompt": turns, **replies}])
    (row,) = read_preferences(str(tmp_path / "p.parquet"))
    assert list(row.prompt) == turns
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
    "unknown format": ("p.docx", "", ["format", ".jsonl"]),
    "workbook": ("p.xlsx", "", ["a workbook", "pip install openpyxl", "read_excel", "give p.jsonl"]),
    "semicolons": ("p.csv", "prompt;chosen;rejected\np;a, b\n", ["line 2", "quote texts that hold ';'"]),
    "other shape": ("p.jsonl", '{"prompt": "p", "completions": []}', ["the shape scored", "bench convert"]),
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
