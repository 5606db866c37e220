"""Collecting: sampling resumes, drops are counted, pairs follow their rule."""

import itertools
import json
from dataclasses import replace

import pytest

from alignment_bench.errors import InputError
from alignment_bench.models.chat import encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning
from alignment_bench.preferences import collect as module
from alignment_bench.preferences.collect import Sampling, collect, pair_up, read_prompts
from alignment_bench.preferences.labels import append, label_path, make_label, read_items
from alignment_bench.preferences.read import read_preferences
from alignment_bench.results.integrity import digest
from alignment_bench.results.records import Generation

PROMPTS = [([{"role": "user", "content": f"say {i}"}], "a test") for i in range(6)]
SETTINGS = Sampling(k=3, temperatures=(0.7, 1.0), top_p=0.9, max_new_tokens=5, seed=4, rule="all")


def candidate(prompt, draw, response):
    messages = [{"role": "user", "content": prompt}]
    return {
        "prompt_id": prompt, "prompt": messages, "response": response, "temperature": 1.0, "top_p": 1.0, "seed": draw,
        "draw": draw, "length": 3, "finished": True, "model_version": "m@1", "prompt_source": "s",
    }  # fmt: skip


def texts(items):
    return [{item.a, item.b} for item in items]


@pytest.fixture
def policy(tiny, full):
    return Policy.open(tiny, full, trainable=True)


@pytest.mark.parametrize("stop", [0, 1, 7, 17])
def test_a_collection_cut_anywhere_goes_on_to_the_same_end(policy, tmp_path, monkeypatch, stop):
    """Cut after `stop` of 18 candidates and within the next row: rows, counts and pairs end up as in one go."""
    monkeypatch.setattr(module, "CHUNK", 4)
    counts = collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path / "one", {})
    whole = (tmp_path / "one" / "candidates.jsonl").read_text().splitlines()
    assert len(whole) == 18 == counts["sampled"]
    rows = [json.loads(line) for line in whole]
    assert [row["temperature"] for row in rows if row["prompt_id"] == rows[0]["prompt_id"]] == [0.7, 1.0, 0.7]
    assert {(row["model_version"], row["prompt_source"], row["top_p"]) for row in rows} == {("m@1", "a test", 0.9)}

    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "collection.json").write_text((tmp_path / "one" / "collection.json").read_text())
    (cut / "candidates.jsonl").write_text("".join(line + "\n" for line in whole[:stop]) + whole[stop][:20])
    assert collect(policy, "m@1", PROMPTS, SETTINGS, cut, {}) == counts
    assert sorted((cut / "candidates.jsonl").read_text().splitlines()) == sorted(whole)
    assert (cut / "candidates.jsonl.torn").read_text() == whole[stop][:20] + "\n"
    assert {item.id for item in read_items(cut)} == {item.id for item in read_items(tmp_path / "one")}
    assert json.loads((cut / "collection.json").read_text())["counts"] == counts


def test_a_finished_collection_samples_nothing_again(policy, tmp_path, monkeypatch):
    collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path, {})
    before = (tmp_path / "items.jsonl").read_bytes()
    monkeypatch.setattr(module, "sample", lambda *a, **k: pytest.fail("sampled again"))
    collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path, {})
    assert (tmp_path / "items.jsonl").read_bytes() == before
    with pytest.raises(InputError, match="made in another way \\(differs in seed\\)"):
        collect(policy, "m@1", PROMPTS, Sampling(3, (0.7, 1.0), 0.9, 5, 5, "all"), tmp_path, {})


def test_adapters_are_sampled_as_adapters(tiny, tmp_path):
    """A LoRA folder answers as its merged weights would: other than its base."""
    tuning = Tuning(lora_rank=4, precision="fp32", device="cpu")
    trained = Policy.open(tiny, tuning, trainable=True)
    for parameter in trained.network.parameters:
        parameter.data += 0.3
    trained.save(tmp_path / "adapter")
    trained.network.close()
    found = {}
    for name, path in (("base", tiny.path), ("adapter", tmp_path / "adapter")):
        policy = Policy.open(Checkpoint(path, name), Tuning(precision="fp32", device="cpu"), trainable=False)
        collect(policy, name, PROMPTS, SETTINGS, tmp_path / name, {})
        rows = map(json.loads, (tmp_path / name / "candidates.jsonl").read_text().splitlines())
        found[name] = [row["response"] for row in rows]
    assert found["base"] != found["adapter"]


