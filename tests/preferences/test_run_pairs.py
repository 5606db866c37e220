"""A run's pairs for people: balanced, blind, the same again, and what labels of them say of the rows."""

import json
import random
import re
import shutil
from collections import Counter

import pytest
from starlette.testclient import TestClient

from alignment_bench.errors import InputError
from alignment_bench.preferences.answers import Answers, checked_items
from alignment_bench.preferences.labels import append, make_label, read_items
from alignment_bench.preferences.run_pairs import EMPTY, Pairing, plan, read_people
from alignment_bench.preferences.serve import build_app
from alignment_bench.results.records import Generation
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import GENERATIONS, Store, write_jsonl

HERE = "http://127.0.0.1"
WORDS = {"sft": "plain", "ppo": "gold", "dpo:beta=0.5": "silver"}
PROMPTS = [f"prompt-{n}" for n in range(5)]


def text(row, seed, prompt):
    return f"{WORDS[row]} words, {'first' if seed == 0 else 'second'} time, {PROMPTS.index(prompt)}"


def make_run(folder, texts=text, rows=("ppo", "dpo:beta=0.5"), seeds=(0, 1), run_id="the-run"):
    """A run whose cells hold responses alone; texts: (row, seed, prompt) -> response."""
    run, store = Run(folder / run_id), Store(folder / "store")
    methods = {row: {"name": row.partition(":")[0], "params": {}, "description": ""} for row in rows}
    record = {"run_id": run_id, "contract": {"run": run_id}, "commands": [], "created": "now", "methods": methods}
    run.open(record)
    for row in ("sft", *rows):
        for seed in seeds:
            found = [
                Generation(p, ({"role": "user", "content": f"Question {n}?"},), texts(row, seed, p), 3, True)
                for n, p in enumerate(PROMPTS)
            ]
            key = {"run": run_id, "row": row, "seed": seed, "texts": [g.response for g in found]}
            stage = store.stage("generations", key, lambda out, found=found: write_jsonl(out / GENERATIONS, found))
            run.place(row, seed, [stage])
    return run


def key_of(run):
    return [Pairing(**json.loads(line)) for line in (run.path / "people" / "key.jsonl").read_text().splitlines()]


def label(run, name, choose):
    """Answers of a labeller to all items, as the server writes them; choose: pairing -> answer or None."""
    items = {item.id: item for item in read_items(run.path / "people")}
    rows = [
        make_label(items[pairing.item], answer, name, "ab")
        for pairing in key_of(run)
        if pairing.item in items and (answer := choose(pairing))
    ]
    append(run.path / "people" / "labels" / "people.jsonl", rows)


def values(run):
    """{(row, seed, metric, prompt): value} without SFT's."""
    frame = read_people(run).scores
    rows = frame[frame["method"] != "sft"].itertuples(index=False)
    return {(r.method, r.seed, r.metric, r.prompt_id): r.value for r in rows}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def test_a_plan_compares_all_rows_on_the_same_prompts_with_all_seeds(run):
    folder = plan(run, pairs=12, methods=[], seed=0)
    key = key_of(run)
    sides = Counter((frozenset((p.a, p.b)), p.seed) for p in key)
    assert len(key) == 12 and len({p.prompt_id for p in key}) == 2
    assert len(sides) == 6 and set(sides.values()) == {2}
    for item, pairing in zip(read_items(folder), key, strict=True):
        assert item.id == pairing.item
        assert (item.a, item.b) == tuple(text(row, pairing.seed, pairing.prompt_id) for row in (pairing.a, pairing.b))
        assert item.prompt[0]["content"] == f"Question {PROMPTS.index(pairing.prompt_id)}?"


