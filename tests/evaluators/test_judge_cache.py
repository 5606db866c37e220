"""Verdicts on disk, panels, repeated questions, the shared prefix, and what a judge costs."""

import json
from dataclasses import replace

import pytest
import torch

from alignment_bench.benchmarks.judging.bill import bill, estimate, most
from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge import Judge, open_asker
from alignment_bench.evaluators.judge_cache import Answer, RememberingAsker, Usage
from alignment_bench.evaluators.judge_compare import ask_again, compare, pool
from alignment_bench.evaluators.judge_local import LocalAsker
from alignment_bench.evaluators.judge_question import read_template
from alignment_bench.results.records import Generation, Score

COMPACT = read_template("compact")


def answer(prompt_id, response):
    return Generation(prompt_id, ({"role": "user", "content": "q"},), response, 3, True)


class Scripted:
    """Answers by a function of the question and counts what it was asked; keeps answers as an endpoint does."""

    def __init__(self, decide, tokens=(0, 0)):
        self.decide, self.asked, self.tokens = decide, [], tokens

    def ask(self, prompts, keep=None):
        found = []
        for place, prompt in enumerate(prompts):
            self.asked.append(prompt)
            found.append(self.decide(prompt))
            if keep and found[-1]:
                keep(place, Answer(found[-1], *self.tokens))
        return found


def remembering(scripted, folder, identity=None):
    return RememberingAsker(lambda: scripted, folder, identity or {"model": "m"})


def test_an_answered_question_is_never_asked_again(tmp_path):
    first = Scripted(lambda q: "A" if q == "one" else "B", tokens=(7, 1))
    asker = remembering(first, tmp_path)
    assert asker.ask(["one", "two", "one"]) == ["A", "B", "A"]
    assert first.asked == ["one", "two"]
    again = RememberingAsker(lambda: pytest.fail("opened although all is on disk"), tmp_path, {"model": "m"})
    assert again.ask(["two", "one"]) == ["B", "A"]
    assert again.usage() == Usage(verdicts=2, asked=0, tokens_in=14, tokens_out=2)
    assert again.unknown(["one", "three", "three"]) == ["three"]


def test_offline_reads_and_counts_but_asks_nothing(tmp_path):
    scripted = Scripted(lambda q: "A", tokens=(5, 1))
    asker = remembering(scripted, tmp_path)
    asker.ask(["one", "two"])
    reader = asker.offline()
    assert reader.ask(["one", "three"]) == ["A", None] and scripted.asked == ["one", "two"]
    assert (reader.usage().verdicts, reader.usage().tokens_in) == (1, 5)
    assert asker.usage() == Usage(verdicts=2, asked=2, tokens_in=10, tokens_out=2)


def test_another_judge_has_answers_of_its_own(tmp_path):
    remembering(Scripted(lambda q: "A"), tmp_path, {"model": "m"}).ask(["one"])
    other = Scripted(lambda q: "B")
    assert remembering(other, tmp_path, {"model": "m", "temperature": 1}).ask(["one"]) == ["B"]
    assert other.asked == ["one"]


def test_failures_are_asked_again(tmp_path):
    assert remembering(Scripted(lambda q: None), tmp_path).ask(["one"]) == [None]
    assert remembering(Scripted(lambda q: "B"), tmp_path).ask(["one"]) == ["B"]


def test_malformed_answers_are_paid_but_no_answers(tmp_path):
    """Two of 7 + 16 tokens, then a verdict of 7 + 1: all three are in the bill, now and when it is read again."""

    class Endpoint:
        replies = iter([None, None, "A"])

        def ask(self, prompts, keep):
            verdict = next(self.replies)
            keep(0, Answer(verdict, 7, 1 if verdict else 16))
            return [verdict]

    for expected in (None, None, "A"):
        asker = remembering(Endpoint(), tmp_path)
        assert asker.ask(["one"]) == [expected]
    assert asker.usage() == Usage(verdicts=1, asked=1, tokens_in=21, tokens_out=33)
    again = remembering(Scripted(lambda q: pytest.fail("asked")), tmp_path)
    assert again.ask(["one"]) == ["A"] and again.usage() == Usage(1, 0, 21, 33)