def test_empty_and_identical_candidates_are_dropped_and_counted():
    rows = [candidate("p", i, r) for i, r in enumerate(["x", " ", "x", "y", ""])]
    rows += [candidate("q", i, r) for i, r in enumerate(["z", "z", "z"])]
    items, counts = pair_up(rows, Sampling(rule="all"))
    assert texts(items) == [{"x", "y"}]
    assert counts == {
        "sampled": 8, "dropped empty": 2, "dropped identical": 3, "prompts without two different responses": 1,
    }  # fmt: skip
    item = items[0]
    assert (item.a_version, item.b_version, item.prompt_source) == ("m@1", "m@1", "s")
    assert item.decoding["a"]["seed"] == (0 if item.a == "x" else 3)


def test_a_response_that_was_cut_is_marked_through_item_label_and_pair(policy, tmp_path):
    """What the sampler says of each candidate stands in the pair of them, whichever side it is on and wins."""
    collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path, {})
    rows = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text().splitlines()]
    finished = {(row["prompt_id"], row["response"]): row["finished"] for row in rows}
    assert not all(finished.values())  # a random model seldom draws the EOS within 5 tokens
    for item in read_items(tmp_path):
        key = digest(list(item.prompt))[:16]
        assert (item.a_cut, item.b_cut) == (not finished[key, item.a], not finished[key, item.b])
    (item,), _ = pair_up([candidate("p", 0, "x"), candidate("p", 1, "y") | {"finished": False}], Sampling(rule="all"))
    assert (item.a_cut, item.b_cut) == ((False, True) if item.b == "y" else (True, False))
    for answer in "ab":
        append(label_path(tmp_path, "ann"), [make_label(item, answer, "ann", "ab")])
    for pair in read_preferences(str(tmp_path)):
        assert pair.cut == ((False, True) if pair.rejected == "y" else (True, False))


def test_a_prompt_that_the_template_refuses_is_counted(make_tiny, full, tmp_path):
    template = "{% if 'say 2' in messages[0]['content'] %}{{ raise_exception('not two') }}{% endif %}x"
    checkpoint = Checkpoint(make_tiny(tmp_path / "model", template=template), "m")
    policy = Policy.open(checkpoint, full, trainable=True)
    counts = collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path / "out", {})
    assert counts["prompts"] == 5 and counts["the chat template refuses the prompt: not two"] == 1
    with pytest.raises(InputError, match="none of the 1 prompts can be used: .* not two"):
        collect(policy, "m@1", PROMPTS[2:3], SETTINGS, tmp_path / "none", {})


def test_all_pairs_and_one_random_pair():
    rows = [candidate(p, i, r) for p in "pqrstuvw" for i, r in enumerate(["w", "x", "y", "z"])]
    items, _ = pair_up(rows, Sampling(rule="all"))
    every = [set(pair) for pair in itertools.combinations("wxyz", 2)]
    assert sorted(map(sorted, texts(items))) == sorted(map(sorted, every * 8))
    random_ones, _ = pair_up(rows, Sampling(rule="random"))
    assert len(random_ones) == 8 and len({frozenset(t) for t in texts(random_ones)}) > 2
    assert len({item.a for item in random_ones}) > 1  # sides are drawn too
    assert pair_up(rows, Sampling(rule="random"))[0] == random_ones
    assert pair_up(rows, Sampling(rule="random", seed=1))[0] != random_ones


def test_most_different_has_the_fewest_words_in_common():
    rows = [candidate("p", i, r) for i, r in enumerate(["a b c d", "a b c e", "a b f g", "h i j d"])]
    # words in the same order: 0-1 share 3, 0-2 and 1-2 share 2, 0-3 shares 1, 1-3 and 2-3 none; the first such pair
    items, _ = pair_up(rows, Sampling(rule="most_different"))
    assert texts(items) == [{"a b c e", "h i j d"}]


def test_best_against_random_by_a_reward_model():
    rows = [candidate(p, i, r) for p in "pqrstuvwxy" for i, r in enumerate(["1", "3", "2"])]
    items, _ = pair_up(rows, Sampling(rule="best_random"), lambda gs: [float(g.response) for g in gs])
    assert all("3" in pair for pair in texts(items))
    assert {frozenset(pair) for pair in texts(items)} == {frozenset("31"), frozenset("32")}
    assert {item.a == "3" for item in items} == {True, False}


def test_bad_settings_are_told(policy, tmp_path):
    with pytest.raises(InputError, match="-k 1 gives no pair"):
        Sampling(k=1)
    with pytest.raises(InputError, match="--temperature needs numbers above 0"):
        Sampling(temperatures=(0.7, 0.0))
    with pytest.raises(InputError, match="--top-p 1.5"):
        Sampling(top_p=1.5)
    with pytest.raises(InputError, match="--rule best is not known"):
        Sampling(rule="best")
    with pytest.raises(InputError, match="no prompt leaves room for 300 tokens in the model's context of 256"):
        collect(policy, "m", PROMPTS, Sampling(max_new_tokens=300), tmp_path, {})