def test_sides_and_order_are_random_and_the_same_again(tmp_path, run):
    plan(run, pairs=None, methods=[], seed=0)
    key = key_of(run)
    assert len(key) == 3 * 2 * 5  # all there are
    firsts = Counter(p.a for p in key)
    assert all(firsts[row] >= 4 for row in WORDS)  # of 20; a row that always stood on one side would have 0
    assert len({p.prompt_id for p in key[:6]}) > 1  # not prompt by prompt, which would show the SFT response twice
    again = make_run(tmp_path / "again")
    plan(again, pairs=None, methods=[], seed=0)
    assert key_of(again) == key
    other = make_run(tmp_path / "other")
    plan(other, pairs=None, methods=[], seed=1)
    assert [p.prompt_id for p in key_of(other)] != [p.prompt_id for p in key]


def test_more_pairs_and_rows_come_behind_those_that_are_there(run):
    plan(run, pairs=5, methods=["ppo"], seed=0)
    first = key_of(run)
    assert {row for p in first for row in (p.a, p.b)} == {"ppo", "sft"} and len(first) == 5
    plan(run, pairs=20, methods=[], seed=0)
    assert key_of(run)[:5] == first and len(key_of(run)) >= 20
    plan(run, pairs=2, methods=[], seed=0)
    assert key_of(run)[:5] == first and len(key_of(run)) >= 20
    with pytest.raises(InputError, match="planned with --seed 0; give that one again"):
        plan(run, pairs=20, methods=[], seed=3)


def test_nothing_that_is_served_or_lies_beside_the_labels_names_a_row(run):
    folder = plan(run, pairs=12, methods=[], seed=0)
    answers = Answers(folder, checked_items(folder), overlap=1)
    client = TestClient(
        build_app(answers, names=[], host="127.0.0.1", token=None), base_url=HERE, headers={"Origin": HERE}
    )
    served = [client.get(path) for path in ("/", "/label.js", "/label.css", "/api/state")]
    served.append(client.post("/api/start", json={"name": "Ann"}))
    served.append(client.post("/api/next", json={}))
    for _ in range(12):
        item = served[-1].json()["pair"]["item"]
        served.append(client.post("/api/answer", json={"item": item, "answer": "left"}))
    assert served[-1].json()["pair"] is None and all(answer.status_code == 200 for answer in served)
    client.post("/api/export", json={})
    told = "".join(answer.text + str(answer.headers) for answer in served)
    beside = (folder / "items.jsonl").read_text() + (folder / "labels" / "people.jsonl").read_text()
    assert "gold words" in told and "gold words" in beside
    for name in (*WORDS, "dpo", "the-run", *PROMPTS):  # as words: a random token may hold three letters in a row
        word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        assert not word.search(told) and not word.search(beside)


def test_labels_become_win_rates_of_the_rows_whichever_side_they_stood_on(run):
    """Ann prefers gold to silver to plain; Ben ties all of seed 1 and skips the rest."""
    plan(run, pairs=None, methods=[], seed=0)
    rank = {"sft": 0, "dpo:beta=0.5": 1, "ppo": 2}
    label(run, "Ann", lambda p: "a" if rank[p.a] > rank[p.b] else "b")
    label(run, "Ben", lambda p: ("tie" if p.prompt_id == PROMPTS[0] else "both_bad") if p.seed == 1 else "skip")
    found = values(run)
    assert len(found) == 30
    for prompt in PROMPTS:
        for seed, expected in ((0, 1.0), (1, 0.75)):
            assert found["ppo", seed, "win_rate.people", prompt] == expected
            assert found["dpo:beta=0.5", seed, "win_rate.people", prompt] == expected
            assert found["ppo", seed, "versus.people:dpo:beta=0.5", prompt] == expected
    frame = read_people(run).scores
    sft = frame[frame["method"] == "sft"]
    assert len(sft) == 10 and set(sft["value"]) == {0.5} and set(sft["metric"]) == {"win_rate.people"}
    about = read_people(run).about
    counts = {name: about[name] for name in ("served", "pairs", "labels", "skips", "labellers")}
    assert counts == {"served": 30, "pairs": 30, "labels": 45, "skips": 15, "labellers": 2}
    assert about["agreement"]["n"] == 15 and about["agreement"]["mean"] == 0.0


