"""`bench audit-judge`: judges beside people, on made labels and on PandaLM's; bad files."""

import gzip
import json
import re
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.judging.labels import (
    against_people,
    among_people,
    over_subsets,
    published_labels,
    read_labels,
)
from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge import open_asker

PANDALM = Path(__file__).parents[4] / "shared" / "data" / "pandalm_3annotators.jsonl.gz"
CANARY = "sk-canary-9c3e"


def row(key, prompt, good, human, subset, published):
    """A pair whose good answer stands at a place, with people's labels and a published judge's."""
    a, b = ("good", "bad") if good == "a" else ("bad", "good")
    return {
        "id": key, "prompt": prompt, "response_a": a, "response_b": b,
        "human": human, "subset": subset, "j": published,
    }  # fmt: skip


ROWS = [
    row(1, "p", "a", ["a", "a", "b"], "x", "a"),
    row(2, "q", "b", ["b", "b", "b"], "x", "a"),
    row(3, "r", "b", ["tie", "tie", "b"], "y", "error"),
    row(4, "s", "a", ["a", "b", "tie"], "y", "tie"),
]


def write(folder, rows, name="labels.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_figures_by_hand(tmp_path):
    rows = read_labels(write(tmp_path, ROWS))
    people = among_people(rows)
    assert people["pairs"] == 4 and people["labels"] == 12 and people["without_majority"] == 1
    assert people["agreement"] == (1 + 3 + 1 + 0) / 12
    other = [{"q" if name == "prompt" else name: value for name, value in row.items()} for row in ROWS]
    assert read_labels(write(tmp_path, other), columns={"prompt": "q"}) == rows
    labels = published_labels(rows, "j")
    assert labels == ["a", "a", None, "tie"]  # "error" is no answer
    found = against_people(rows, labels)
    assert found["coverage"] == 0.75
    assert found["accuracy"]["mean"] == 0.5 and found["accuracy"]["n"] == 2  # pair 3 has no answer, pair 4 no majority
    assert found["decided_accuracy"]["n"] == 2
    # the judge says a, a where the majority says a, b: observed 1/2, expected 1 * 1/2, kappa 0
    assert found["kappa"] == pytest.approx(0.0)
    assert found["prefers_longer"]["mean"] == 0.5  # good is longer than bad


def test_people_may_stand_in_a_column_label(tmp_path):
    """`human` goes before where a row has both; a bad label names the column that it stands in."""
    named = [{("label" if k == "human" else k): v for k, v in row.items()} for row in ROWS]
    assert [r.human for r in read_labels(write(tmp_path, named))] == [tuple(row["human"]) for row in ROWS]
    both = read_labels(write(tmp_path, [{**ROWS[0], "label": "b"}, {**named[1], "label": "a"}]))
    assert [r.human for r in both] == [("a", "a", "b"), ("a",)]
    with pytest.raises(InputError, match="row 1, label: the label 'left' is unknown"):
        read_labels(write(tmp_path, [{**named[0], "label": "left"}]))


def test_subsets_weigh_the_same_in_their_mean(tmp_path):
    """x: right on 3 of 4 pairs; y: wrong on 1; their mean is 3/8, all pairs' 3/5. One without a verdict is left out."""
    made = [row(i, f"q{i}", "a", "a", "x", "a" if i else "b") for i in range(4)]
    made += [row(4, "q4", "a", "a", "y", "b"), row(5, "q5", "a", "a", "z", "error")]
    rows = read_labels(write(tmp_path, made))
    labels = published_labels(rows, "j")
    assert against_people(rows, labels)["accuracy"]["mean"] == pytest.approx(3 / 5)
    found = over_subsets(rows, labels)
    # residuals / (pairs * subsets): x has one of -3/4 and three of 1/4, each over 4 * 2; y has none
    variance = 5 / 4 * ((3 / 4) ** 2 + 3 * (1 / 4) ** 2) / 64
    size = 3 / 8 * 5 / 8 / variance
    assert (found["mean"], found["n"]) == (3 / 8, 5)
    expected = proportion_confint(3 / 8 * min(size, 5), min(size, 5), method="wilson")
    assert (found["low"], found["high"]) == pytest.approx(expected)
    done = audit("--judge", "column:j", "--labels", tmp_path / "labels.jsonl")
    assert re.search(r"mean over subsets +0\.375 \[", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"human": ["a", "maybe"]}, "row 2, human: the label 'maybe' is unknown; known: a, b, tie"),
        ({"human": 3}, "row 2: human is '3'; give a label or a list"),
        ({"human": []}, "row 2: human is"),
        ({"human": None}, "row 2 has no 'human'"),
        ({"response_b": None}, "row 2 has no 'response_b'"),
        ({"id": 1}, "row 2: the id '1' is there twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, named):
    path = write(tmp_path, [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(InputError, match=re.escape(named)):
        read_labels(path)


def test_labels_of_other_pairs_are_refused(tmp_path):
    texts = write(
        tmp_path, [{k: row[k] for k in ("id", "prompt", "response_a", "response_b")} for row in ROWS], "t.jsonl"
    )
    labels = write(tmp_path, [{"id": row["id"], "human": row["human"]} for row in ROWS])
    assert [row.a for row in read_labels(labels, texts)] == ["good", "bad", "bad", "good"]
    labels = write(tmp_path, [{"id": 1, "human": "a"}, {"id": 77, "human": "b"}])
    with pytest.raises(InputError, match="1 of its 2 ids are not in .*t.jsonl, the first is 77"):
        read_labels(labels, texts)


def test_an_unknown_label_of_the_published_judge_is_named(tmp_path):
    rows = read_labels(write(tmp_path, [{**ROWS[0], "j": "left"}]))
    with pytest.raises(InputError, match="column j, id 1: the label 'left' is unknown"):
        published_labels(rows, "j")
    with pytest.raises(InputError, match="no row has that column; did you mean 'human'"):
        published_labels(rows, "humn")


@pytest.fixture
def endpoint(serve_chat, monkeypatch):
    """A scripted endpoint that prefers the good answer, reports its tokens, and quotes the key in every error."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    state = {"fail": False}

    def reply(question, attempt):
        if state["fail"]:
            return 400, {"error": {"message": f"bad key Bearer {CANARY}"}}
        first = question.split("<answer_a>")[1].split("</answer_a>")[0]
        choice = {"message": {"content": "A" if "good" in first else "B"}}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 1}}

    return *serve_chat(reply), state


def audit(*arguments):
    open_asker.cache_clear()
    return CliRunner().invoke(app, ["audit-judge", *map(str, arguments)])


def test_a_scripted_judge_its_bill_its_cache_and_the_key(tmp_path, endpoint):
    url, requests, state = endpoint
    labels = write(tmp_path, ROWS)
    command = ["--judge", "openai:scripted", "--judge-url", url, "--labels", labels, "--root", tmp_path / "root"]
    command += ["--judge-price", "1.5,6", "--repeats", "2", "--json"]
    done = audit(*command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    judge = found["judges"]["openai:scripted"]
    assert judge["flip"]["mean"] == 0 and judge["self_consistency"]["mean"] == 1 and judge["chose_first"] == 0.5
    assert judge["accuracy"]["mean"] == pytest.approx(2 / 3)  # pair 3 is a tie by majority, pair 4 has none
    assert judge["subsets"]["x"]["accuracy"]["mean"] == 1.0 and judge["subsets"]["y"]["accuracy"]["mean"] == 0.0
    # 8 questions and 2 repeats, 100 tokens in and 1 out each
    assert judge["usage"] == {
        "verdicts": 10, "tokens_in": 1000, "tokens_out": 10, "dollars": pytest.approx(0.00156)
    }  # fmt: skip
    assert "10 questions, about" in done.stderr and len(requests) == 10
    state["fail"] = True  # the endpoint is gone: all is on disk
    again = audit(*command)
    assert json.loads(again.stdout) == found and len(requests) == 10
    gone = audit(*command[:-2], "0", "--root", tmp_path / "other")
    assert gone.exit_code != 0 and isinstance(gone.exception, InputError) and "HTTP 400" in str(gone.exception)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in (done.output, again.output, gone.output, str(gone.exception), written.decode()):
        assert CANARY not in text
    assert not any('"answer"' in path.read_text() for path in (tmp_path / "other").rglob("*.jsonl"))


def test_settings_of_a_judge_are_passed_on(tmp_path, endpoint):
    url, requests, _ = endpoint
    command = ["--judge", "openai:m", "--judge-url", url, "--labels", write(tmp_path, ROWS), "--root", tmp_path]
    settings = ["max_completion_tokens=900", "temperature=null", "extra_body={reasoning_effort: low}", "repeats=0"]
    assert audit(*command, *(part for text in settings for part in ("--set", text))).exit_code == 0
    [sent] = {json.dumps({k: v for k, v in body.items() if k != "messages"}) for *_, body in requests}
    assert json.loads(sent) == {"model": "m", "max_completion_tokens": 900, "reasoning_effort": "low"}
    wrong = audit(*command, "--set", "max_token=9")
    assert "--set max_token=9: 'max_token' is no setting of a judge; did you mean 'max_tokens'?" in str(wrong.exception)


@pytest.mark.parametrize("price", ["1", "a,b", "-1,2", "nan,1", "1,2,3"])
def test_a_price_that_is_none_is_named(tmp_path, price):
    done = audit("--judge", "column:j", "--labels", write(tmp_path, ROWS), "--judge-price", price)
    assert isinstance(done.exception, InputError) and f"--judge-price {price} is not a price" in str(done.exception)


def test_the_published_judge_of_pandalm():
    """Counted here from the file by itself; the paper of PandaLM puts GPT-3.5 at about 71% on the whole set."""
    if not PANDALM.exists():
        pytest.skip("shared/data/pandalm_3annotators.jsonl.gz does not lie beside the project")
    rows = read_labels(PANDALM)
    found = against_people(rows, published_labels(rows, "gpt35_judge"))
    with gzip.open(PANDALM, "rt") as stream:
        raw = [json.loads(line) for line in stream]
    valid = [row for row in raw if row["gpt35_judge"] in ("a", "b", "tie")]
    right = sum(max(row["human"], key=row["human"].count) == row["gpt35_judge"] for row in valid)
    assert len(rows) == 500 and found["coverage"] == len(valid) / 500 == 0.944
    assert found["accuracy"]["n"] == len(valid) and found["accuracy"]["mean"] == pytest.approx(right / len(valid))
    alpha = among_people(rows)["alpha"]
    # Krippendorff's coincidences by hand: three labels an item, so an item's disagreeing ordered pairs weigh 1/2
    counts = {label: sum(row["human"].count(label) for row in raw) for label in ("a", "b", "tie")}
    n = sum(counts.values())
    observed = sum(3 * 3 - sum(row["human"].count(v) ** 2 for v in counts) for row in raw) / 2
    expected = (n**2 - sum(v**2 for v in counts.values())) / (n - 1)
    assert alpha == pytest.approx(1 - observed / expected)
