"""The audit finds faults that were put in, with figures derived by hand, and is right about real files."""

import gzip
import itertools
import json
import re
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.errors import InputError
from alignment_bench.preferences.audit import audit, near_duplicates, share_interval
from alignment_bench.preferences.judgements import read_judgements

REAL = Path(__file__).parents[3] / "shared" / "data"
LONG = "a somewhat longer answer that says the very same thing "


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pair(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def sections_of(source, **options):
    return {section.title: section for section in audit(read_judgements(source), **options)}


def cell(section, start):
    return next(row[1] for row in section.rows if row[0].startswith(start))


def test_contradictions_and_cycles(tmp_path):
    rows = [
        *(pair("one", a, b) for a, b in ("xy", "yz", "zx")),  # a cycle
        *(pair("two", a, b) for a, b in ("xy", "yz", "xz")),  # an order
        pair("three", "x", "y", labeler_id="Ann"),
        pair("three", "y", "x", labeler_id="Ann"),  # Ann against herself
        pair("four", "x", "y", labeler_id="Ann"),
        pair("four", "y", "x", labeler_id="Ben"),  # two people who differ
    ]
    found = sections_of(write(tmp_path / "p.jsonl", rows))["Contradictions and cycles"]
    assert found.rows == [
        ("pairs that one labeller decided both ways", "1", "9 pairs and labellers"),
        ("pairs decided both ways by anybody", "2", "8 decided pairs"),
        ("prompts with a cycle (A over B over C over A)", "1", "2 prompts of 3 responses or more"),
    ]


def test_length_bias_and_no_bias(tmp_path):
    biased = [pair(f"p{i}", LONG, "short") for i in range(60)] + [pair(f"q{i}", "short", LONG) for i in range(20)]
    found = sections_of(write(tmp_path / "biased.jsonl", biased))
    assert cell(found["Length and position"], "the longer response") == "0.750"
    # Every prompt once: the plain interval, but for the correction of clustered variance for few clusters, 80 / 79.
    low, high = proportion_confint(0.75 * 79, 79, method="wilson")
    assert found["Length and position"].rows[0][2] == f"{low:.3f} to {high:.3f}"
    assert "The longer response wins 75%" in " ".join(found["What to fix first"].lines)
    even = [pair(f"p{i}", *((LONG, "short") if i % 2 else ("short", LONG))) for i in range(80)]
    found = sections_of(write(tmp_path / "even.jsonl", even))
    assert "response wins" not in " ".join(found["What to fix first"].lines)


def test_the_interval_counts_prompts_where_rows_of_a_prompt_are_alike():
    # 40 prompts, each 10 times with one outcome: as much as 40 rows. The design effect is 10 * 40 / 39.
    wins = [i % 4 != 0 for i in range(40) for _ in range(10)]
    found = share_interval(wins, [str(i) for i in range(40) for _ in range(10)])
    assert (found.low, found.high) == pytest.approx(proportion_confint(0.75 * 39, 39, method="wilson"))
    certain = share_interval([True] * 50, ["one", "two"] * 25)
    assert (certain.low, certain.high) == pytest.approx(proportion_confint(2, 2, method="wilson"))


def test_near_duplicates():
    base = "please tell me in a few words how the heart of a whale pumps blood through so large a body"
    groups = near_duplicates([base, base + " today", "please tell me a joke", "how are you"])
    assert groups == [{base, base + " today"}]


def test_prompts_on_both_sides(tmp_path):
    rows = [
        pair("one", "x", "y", split="train"),
        pair("two", "x", "y", split="train"),
        pair("one", "z", "y", split="test"),
    ]
    said = " ".join(sections_of(write(tmp_path / "p.jsonl", rows))["Prompts on both sides of a split"].lines)
    assert said.startswith("1 prompts stand on more than one side")
    train = write(tmp_path / "train.jsonl", [pair("one", "x", "y"), pair("two", "x", "y")])
    test = read_judgements(write(tmp_path / "test.jsonl", [pair("two", "v", "w"), pair("three", "v", "w")]))
    found = sections_of(train, against=test)
    assert found["Prompts on both sides of a split"].lines[0].startswith("1 prompts stand on more than one side")
    assert found["What to fix first"].lines[0].startswith("1. Prompts on both sides")


def label(item, labeller, answer, shown, prompt=None):
    texts = (f"{item} a", f"{item} b plus")
    chosen, rejected = texts[::-1] if answer == "b" else texts
    return {
        "item": item, "prompt": [{"role": "user", "content": prompt or item}], "chosen": chosen, "rejected": rejected,
        "labeler_id": labeller, "timestamp": "2026-01-01T00:00:00+00:00", "reasoning": "", "model_version": "m",
        "tie": answer in ("tie", "both_bad"), "answer": answer, "shown": shown, "strength": None,
    }  # fmt: skip


def test_a_collection_folder_with_labels(tmp_path):
    items = [
        {"id": f"i{n}", "prompt": [], "a": f"i{n} a", "b": f"i{n} b plus", **({"gold": "a"} if n < 2 else {})}
        for n in range(4)
    ]
    write(tmp_path / "items.jsonl", items)
    # Ann is right on both attention checks, Ben on none.
    write(tmp_path / "labels" / "people.jsonl", [
        label("i0", "Ann", "a", "ab"), label("i1", "Ann", "a", "ba"),
        label("i2", "Ann", "b", "ba"), label("i3", "Ann", "tie", "ab"),
        label("i0", "Ben", "b", "ab"), label("i1", "Ben", "b", "ab"),
        label("i2", "Ben", "b", "ab"), label("i3", "Ben", "skip", "ab"),
    ])  # fmt: skip
    found = sections_of(str(tmp_path))
    assert found["Rows"].rows == [("skipped by the labeller", "1")]
    bias = found["Length and position"]
    assert cell(bias, "the first response") == "0.333"  # i0 and i2 of Ann's three; none of Ben's three
    assert cell(bias, "the longer response") == "0.667"  # b is longer: Ann i2, Ben all three
    assert [row[-1] for row in found["Labellers"].rows] == ["2 of 2", "0 of 2"]
    # i0 and i1 differ, i2 agrees.
    assert "33.3%" in found["Agreement"].lines[1]
    assert any("Ben got 0 of 2 attention checks right" in line for line in found["What to fix first"].lines)


def test_a_collection_without_labels_gets_a_sentence(tmp_path):
    write(tmp_path / "items.jsonl", [{"id": "i", "prompt": [], "a": "x", "b": "y"}])
    with pytest.raises(InputError, match="a collection without labels yet"):
        read_judgements(str(tmp_path))


def test_duplicate_rows_are_dropped_as_for_training(tmp_path):
    rows = [pair("p", "x", "y"), pair("p", "x", "y", id=2), pair("p", "x", "y", labeler_id="Ann"), pair("p", "y", "y")]
    found = sections_of(write(tmp_path / "p.jsonl", rows))["Rows"]
    assert sorted(found.rows) == [("chosen equals rejected", "1"), ("duplicate row", "1")]
    assert "2 judgements of 1 pairs under 1 prompts kept; 2 dropped" in found.lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(label("i", "Ann", "a", "ab")) + '\n{"item": "j", "cho', "line 2: not valid JSON .* cut short"),
        ("", "holds no rows"),
        ('{"text": "x"}\n', "no row has chosen and rejected"),
        (json.dumps(pair("p", "x", "y")) + '\n{"prompt": "p", "response_a": "x", "response_b": "y", "human": ["a"]}\n',
         "mixes formats: 1 rows with chosen and rejected and 1 rows with several"),
        (json.dumps(pair("p", "", "y")) + "\n", r"none of its 1 rows can be used \(chosen is empty: 1\)"),
    ],
)  # fmt: skip
def test_bad_files_get_a_sentence(tmp_path, text, said):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_judgements(str(tmp_path / "bad.jsonl"))
    assert "\n" not in str(caught.value)