def test_a_later_win_is_the_others_loss(run):
    plan(run, pairs=None, methods=["dpo:beta=0.5"], seed=0)
    label(run, "Ann", lambda p: "a" if p.a == "sft" else "b")
    assert set(values(run).values()) == {0.0}


def test_equal_responses_are_not_served_and_count_half_as_often_as_they_are(tmp_path):
    """ppo answers three of five prompts as SFT does: once all is labelled the rate is that of the five prompts."""

    def texts(row, seed, prompt):
        return text("sft" if row == "ppo" and prompt in PROMPTS[:3] else row, seed, prompt)

    run = make_run(tmp_path, texts, rows=("ppo",), seeds=(0,))
    plan(run, pairs=None, methods=[], seed=0)
    assert len(read_items(run.path / "people")) == 2 and len(key_of(run)) == 5
    assert read_people(run) is None
    label(run, "Ann", lambda p: "a" if p.a == "ppo" else "b")
    assert sorted(values(run).values()) == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_equal_responses_count_as_far_as_people_have_come(tmp_path):
    """Half of the values are of equal responses, so they are half of them when some of the pairs are labelled."""

    def texts(row, seed, prompt):
        return text("sft" if row == "ppo" and seed else row, seed, prompt)

    run = make_run(tmp_path, texts, rows=("ppo",))
    equal = 0
    for seed in range(20):
        plan(run, pairs=None, methods=[], seed=seed)
        seen = random.Random(seed).sample([p for p in key_of(run) if not p.identical], 2)
        label(run, "Ann", lambda p, seen=seen: "a" if p in seen else None)
        found = [*values(run).values()]
        assert len(found) - found.count(0.5) == 2
        equal += found.count(0.5)
        shutil.rmtree(run.path / "people")
    assert 1.5 < equal / 20 < 2.5  # 2 on average; 5 if all counted at once


def test_an_empty_response_is_shown_as_one(tmp_path):
    run = make_run(tmp_path, lambda row, seed, p: " " if row == "ppo" else text(row, seed, p), rows=("ppo",))
    folder = plan(run, pairs=None, methods=[], seed=0)
    assert all(EMPTY in (item.a, item.b) for item in checked_items(folder))


def test_labels_of_other_responses_are_refused(tmp_path, run):
    plan(run, pairs=None, methods=[], seed=0)
    label(run, "Ann", lambda p: "a")
    make_run(tmp_path, lambda row, seed, p: "new" if (row, seed, p) == ("ppo", 1, PROMPTS[2]) else text(row, seed, p))
    with pytest.raises(InputError, match="people: 2 of 30 pairs are of responses that this run no longer has"):
        read_people(run)
    with pytest.raises(InputError, match="of seed 1.*move the folder away and label anew"):
        plan(run, pairs=None, methods=[], seed=0)


def test_labels_of_another_run_are_refused(tmp_path, run):
    plan(run, pairs=None, methods=[], seed=0)
    other = make_run(tmp_path, run_id="another")
    (run.path / "people").rename(other.path / "people")
    with pytest.raises(InputError, match="holds labels of run the-run, and this is run another"):
        plan(other, pairs=None, methods=[], seed=0)


@pytest.mark.parametrize(
    ("made", "asked", "said"),
    [
        ({}, {"pairs": 31}, "has 30 pairs of different responses, and --pairs asks for 31; give 30 or fewer"),
        ({}, {"methods": ["pop"]}, "--method pop is not a row of .*; did you mean 'ppo'"),
        ({"rows": ()}, {}, "has no row beside SFT to compare"),
        ({"texts": lambda *_: "same"}, {}, "all responses of its rows are the same texts"),
    ],
)
def test_what_cannot_be_compared_gets_a_sentence_and_writes_nothing(tmp_path, made, asked, said):
    run = make_run(tmp_path, **made)
    with pytest.raises(InputError, match=said):
        plan(run, **{"pairs": None, "methods": [], "seed": 0} | asked)
    assert not (run.path / "people" / "items.jsonl").exists()
