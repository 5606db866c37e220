"""Labelling: the rows, what simulated people prefer and how strongly they are biased, and that no answer is lost."""

import errno
import json
import math
import os

import pytest
from scipy.stats import binom

from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge import Judge
from alignment_bench.models.checkpoint import open_network
from alignment_bench.preferences import labellers as module
from alignment_bench.preferences import labels
from alignment_bench.preferences.labellers import (
    JudgeLabeller,
    RewardModelLabeller,
    SimulatedPerson,
    Verdict,
    label_all,
)
from alignment_bench.preferences.labels import Item, append, check_name, label_path, make_label, read_labels
from alignment_bench.preferences.read import read_preferences


def item(i, a, b, **more):
    return Item(f"i{i}", ({"role": "user", "content": f"question {i}"},), a, b, "m@1", "m@2", "web", **more)


def write_items(folder, items):
    append(folder / "items.jsonl", items)
    return folder


@pytest.fixture
def gold(tmp_path, monkeypatch):
    """A true reward: the number of stars in a response."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "stars_reward.py").write_text("def stars(prompt, text): return {'reward': text.count('*')}\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    return "stars_reward:stars"


def within(successes, n, p):
    """True if a count lies in the central 99.99% of the binomial distribution."""
    low, high = binom.interval(0.9999, n, p)
    return low <= successes <= high


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_rows_have_the_stated_fields(tmp_path, gold):
    write_items(tmp_path, [item(0, "x *", "y"), item(1, "x", "y *")])
    label_all(tmp_path, SimulatedPerson("ann", gold, sharpness=500.0), "ann")
    rows = [json.loads(line) for line in label_path(tmp_path, "ann").read_text().splitlines()]
    assert set(rows[0]) == {
        "item", "prompt", "chosen", "rejected", "labeler_id", "timestamp", "reasoning", "model_version", "tie",
        "answer", "shown", "strength", "prompt_source", "chosen_cut", "rejected_cut",
    }  # fmt: skip
    assert [(r["chosen"], r["rejected"], r["answer"]) for r in rows] == [("x *", "y", "a"), ("y *", "x", "b")]
    assert [r["model_version"] for r in rows] == ["m@1 | m@2", "m@2 | m@1"]
    assert rows[0]["labeler_id"] == "ann" and rows[0]["timestamp"].endswith("+00:00") and not rows[0]["tie"]
    assert "true reward a 1.000, b 0.000" in rows[0]["reasoning"]
    found = read_preferences(str(tmp_path / "labels"))
    assert [(r.chosen, r.labeler_id) for r in found] == [("x *", "ann"), ("y *", "ann")]


N = 4000


def answers(person, a, b):
    """Share of items on which a person prefers a, and preferred what was shown first."""
    items = [item(i, a, b) for i in range(N)]
    verdicts = list(person.label(items))
    return sum(v.answer == "a" for v in verdicts), sum(v.answer == v.shown[0] for v in verdicts)


def test_noise_is_bradley_terry(gold):
    a, first = answers(SimulatedPerson("x", gold, sharpness=0.8), "q **", "q *")
    assert within(a, N, sigmoid(0.8))
    assert within(first, N, 0.5)  # order is drawn, and matters to nobody here
    items = [item(i, "q", "p") for i in range(50)]
    x, again, y = (list(SimulatedPerson(name, gold).label(items)) for name in "xxy")
    assert x == again and x != y  # a person is the same every time, another person draws anew


@pytest.mark.parametrize(
    "bias, a, b, margin",
    [
        ({"length": 0.5}, "w " * 12, "w w", 0.5 * (12 - 2) / 10),
        ({"politeness": 0.7}, "Thank you for asking.", "one two three four.", 0.7),
        ({"length": -0.5}, "w " * 12, "w w", -0.5),
    ],
)  # fmt: skip
def test_biases_of_the_response_have_their_stated_size(gold, bias, a, b, margin):
    """Equal true rewards, so only the bias speaks: P(a) = sigmoid(sharpness * margin)."""
    found, _ = answers(SimulatedPerson("x", gold, sharpness=2.0, **bias), a, b)
    assert within(found, N, sigmoid(2.0 * margin))
    plain, _ = answers(SimulatedPerson("x", gold, sharpness=2.0), a, b)
    assert within(plain, N, 0.5)


def test_position_bias_has_its_stated_size(gold):
    found, first = answers(SimulatedPerson("x", gold, sharpness=2.0, position=0.3), "p", "q")
    assert within(first, N, sigmoid(0.6)) and within(found, N, 0.5)


def test_inattention_has_its_stated_size(gold):
    """Rewards far apart, so an attentive person never errs: P(a) = 1 - inattention / 2."""
    found, _ = answers(SimulatedPerson("x", gold, sharpness=500.0, inattention=0.3), "**", "q")
    assert within(found, N, 1 - 0.15)


def test_a_reward_model_prefers_what_it_scores_higher(tiny, full, tmp_path):
    from alignment_bench.models.reward_model import RewardModel
    from alignment_bench.results.records import Generation

    network = open_network(tiny.path, "score", full, trainable=True, head_std=0.5)
    network.save(tmp_path / "rm", tiny.tokenizer())
    texts = [("good day", "no"), ("no", "good day"), ("I see 5", "you do not"), ("you do not", "I see 5")] * 2
    items = [item(i, *pair) for i, pair in enumerate(texts)] + [item(9, "same", "same")]
    found = list(RewardModelLabeller("rm", str(tmp_path / "rm"), full).label(items))
    model = RewardModel.open(tmp_path / "rm", full)
    for one, verdict in zip(items[:8], found[:8], strict=True):  # one at a time instead of all together
        a, b = (model([Generation("", one.prompt, text, 0, True)])[0] for text in (one.a, one.b))
        assert verdict.answer == ("a" if a > b else "b")
    assert found[8].answer == "tie"
    assert {v.answer for v in found[:8]} == {"a", "b"}


def test_a_judge_ties_by_order_and_skips_without_an_answer(monkeypatch):
    import alignment_bench.evaluators.judge as judge_module

    class Scripted:
        def ask(self, prompts):
            # two questions an item: a first, then b first
            return ["A", "B", "B", "A", "A", "A", None, "A"]

    monkeypatch.setattr(judge_module, "open_asker", lambda judge, model: Scripted())
    items = [item(i, "x", "y") for i in range(4)]
    found = [v.answer for v in JudgeLabeller("j", Judge("none")).label(items)]
    assert found == ["a", "b", "tie", "skip"]


# No answer is lost


class Alphabetical:
    """Prefers the text that comes first in the alphabet; counts what it is asked."""

    asked = 0

    def label(self, items):
        type(self).asked += len(items)
        for one in items:
            yield Verdict("a" if one.a < one.b else "b", "ab", "")


@pytest.fixture
def alphabetical(monkeypatch):
    from dataclasses import dataclass

    monkeypatch.setattr(module, "CHUNK", 4)

    @dataclass(frozen=True)
    class Fresh(Alphabetical):
        setting: int = 0

    return Fresh


def test_labelling_goes_on_where_it_was_cut(tmp_path, alphabetical):
    write_items(tmp_path, [item(i, "p", "q" if i % 2 else "o") for i in range(10)])
    label_all(tmp_path, alphabetical(), "x")
    path = label_path(tmp_path, "x")
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:6]) + "\n" + whole[6][:30])
    alphabetical.asked = 0
    assert label_all(tmp_path, alphabetical(), "x") == {"a": 5, "b": 5}
    assert alphabetical.asked == 4
    again = path.read_text().splitlines()
    assert again[:6] == whole[:6] and [json.loads(r)["item"] for r in again] == [f"i{i}" for i in range(10)]
    assert path.with_name("x.jsonl.torn").read_text() == whole[6][:30] + "\n"
    with pytest.raises(InputError, match="x has labelled .* with other settings"):
        label_all(tmp_path, alphabetical(setting=1), "x")


def test_a_file_cut_in_its_middle_is_told_with_the_line_and_left_alone(tmp_path, alphabetical):
    write_items(tmp_path, [item(i, "p", "q") for i in range(5)])
    label_all(tmp_path, alphabetical(), "x")
    path = label_path(tmp_path, "x")
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:25]
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match="x.jsonl, line 3: not a whole JSON object"):
        label_all(tmp_path, alphabetical(), "x")
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="x.jsonl, line 3: not valid JSON"):
        list(read_preferences(str(tmp_path / "labels")))


def test_a_full_disk_keeps_what_was_written(tmp_path, alphabetical, monkeypatch):
    write_items(tmp_path, [item(i, "p", "q") for i in range(8)])
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    path = label_path(tmp_path, "x")
    append(tmp_path / "other.jsonl", [{"x": 1}])
    worker = alphabetical()
    module._remember(tmp_path, worker, "x")
    monkeypatch.setattr(module, "_remember", lambda *given: None)
    monkeypatch.setattr(labels.os, "fsync", full)
    with pytest.raises(InputError, match="x.jsonl cannot be written \\(No space left on device\\)"):
        label_all(tmp_path, worker, "x")
    assert [label.item for label in read_labels(path)] == ["i0", "i1", "i2", "i3"]
    assert label_all(tmp_path, worker, "x") == {"a": 8}


def test_names_are_file_names_without_markup():
    for name in ("Ann", "ann-2", "Zoë M", "reward_model", "a@b.org", "李"):
        assert check_name(name) == name
    for name in ("<b>Ann</b>", "../x", "a/b", "", ".x", "x.", "a" * 65, 'x"', "a\nb", "a\\b"):
        with pytest.raises(InputError, match="the labeller's name"):
            check_name(name)


def test_one_name_is_labelled_by_one_process(tmp_path, alphabetical):
    write_items(tmp_path, [item(0, "p", "q")])
    with labels.locked(tmp_path, "label-x"), pytest.raises(InputError, match="another process is at work"):
        label_all(tmp_path, alphabetical(), "x")


def test_rows_of_another_format_are_told(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(InputError, match="items.jsonl, line 1: the row has no field 'id'; is it of another format"):
        labels.read_items(tmp_path)


def test_ties_and_skips_state_no_preference():
    tie, bad, skip = (make_label(item(0, "p", "q"), answer, "x", "ba") for answer in ("tie", "both_bad", "skip"))
    assert [row.tie for row in (tie, bad, skip)] == [True, True, False]
    assert {(row.chosen, row.rejected, row.shown) for row in (tie, bad, skip)} == {("p", "q", "ba")}
