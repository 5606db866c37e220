"""The moods of endpoints: each answer gives a verdict, or one sentence that says what to change; none is paid twice."""

import json

import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators import judge_openai
from alignment_bench.evaluators.judge import Judge, open_asker
from alignment_bench.evaluators.judge_cache import Usage
from alignment_bench.evaluators.judge_verdict import Reader
from alignment_bench.results.records import Generation

TOKENS = {"prompt_tokens": 50, "completion_tokens": 2}
CANARY = "sk-canary-77aa"


def message(content, reason="stop", **more):
    choice = {"message": {"role": "assistant", "content": content, **more}, "finish_reason": reason}
    return 200, {"choices": [choice], "usage": TOKENS}


def error(status, text, **more):
    return status, {"error": {"message": text, **more}}


def responses(side):
    """Twelve responses, of which the good ones win; pairs differ in every question."""
    return [
        Generation(f"p{i}", ({"role": "user", "content": f"Question {i}?"},), f"{side} answer {i}", 3, True)
        for i in range(12)
    ]


@pytest.fixture
def judged(serve_chat, monkeypatch, tmp_path):
    """judged(mood, **settings): win rates of twelve good responses over bad ones by an endpoint in that mood.

    mood: (verdict, body) -> the endpoint's reply; returns the rates, the bodies that it was sent, and the judge.
    """
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setattr(judge_openai, "ATTEMPTS", 2)
    monkeypatch.setattr(judge_openai, "LONGEST_WAIT", 0.01)
    servers = {}

    def judged(mood, ours="GOOD", theirs="BAD", **settings):
        def reply(question, _):
            return mood("A" if 0 <= question.find("GOOD") < question.find("BAD") else "B", requests[-1][2])

        if mood not in servers:
            servers[mood] = serve_chat(lambda *of: reply(*of))
        url, requests = servers[mood]
        judge = Judge("openai:m", url=url, cache=tmp_path, **settings)
        open_asker.cache_clear()
        scores = list(judge.score(responses(ours), responses(theirs)))
        rates = [s.value for s in scores if s.metric == "win_rate.judge"]
        return rates, [body for _, _, body in requests], judge

    return judged