def test_a_model_that_says_nothing_is_told(policy, tmp_path, monkeypatch):
    def empty(policy, prompts, **settings):
        return [module_sample(p) for p in prompts]

    from alignment_bench.models.sampler import Sample

    def module_sample(prompt):
        return Sample(prompt, (1,), True)  # EOS alone

    monkeypatch.setattr(module, "sample", empty)
    with pytest.raises(InputError, match="m@1 gives only empty responses .*dropped empty: 18"):
        collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path, {})


def test_two_collections_at_once_in_one_folder_are_refused(policy, tmp_path):
    from alignment_bench.preferences.labels import locked

    with locked(tmp_path, "collect"), pytest.raises(InputError, match="another process is at work"):
        collect(policy, "m", PROMPTS, SETTINGS, tmp_path, {})


def test_damaged_candidates_are_told_and_left_alone(policy, tmp_path):
    collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path, {})
    path = tmp_path / "candidates.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:9], *lines[4:]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match="candidates.jsonl, line 4: not a whole JSON object"):
        collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path, {})
    assert path.read_bytes() == before
    (tmp_path / "collection.json").write_text('{"k": 3')
    with pytest.raises(InputError, match="collection.json is not valid JSON"):
        collect(policy, "m@1", PROMPTS, SETTINGS, tmp_path, {})


def test_prompts_come_from_any_rows_that_have_them(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        {"prompt": "one", "prompt_source": "web"},
        {"prompt": [{"role": "user", "content": "one"}]},
        {"chosen": "\n\nHuman: two\n\nAssistant: x", "rejected": "\n\nHuman: two\n\nAssistant: y"},
        {"prompt": ""},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found, dropped = read_prompts(str(path))
    assert [(m[-1]["content"], s) for m, s in found] == [("one", "web"), ("two", str(path))]
    assert dropped == {"the same prompt again": 1, "prompt is empty": 1}


def test_a_response_ends_with_its_first_sentence_and_unfinished_ones_are_dropped(policy, tmp_path, monkeypatch):
    """Of three responses to a prompt one has an end and goes on, one ended by itself, one did neither."""
    said = [("It is. And", False), ("Yes", True), ("No, it", False)]

    def generations(policy, samples):
        draw = len(seen) // len(samples)
        seen.extend(samples)
        return [Generation(s.prompt.id, s.prompt.messages, said[draw][0], 9, said[draw][1]) for s in samples]

    seen = []
    monkeypatch.setattr(module, "to_generations", generations)
    settings = replace(SETTINGS, stop="sentence", drop_unfinished=True)
    counts = collect(policy, "m@1", PROMPTS, settings, tmp_path, {})
    assert (counts["sampled"], counts["dropped unfinished"], counts["pairs"]) == (18, 6, 6)
    rows = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text().splitlines()]
    kept = {row["response"]: (row["length"], row["finished"]) for row in rows}
    ids = len(encode_response(policy.tokenizer, "It is."))
    assert kept == {"It is.": (ids, True), "Yes": (9, True), "No, it": (9, False)}
    assert all(
        {item.a, item.b} == {"It is.", "Yes"} and not item.a_cut and not item.b_cut for item in read_items(tmp_path)
    )


def test_pairs_within_a_margin_of_the_reward_are_left_out():
    """Rewards 0, 1 and 3 give differences of 1, 2 and 3."""
    rows = [candidate("p", draw, "x" * length) for draw, length in enumerate((1, 2, 4))]
    settings = Sampling(rule="all", margin=2.0)
    items, counts = pair_up(rows, settings, lambda generations: [len(g.response) - 1.0 for g in generations])
    assert sorted(map(sorted, texts(items))) == [["x", "xxxx"], ["xx", "xxxx"]]
    assert counts["pairs within the margin"] == 1


@pytest.mark.parametrize(
    ("changes", "told"), [({"margin": 0.5}, "--margin 0.5"), ({"rule": "best_random"}, "--rule best_random")]
)
def test_what_needs_a_reward_says_so(policy, tmp_path, changes, told):
    with pytest.raises(InputError, match=f"{told} needs a reward; give a model with --reward-model"):
        collect(policy, "m@1", PROMPTS, replace(SETTINGS, **changes), tmp_path, {})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"stop": "word"}, "--stop word is not known; give eos or sentence"), ({"margin": -1.0}, "--margin -1.0")],
)
def test_an_end_and_a_margin_that_are_none(changes, told):
    with pytest.raises(InputError, match=told):
        replace(SETTINGS, **changes)
