"""Files made to fill the memory, and long ones that are not: read in pieces, and what no row can be is told."""

import gzip
import json
import random
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences import files, json_array
from alignment_bench.preferences.files import read_file
from alignment_bench.preferences.json_array import read_array

MIB = 2**20
ROWS = [{"prompt": f"p{n} é日本\u2028", "chosen": "a" * (n % 7), "rejected": ["[", "]}", '"\\']} for n in range(40)]


def error_of(path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_file(path))
    return str(caught.value)


def peak_of(work) -> float:
    """Largest memory that Python held meanwhile, in MiB."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MIB


def packed(path, *parts):
    """A gzip file of (bytes, how often)."""
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for part, times in parts:
            for _ in range(times):
                stream.write(part)
    return path


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.gz", "bomb.csv.gz"])
def test_a_line_that_is_none_is_told_with_its_number(tmp_path, name):
    """200 MiB in one line: reading ends at the limit of 32 MiB."""
    head = b"prompt,chosen\n" if "csv" in name else b'{"prompt": "p"}\n'
    path = packed(tmp_path / name, (head, 1), (b"a" * MIB, 200))
    said = []
    assert peak_of(lambda: said.append(error_of(path))) < 120
    assert said == [f"{path}, line 2: longer than 32 MiB, which no row of texts is; is it damaged? Delete it"]


@pytest.mark.parametrize("part", [b"a", b" ", b'[1,"'])
def test_an_item_that_is_none_is_told_with_its_line(tmp_path, part):
    path = packed(tmp_path / "bomb.json.gz", (b'[{"a": 1},\n\n', 1), (b'{"prompt": "' if part == b"a" else b"", 1),
                  (part * (MIB // len(part)), 200))  # fmt: skip
    said = []
    assert peak_of(lambda: said.append(error_of(path))) < 300
    if part == b" ":  # white space is passed over, and takes no memory
        assert "line 3: not valid JSON (Expecting value)" in said[0]
    elif part == b"a":
        assert said == [f"{path}, line 3: longer than 32 MiB, which no row of texts is; is it damaged? Delete it"]
    else:
        assert f"{path}, line 3: not valid JSON" in said[0]


def test_the_longest_line_is_a_line(tmp_path, monkeypatch):
    """At the limit, not beyond it, wherever a block ends."""
    for module in (files, json_array):
        monkeypatch.setattr(module, "LONGEST_ROW", 50)
    row = {"prompt": "p" * (50 - len('{"prompt": ""}'))}
    for block in (1, 7, 50, 51, 1000):
        monkeypatch.setattr(files, "BLOCK", block)
        (tmp_path / "x.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}")
        assert list(read_file(tmp_path / "x.jsonl")) == [row, row]
        (tmp_path / "x.jsonl").write_text(f"{json.dumps(row)}\n\n {json.dumps(row)}\n{{}}\n")
        assert "line 3: longer than" in error_of(tmp_path / "x.jsonl")


def blocks_of(data, size):
    return iter([data[start : start + size] for start in range(0, len(data), size)])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, MIB])
@pytest.mark.parametrize(
    "style", [{"indent": 1}, {"separators": (",", ":")}, {"indent": "\t \r\n"}, {"ensure_ascii": False}]
)
def test_an_array_is_read_as_the_library_reads_it(tmp_path, size, style):
    text = json.dumps(ROWS, **style)
    for before, after in (("", ""), ("\ufeff", "\n \n"), (" \t", "\r\n")):
        data = (before + text + after).encode()
        assert list(read_array(tmp_path, blocks_of(data, size))) == ROWS
        (tmp_path / "x.json").write_bytes(data)
        assert list(read_file(tmp_path / "x.json")) == ROWS


WRONG = ['[{"a": 1}\n {"a": 2}]',
          '[{"a": 1},\n]', '[{"a": 1},\n\n{"a": é}]', '[{"a": 1}\n,\n{"a":\n', '[{"a": 1}]\n[', "[", "[\n",
         '[{"a"\n\n\n:::1}]', '[{"a": 1}\n, {"a": 1\n']  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("size", [1, 3, MIB])
def test_the_line_of_what_is_wrong_is_the_librarys(tmp_path, size, text):
    with pytest.raises(json.JSONDecodeError) as library:
        json.loads(text)
    with pytest.raises(InputError, match=f", line {library.value.lineno}: not valid JSON"):
        list(read_array(tmp_path, blocks_of(text.encode(), size)))


def test_what_is_wrong_far_from_the_end_is_not_read_over(tmp_path):
    """A broken item costs no reading on, and is not said to be too long."""
    row = b'{"a": "' + b"x" * 1000 + b'"},'
    path = packed(tmp_path / "x.json.gz", (b"[\n" + row + b"\n{oops},\n", 1), (row, 50_000))
    assert "x.json.gz, line 3: not valid JSON (Expecting property name" in error_of(path)


@pytest.mark.parametrize("item", ['{"a": ' + "9" * 5000 + "}", "[" * 10**5])
def test_what_json_itself_gives_up_on(tmp_path, item):
    (tmp_path / "x.json").write_text('[{"a": 1},\n' + item)
    assert "x.json, line 2: not valid JSON" in error_of(tmp_path / "x.json")


@pytest.mark.parametrize("size", [1, 2, MIB])
@pytest.mark.parametrize("data", [b'[{"a": 1},\n{"a":\n"\xe9"}]', '[{"a": 1},\n{"a":\n"é'.encode()[:-1]])
def test_an_array_that_is_no_utf8(tmp_path, size, data):
    with pytest.raises(InputError, match=", line 3: not UTF-8 text"):
        list(read_array(tmp_path, blocks_of(data, size)))


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_a_long_array_takes_no_memory(tmp_path, name):
    """24 MiB in one line, of which a block is in memory."""
    row = json.dumps({"prompt": "p" * 1000}).encode()
    path = packed(tmp_path / "x.json.gz", (b"[" + row, 1), (b"," + row, 24_000), (b"]", 1))
    if name == "x.json":
        path = tmp_path / name
        path.write_bytes(gzip.decompress((tmp_path / "x.json.gz").read_bytes()))
    counts = []
    assert peak_of(lambda: counts.append(sum(1 for _ in read_file(path)))) < 8
    assert counts == [24_001]


def test_packed_parquet_is_unpacked_to_the_disk(tmp_path):
    words = random.Random(0)
    rows = [{"prompt": words.randbytes(800).hex()} for _ in range(20_000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet", compression="none")
    path = packed(tmp_path / "x.parquet.gz", ((tmp_path / "x.parquet").read_bytes(), 1))
    counts = []
    assert peak_of(lambda: counts.append(sum(1 for _ in read_file(path)))) < 12  # of 33 MiB
    assert counts == [20_000] and next(read_file(path)) == rows[0]
    bomb = packed(tmp_path / "bomb.parquet.gz", (b"PAR1" + bytes(MIB), 200))
    assert f"{bomb} unpacks to more than 100 times its size" in error_of(bomb)


def test_parquet_text_that_is_no_utf8(tmp_path):
    good, bad = pyarrow.array([b"good"] * 1500), pyarrow.array([b"\xff\xfe"])
    texts = pyarrow.concat_arrays([good, bad]).view(pyarrow.utf8())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": texts}), tmp_path / "x.parquet")
    assert "x.parquet, after row 1000: holds text that is not UTF-8; save it as UTF-8" in error_of(
        tmp_path / "x.parquet"
    )


def test_a_parquet_date_that_no_calendar_has(tmp_path):
    dates = pyarrow.array([2**60], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"], "date": dates}), tmp_path / "x.parquet")
    assert "x.parquet: not a readable Parquet file" in error_of(tmp_path / "x.parquet")