def test_what_was_answered_before_a_crash_is_kept(tmp_path):
    def decide(question):
        if question == "three":
            raise InputError("the endpoint died")
        return "A"

    with pytest.raises(InputError):
        remembering(Scripted(decide), tmp_path).ask(["one", "two", "three"])
    second = Scripted(lambda q: "B")
    assert remembering(second, tmp_path).ask(["one", "two", "three"]) == ["A", "A", "B"]
    assert second.asked == ["three"]


def test_a_torn_or_foreign_line_is_asked_again_and_stays(tmp_path):
    remembering(Scripted(lambda q: "A"), tmp_path).ask(["one"])
    [path] = tmp_path.glob("*.jsonl")
    good = path.read_bytes()
    path.write_bytes(good + b'{"question": "x", "answer": "C", "in": 0, "out": 0}\n[1]\n\xff\n{"question": "to')
    second = Scripted(lambda q: "B")
    assert remembering(second, tmp_path).ask(["one", "two"]) == ["A", "B"]
    third = remembering(Scripted(lambda q: None), tmp_path)
    assert third.ask(["one", "two"]) == ["A", "B"]  # the line after the torn one begins on a line of its own
    assert path.read_bytes().startswith(good)


def test_repeats_are_questions_of_their_own(tmp_path):
    replies = iter("AABAB")
    scripted = Scripted(lambda q: next(replies))
    asker = remembering(scripted, tmp_path)
    pairs = [(answer("p1", "x"), answer("p1", "y")), (answer("p2", "x"), answer("p2", "z"))]
    list(compare(asker, COMPACT, pairs))  # answers: p1 A, A; p2 B, A
    scores = ask_again(asker, COMPACT, pairs[:1], repeats=5)
    assert scores == [Score("judge.self_consistency", "p1", 0.0)]  # A, then B
    assert len(scripted.asked) == 5
    assert ask_again(asker, COMPACT, pairs[:1], repeats=5) == scores and len(scripted.asked) == 5
    assert ask_again(asker, COMPACT, pairs, repeats=0) == []


# --- panels


def scores_of(outcomes):
    found = []
    for prompt_id, outcome in outcomes.items():
        found.append(Score("win_rate.judge", prompt_id, outcome))
        found.append(Score("judge.answered", prompt_id, float(outcome is not None)))
        if outcome is not None:
            found.append(Score("judge.position_consistency", prompt_id, float(outcome != 0.5)))
    return found


def test_a_panel_is_the_mean_of_its_members_and_shows_their_agreement():
    members = {
        "x": scores_of({"p1": 1.0, "p2": 1.0, "p3": None}),
        "y": scores_of({"p1": 1.0, "p2": 0.0, "p3": 0.0}),
        "z": scores_of({"p1": 1.0, "p2": 0.5, "p3": 0.0}),
    }
    found = {(s.metric, s.prompt_id): s.value for s in pool(members, dict.fromkeys(members, 1.0))}
    assert found["win_rate.judge", "p1"] == 1.0 and found["judge.agreement", "p1"] == 1.0
    assert found["win_rate.judge", "p2"] == 0.5 and found["judge.agreement", "p2"] == 0.0
    assert found["win_rate.judge", "p3"] is None  # one member failed: neither a tie nor a loss
    assert found["judge.agreement", "p3"] == 1.0
    assert (found["judge.answered", "p2"], found["judge.answered", "p3"]) == (1.0, 0.0)
    weighed = {(s.metric, s.prompt_id): s.value for s in pool(members, {"x": 2.0, "y": 1.0, "z": 1.0})}
    assert weighed["win_rate.judge", "p2"] == (2 * 1.0 + 0.0 + 0.5) / 4
    assert found["win_rate.judge.y", "p2"] == 0.0 and ("judge.position_consistency.x", "p3") not in found


def test_two_members_of_one_name_are_refused():
    with pytest.raises(InputError, match="two members of the panel are called 'm'"):
        Judge(("a/m", "b/m"))


# --- cost