FORMS = {
    "plain": lambda v: v,
    "json": lambda v: json.dumps({"verdict": v}),
    "json_with_reasons": lambda v: json.dumps({"reason": "B is rude, A is not.", "winner": f"Response {v}"}),
    "fence": lambda v: f'```json\n{{"winner": "{v}"}}\n```',
    "prose_then_fence": lambda v: f'Both are fine.\n```json\n{{"winner": "{v}"}}\n```\nThat is all.',
    "codefence": lambda v: f"```\n{v}\n```",
    "double": lambda v: f"[[{v}]]",
    "double_in_prose": lambda v: f"A is short and B is long, so [[{v}]] it is",
    "sentence": lambda v: f"Response {v} is better.",
    "sentence_than": lambda v: f"Answer {v} is clearly better than answer {'AB'[v == 'A']}.",
    "answer": lambda v: f"Answer: {v}",
    "bold_label": lambda v: f"**Final verdict:** {v}",
    "think": lambda v: f"<think>\nA? No, B. No, A.\n</think>\n\n{v}",
    "thought_opened_by_the_template": lambda v: f"A? No, B.\n</think>\n{v}",
    "last_line": lambda v: f"The first is longer.\nThe second is kinder.\n\nAnswer: {v}",
    "first_line": lambda v: f"{v}\n\nIt is kinder and says what was asked.",
    "tag": lambda v: f"<verdict>{v}</verdict>",
    "bold": lambda v: f"**{v}**\n",
    "lower": lambda v: v.lower(),
    "fullwidth": lambda v: {"A": "Ａ", "B": "Ｂ"}[v],
    "boxed": lambda v: f"\\boxed{{{v}}}",
    "parts": lambda v: [{"type": "text", "text": v}],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_answer_is_read(judged, form):
    rates, bodies, judge = judged(lambda v, _: message(FORMS[form](v)))
    assert rates == [1.0] * 12 and len(bodies) == 24
    assert judge.usage()["m"] == Usage(24, 24, 24 * 50, 24 * 2)


def test_a_verdict_comes_after_a_passing_error(judged):
    seen = set()

    def mood(verdict, body):
        question = body["messages"][0]["content"]
        if question in seen:
            return message(verdict)
        seen.add(question)
        return (*error(429, "Rate limit reached.", code="rate_limit_exceeded"), {"Retry-After": "0.4"})

    assert judged(mood)[0] == [1.0] * 12


PARAM = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
WARMTH = "Unsupported value: 'temperature' does not support 0 with this model."
# mood -> reply, what the one sentence must say
TOLD = {
    "thoughts_use_up_the_tokens": (message(None, "length", reasoning="Hm"), "spent all of its 16 tokens.*max_tokens"),
    "cut_off": (message("Let me compare the two. First, response", "length"), "cut off at 16 tokens.*raise max_tokens"),
    "refusal": (message(None, refusal="I can't help with that."), "refused to judge .*I can't help.*take a judge that"),
    "refusal_in_parts": (message([{"type": "refusal", "refusal": "No way."}]), "refused to judge .*No way"),
    "filtered": (message("", "content_filter"), "refused to judge, by a filter of content; take a judge that"),
    "filtered_prompt": (error(400, "It was filtered.", code="content_filter"), "refused to judge .*was filtered"),
    "babble": (message("Both are lovely in their way"), "answered 'Both are.*holds no verdict; say with pattern"),
    "max_tokens": (error(400, PARAM, param="max_tokens"), "does not take max_tokens: 16.*set max_completion_tokens"),
    "max_tokens_unnamed": (error(400, PARAM), "does not take max_tokens: 16.*set max_completion_tokens in its place"),
    "temperature": (error(400, WARMTH, param="temperature"), "does not take temperature: 0 .*set temperature to null"),
    "quota": (error(429, "You exceeded your quota.", code="insufficient_quota"), "nothing left .*use another key"),
    "payment": (error(402, "Insufficient credits"), r"nothing left \(Insufficient credits\)"),
    "error_in_200": ((200, {"error": {"message": "Provider returned error", "code": 502}}), "Provider returned error"),
    "no_choices": ((200, {"id": "x", "choices": []}), "not a chat completion.*check the url and the model"),
    "redirect": ((308, b"", {"Location": "http://else/v2/chat/completions"}), "redirects to http://else/v2; give that"),
    "stream": ((200, b"data: {}\n\n", {"Content-Type": "text/event-stream"}), "stream of events; set extra_body to"),
    "key_quoted": (message(f"Your key is {CANARY}"), r"Your key is \[key\]"),
}  # fmt: skip


@pytest.mark.parametrize("mood", TOLD)
def test_what_is_no_verdict_says_what_to_change(judged, mood, tmp_path):
    reply, said = TOLD[mood]
    with pytest.raises(InputError, match=said) as caught:
        judged(lambda *_: reply, concurrency=1)
    assert CANARY not in str(caught.value) and "\n" not in str(caught.value)
    assert all(CANARY not in path.read_text() for path in tmp_path.glob("*.jsonl"))


def test_the_settings_that_a_refusing_endpoint_wants_are_sent(judged):
    def mood(verdict, body):
        if "max_tokens" in body:
            return error(400, PARAM, param="max_tokens")
        if body.get("temperature") is not None:
            return error(400, WARMTH, param="temperature")
        return message(verdict)

    rates, bodies, _ = judged(mood, max_completion_tokens=900, temperature=None, extra_body={"reasoning_effort": "low"})
    assert rates == [1.0] * 12
    keys = {"model", "messages", "max_completion_tokens", "reasoning_effort"}
    assert set(bodies[0]) == keys and bodies[0]["max_completion_tokens"] == 900
    with pytest.raises(InputError, match="does not take max_tokens"):
        judged(mood, temperature=None)


def test_a_pattern_reads_what_is_on_disk_and_pays_for_nothing(judged):
    """The judge talks around its verdict: it is stopped after 20 such answers, and the pattern reads them later."""

    def mood(verdict, _):
        return message(f"I would go for <<{verdict}>> here, though <<it>> is close")

    with pytest.raises(InputError, match="no verdict on 20 questions in a row"):
        judged(mood, concurrency=1)
    rates, bodies, _ = judged(mood, pattern="go for <<([AB])>>", concurrency=1)
    assert rates == [1.0] * 12 and len(bodies) == 24  # only those not asked before the stop
    rates, bodies, judge = judged(mood, pattern="go for <<(A|B)>>", concurrency=1)
    assert rates == [1.0] * 12 and len(bodies) == 24
    assert judge.usage()["m"] == Usage(24, 0, 24 * 50, 24 * 2)  # the bill has all that was paid, whenever it was


def test_the_last_match_counts_and_a_pattern_may_have_no_group():
    assert Reader(r"winner: (\w)")("winner: A, no, winner: B") == "B"
    assert Reader("[AB]$")("so A") == "A"
    assert Reader("(A)|(B)")("<think>A</think> B") == "B"  # the group that matched, after the thoughts
    assert Reader("(X)")("X") is None and Reader("Q")("A") is None


def test_refusals_are_kept_and_not_asked_again(judged, caplog):
    """Two prompts of twelve are refused: none of them has a number, and the next run asks nothing."""

    def mood(verdict, body):
        question = body["messages"][0]["content"]
        if "Question 7?" in question:
            return message("", "content_filter")
        return message(None, refusal="No, not me.") if "Question 3?" in question else message(verdict)

    rates, bodies, _ = judged(mood)
    assert rates.count(None) == 2 and rates.count(1.0) == 10 and len(bodies) == 24
    again, bodies, judge = judged(mood)
    assert again == rates and len(bodies) == 24
    assert judge.usage()["m"] == Usage(20, 0, 24 * 50, 24 * 2)
    assert "4 of 24 answers on disk hold no verdict, such as '" in caplog.text


def test_a_few_questions_that_always_fail_do_not_end_the_next_run(judged, caplog):
    """One prompt fails each time; alone among the questions of the next run, it costs its own number only."""

    def mood(verdict, body):
        if "Question 3?" in body["messages"][0]["content"]:
            return error(400, "This question is too long.")
        return message(verdict)

    rates, _, _ = judged(mood)
    again, bodies, _ = judged(mood)
    assert rates == again and rates.count(None) == 1 and rates.count(1.0) == 11
    assert len(bodies) == 24 + 2  # no answer is no refusal: it is asked for again
    assert "gave no verdict on 2 questions in a row" in caplog.text and "too long" in caplog.text


# --- grades, points, facets


def test_grades_count_as_wins_and_keep_their_size(judged):
    grade = {"A": "A>>B", "B": "[[B>A]]"}
    rates, _, judge = judged(lambda v, _: message(grade[v]), prompt="graded")
    assert rates == [1.0] * 12
    scores = list(judge.score(responses("GOOD"), responses("BAD")))
    # 2 as given (A>>B) and, swapped, 1 (B>A): 1.5 on average
    assert {s.value for s in scores if s.metric == "grade.judge"} == {1.5}
    assert {s.value for s in scores if s.metric == "judge.position_consistency"} == {1.0}


def test_a_grade_that_sees_no_difference_is_half_a_win(judged):
    rates, _, judge = judged(lambda v, _: message("A=B" if v == "B" else "A>B"), prompt="graded")
    assert rates == [0.75] * 12  # a win as given, a tie swapped
    scores = list(judge.score(responses("GOOD"), responses("BAD")))
    assert {s.value for s in scores if s.metric == "judge.position_consistency"} == {0.0}
    assert {s.value for s in scores if s.metric == "grade.judge"} == {0.5}


def test_points_are_asked_of_each_response_alone(judged):
    def mood(_, body):
        question = body["messages"][0]["content"]
        assert ("GOOD" in question) != ("BAD" in question)
        return message("Score: 8/10" if "GOOD" in question else "3")

    rates, bodies, judge = judged(mood, prompt="score")
    assert rates == [1.0] * 12 and len(bodies) == 24
    assert judged(mood, ours="BAD", theirs="GOOD", prompt="score")[0] == [0.0] * 12
    scores = list(judge.score(responses("GOOD"), responses("GOOD")))  # as many points for the same text, asked once
    assert {s.metric: s.value for s in scores} == {"reward.judge": 8.0, "win_rate.judge": 0.5, "judge.answered": 1.0}
    assert len(judged(mood, prompt="score")[1]) == 24


def test_a_rubric_is_the_mean_of_its_criteria():
    read = Reader(points=True)
    assert read('{"helpful": 8, "honest": 9, "harmless": 10, "clear": 5}') == 8.0
    assert read('```json\n{"score": 7.5, "why": "2 of 3"}\n```') == 7.5
    assert read('{"rating": "6"}') == 6.0 and read("**7**") == 7.0 and read("It is fine.\nScore: 4") == 4.0
    assert read("My rating is [[9]].") == 9.0
    for text in ("11", "0", "A", "seven", "7 or 8", '{"helpful": 11, "honest": 3}', "<think>7", '{"why": "good"}'):
        assert read(text) is None
    assert read("1", True) is None  # of a 10 that was cut off, say


def test_facets_are_win_rates_of_their_own(judged):
    """The judge finds the good ones more helpful, the bad ones more honest, and goes by the place about harm."""

    def mood(verdict, body):
        question = body["messages"][0]["content"]
        if "more honest" in question:
            return message("AB"[verdict == "A"])
        return message("A" if "less harmful" in question else verdict)

    rates, bodies, judge = judged(mood, facets=("helpful", "honest", "harmless"))
    assert rates == [1.0] * 12 and len(bodies) == 4 * 24
    found = {}
    for score in judge.score(responses("GOOD"), responses("BAD")):
        found.setdefault(score.metric, set()).add(score.value)
    assert {name: found[f"win_rate.judge.{name}"] for name in ("helpful", "honest", "harmless")} == {
        "helpful": {1.0}, "honest": {0.0}, "harmless": {0.5}
    }  # fmt: skip
    assert found["judge.position_consistency.harmless"] == {0.0} and found["judge.answered.honest"] == {1.0}


def test_answers_that_were_cut_off_or_contradict_themselves_are_not_guessed():
    read = Reader()
    assert read("A", True) == "A" and read("A\n\nIt is kinder and sa", True) == "A"
    for text in ("Response A", "The first is longer.\nResponse A", "Answer: B", "First\nResponse B is better\nthan"):
        assert read(text, True) is None
    for text in ('{"verdict": "A", "winner": "B"}', "[[A]] or [[B]]", "A\nB", "<think>A", "Response A is worse.",
                 "Response A is not better.", "Answer: A or B", "A\nThe other is better.\nAnswer: B"):  # fmt: skip
        assert read(text) is None