def test_the_command_prints_and_writes_an_inert_page(tmp_path, tiny):
    name = "<script>alert(1)</script>"
    rows = [pair(f"question {i}", "yes " * 200, "no", labeler_id=name) for i in range(40)]
    source, page = write(tmp_path / "p.jsonl", [*rows, pair("x", "y", "y")]), tmp_path / "page.html"
    result = CliRunner().invoke(app, ["audit-data", source, "--model", str(tiny.path), "--out", str(page)])
    assert result.exit_code == 0, result.output
    # 800 letters at a byte a token do not fit into the tiny model's 256.
    assert "40 of 40 pairs (100.0%) do not fit into 256 tokens" in result.output
    assert "chosen equals rejected" in result.output
    assert result.output.index("WHAT TO FIX FIRST") > result.output.index("THE MOST A REWARD MODEL")
    html = page.read_text()
    assert name not in html and "&lt;script&gt;" in html
    assert "http" not in html.split("</style>")[1]
    titles = re.findall("<h2>(.*)</h2>", html)
    assert titles[0] == "What to fix first" and len(titles) == len(set(titles)) > 5


def real(name):
    if not (REAL / name).is_file():
        pytest.skip(f"shared/data/{name} does not lie beside the project")
    return [json.loads(line) for line in gzip.open(REAL / name, "rt")], sections_of(str(REAL / name))


def test_the_length_bias_of_a_real_judge_is_found():
    rows, found = real("alpacaeval_gpt4.jsonl.gz")
    lengths = [(len(row["chosen"].strip()), len(row["rejected"].strip())) for row in rows]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    assert cell(found["Length and position"], "the longer response") == f"{sum(unequal) / len(unequal):.3f}"
    assert found["What to fix first"].lines[0].startswith("1. The longer response wins 75% of the time")


def test_the_agreement_of_three_real_people_is_found():
    rows, found = real("pandalm_3annotators.jsonl.gz")
    units = {}
    for row in rows:
        a, b = row["response_a"].strip(), row["response_b"].strip()
        if a and b and a != b:
            # The last of several rows of one pair counts, whichever response came first.
            swap = {"a": "b", "b": "a"} if a > b else {}
            units[row["prompt"].strip(), *sorted((a, b))] = [swap.get(x, x) for x in row["human"]]
    # Alpha as 1 - observed / expected disagreement over all pairs of labels, written out.
    every = list(itertools.chain(*units.values()))
    observed = sum(x != y for unit in units.values() for x, y in itertools.permutations(unit, 2)) / 2 / len(every)
    expected = sum(every.count(x) * every.count(y) for x, y in itertools.permutations(("a", "b", "tie"), 2))
    alpha = 1 - observed / (expected / len(every) / (len(every) - 1))
    assert f": {alpha:.3f} (" in found["Agreement"].lines[0]
    assert alpha > 0.8
    assert [row[0] for row in found["Labellers"].rows][:3] == ["person 1", "person 2", "person 3"]