def test_the_estimate_and_the_bill_in_money():
    judge = Judge("openai:m", price=(2.0, 10.0), limit=50, repeats=10)
    # 400 characters are about 100 tokens, and 10 for the template; a verdict is about one token out
    assert estimate(judge, ["x" * 400] * 1000) == "1000 questions, about 110,000 tokens in, about $0.23"
    # (2 * 50 + 10) questions a cell, 3 cells, 300 + 10 tokens each; 16 tokens out at the most
    # 330 * 310 = 102,300 in, 330 * 16 = 5,280 out: 0.2046 + 0.0528 dollars
    assert most(judge, rows=1, seeds=3, prompts=200, question_tokens=300) == (
        "at most 330 questions, 102,300 tokens in, at most $0.26"
    )
    assert most(Judge("some/folder"), 3, 1, 200, 300) is None
    # 4 rows are 6 pairs: 6 * 2 orders * 20 prompts * 3 seeds; (2 * 50 + 10) * 4 rows * 3 seeds beside them
    paired = most(replace(judge, versus=20), rows=4, seeds=3, prompts=200, question_tokens=300)
    assert paired.startswith("at most 2,040 questions (720 of them on rows against each other, see --judge-pairs), ")
    stops = most(replace(judge, until_decided=0.01, repeats=0), rows=4, seeds=3, prompts=200, question_tokens=300)
    assert stops.startswith("at most 1,200 questions, ")  # with SFT alone
    # three facets ask as much again each: 4 * 2 * 50 + 10 a cell; each response is rated once, SFT's too
    faceted = replace(judge, versus=0, facets=("helpful", "honest", "harmless"))
    assert most(faceted, 1, 1, 200, 300).startswith("at most 410 questions, ")
    assert most(replace(judge, prompt="score"), 4, 3, 200, 300).startswith(
        "at most 870 questions, "
    )  # 3 * (5*50 + 4*10)
    said = bill(judge, Usage(verdicts=100, asked=40, tokens_in=1_000_000, tokens_out=100_000))
    assert said == "40 questions asked, 100 verdicts used, which took 1,000,000 tokens in and 100,000 out, in all $3.00"


# --- the shared prefix of a local judge


@pytest.fixture(scope="module")
def local(tmp_path_factory, make_tiny):
    return make_tiny(tmp_path_factory.mktemp("judge"), std=0.6)


def test_a_shared_prefix_changes_no_verdict(local, monkeypatch):
    """The prefix is computed once; the margins are those of whole questions, one by one."""
    asker = LocalAsker(str(local))
    questions = [f"the same long beginning of every question; {end}" for end in ("a", "bb", "c" * 40, "dd?", "e")]
    alone = [asker.margins([question])[0] for question in questions]  # a single question shares nothing
    lengths = []
    backbone = getattr(asker.model, asker.model.base_model_prefix)
    forward = backbone.forward
    monkeypatch.setattr(
        backbone, "forward", lambda *a, **k: lengths.append(tuple(k["input_ids"].shape)) or forward(*a, **k)
    )
    assert asker.margins(questions) == pytest.approx(alone, rel=1e-4, abs=1e-4)
    prefix = lengths[0]
    rows = [asker.encode(question) for question in questions]
    assert prefix[0] == 1 and prefix[1] >= len("the same long beginning of every question; ")
    assert max(columns for _, columns in lengths[1:]) == max(map(len, rows)) - prefix[1]
    kept = {}
    asker.margins(questions, keep=lambda place, given: kept.update({place: given.verdict}))
    assert kept == {i: "A" if margin >= 0 else "B" for i, margin in enumerate(alone)}


def test_identical_questions_keep_a_token_of_their_own(local):
    asker = LocalAsker(str(local))
    question = "one and the same question, twice over"
    assert asker.margins([question] * 2) == pytest.approx(asker.margins([question]) * 2, rel=1e-4, abs=1e-4)


def test_a_local_judge_is_not_even_loaded_for_what_is_on_disk(local, tmp_path, monkeypatch):
    judge = Judge(str(local), prompt="compact", cache=tmp_path)
    pair = [answer("p1", "kind")], [answer("p1", "rude")]
    open_asker.cache_clear()
    scores = list(judge.score(*pair))
    open_asker.cache_clear()
    monkeypatch.setattr(LocalAsker, "__init__", lambda *_: pytest.fail("loaded"))
    assert list(judge.score(*pair)) == scores and judge.usage()[local.name].asked == 0
    weights = local / "model.safetensors"
    before = weights.read_bytes()
    try:  # other weights are another judge
        weights.write_bytes(before[:-4] + b"\x00\x00\x00\x00")
        open_asker.cache_clear()
        with pytest.raises(pytest.fail.Exception):
            list(judge.score(*pair))
    finally:
        weights.write_bytes(before)
        open_asker.cache_clear()
    rows = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert {row["answer"] for row in rows if "answer" in row} <= {"A", "B"} and torch.is_grad_enabled()
