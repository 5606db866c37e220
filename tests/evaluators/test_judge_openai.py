"""The judge behind an OpenAI-compatible endpoint: a scripted server, its faults, and keys that reach no text."""

import json
import socketserver
import threading
import time

import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators import judge_openai
from alignment_bench.evaluators.judge import Judge
from alignment_bench.evaluators.judge_openai import OpenAIAsker
from alignment_bench.results.records import Generation, Score

CANARY = "sk-canary-4f1d9b"


@pytest.mark.parametrize("url", [f"http://user:{CANARY}@host/v1", f"http://host/v1?key={CANARY}"])
def test_credentials_in_the_url_are_refused_unquoted(url):
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        Judge("openai:m", url=url)
    assert CANARY not in str(caught.value)


def completion(content) -> tuple[int, dict]:
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.fixture
def endpoint(serve_chat, monkeypatch):
    """serve_chat, and a key for it."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    return serve_chat


def asker_for(url, **settings) -> OpenAIAsker:
    given = {"concurrency": 4, "timeout": 5.0, "first_wait": 0.01, "settings": {"temperature": 0, "max_tokens": 16}}
    return OpenAIAsker("tiny-judge", url, **{**given, **settings})


def test_the_request_and_the_order_of_answers(endpoint):
    url, requests = endpoint(lambda question, _: completion("A" if int(question) % 2 else "**B**"))
    assert asker_for(url + "/").ask([str(i) for i in range(12)]) == ["B", "A"] * 6
    path, headers, body = requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {CANARY}"
    assert body["model"] == "tiny-judge" and body["temperature"] == 0
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert len(requests) == 12


def test_a_local_endpoint_needs_no_key_and_openai_does(endpoint, monkeypatch):
    url, requests = endpoint(lambda *_: completion("A"))
    monkeypatch.delenv("OPENAI_API_KEY")
    assert asker_for(url).ask(["q"]) == ["A"]
    assert "Authorization" not in requests[0][1]
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        asker_for(None).ask(["q"])


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_passing_faults_are_tried_again(endpoint, status):
    url, requests = endpoint(lambda _, attempt: completion("B") if attempt == 3 else (status, {}))
    assert asker_for(url).ask(["q1", "q2"]) == ["B", "B"]
    assert len(requests) == 6


def test_the_endpoints_own_waiting_time_is_kept(endpoint, monkeypatch):
    url, _ = endpoint(lambda _, attempt: completion("A") if attempt == 2 else (429, {}, {"Retry-After": "3600"}))
    monkeypatch.setattr(judge_openai, "LONGEST_WAIT", 0.5)
    times = []
    monkeypatch.setattr(judge_openai.tenacity, "sleep_using_event", lambda event: times.append)
    assert asker_for(url).ask(["q"]) == ["A"]
    assert times == [0.5]


def test_a_timeout_is_tried_again(endpoint):
    release = threading.Event()

    def reply(_, attempt):
        if attempt == 1:
            release.wait(5)
        return completion("A")

    url, _ = endpoint(reply)
    assert asker_for(url, timeout=0.3).ask(["q"]) == ["A"]
    release.set()


@pytest.mark.parametrize("part", ["head", "body"])
def test_an_endpoint_that_drips_for_ever_is_cut_off(monkeypatch, part):
    """Each byte comes well within the timeout, the whole never does; the second request is answered."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    done, asked = threading.Event(), []
    whole = json.dumps(completion("A")[1]).encode()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            asked.append(time.monotonic())
            if len(asked) > 1:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(whole), whole))
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 9999\r\n\r\n" if part == "body" else b"X-A: "))
            while not done.wait(0.05):
                self.wfile.write(b"a")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        assert asker_for(url, timeout=0.5).ask(["q"]) == ["A"]
        done.set()
        server.shutdown()
    assert 0.45 < asked[1] - asked[0] < 3


BROKEN = [
    (200, b"<html>hello</html>"),
    (200, b"\xff\xfe"),
    (200, {"choices": []}),
    (200, [1]),
    (200, {"error": "busy"}),
    (400, {"error": {"message": "too long"}}),
    (302, b"", {"Location": "http://127.0.0.1:1/"}),
    completion(None),
    completion("I prefer A because"),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_answer_costs_its_own_question_only(endpoint, broken):
    url, requests = endpoint(lambda question, _: broken if question == "bad" else completion("A"))
    assert asker_for(url).ask(["q1", "bad", "q2"]) == ["A", None, "A"]
    assert len(requests) == 3


def test_many_broken_answers_between_good_ones_are_no_reason_to_give_up(endpoint):
    url, _ = endpoint(lambda question, _: completion("A") if int(question) % 2 else (200, {}))
    assert asker_for(url).ask([str(i) for i in range(50)]) == [None, "A"] * 25


def test_an_endpoint_that_never_answers_properly_is_an_error(endpoint):
    url, requests = endpoint(lambda *_: (400, {"error": {"message": f"no temperature with {CANARY}"}}))
    with pytest.raises(InputError, match=r"no verdict on 20 questions in a row.* HTTP 400 \(no temp") as caught:
        asker_for(url, concurrency=1).ask([str(i) for i in range(500)])
    assert CANARY not in str(caught.value)
    assert len(requests) < 500
    url, _ = endpoint(lambda *_: (500, {}))
    with pytest.raises(InputError, match="no verdict on 2 questions in a row.* HTTP 500"):
        asker_for(url).ask(["q1", "q2"])


@pytest.mark.parametrize(("status", "named"), [(401, "refuses the key"), (403, "refuses the key"), (404, "tiny-judge")])
def test_a_refusal_ends_at_once_and_never_quotes_the_key(endpoint, status, named):
    url, requests = endpoint(lambda *_: (status, {"error": {"message": f"Incorrect API key provided: {CANARY}"}}))
    with pytest.raises(InputError, match=named) as caught:
        asker_for(url, concurrency=1).ask([str(i) for i in range(200)])
    assert CANARY not in str(caught.value) and caught.value.__cause__ is None
    assert len(requests) < 200


@pytest.mark.parametrize("key", ["sk-canary\nX-Other: 1", "sk-canary-ключ"])
def test_a_key_that_no_header_can_carry_is_not_quoted(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        asker_for("http://127.0.0.1:9/v1").ask(["q"])
    assert "canary" not in str(caught.value)


def test_an_endpoint_that_is_not_there_is_named(endpoint, monkeypatch):
    monkeypatch.setattr(judge_openai, "ATTEMPTS", 2)
    with pytest.raises(InputError, match="http://127.0.0.1:9/v1 cannot be reached") as caught:
        asker_for("http://127.0.0.1:9/v1").ask(["q1", "q2"])
    assert CANARY not in str(caught.value)


def replies(**texts: str) -> list[Generation]:
    """A reply to each prompt, by the prompt's id."""
    question = ({"role": "user", "content": "How are you?"},)
    return [Generation(prompt, question, text, 3, True) for prompt, text in texts.items()]


def test_the_endpoint_judge_end_to_end(endpoint):
    url, _ = endpoint(lambda question, _: completion("A" if question.index("good") < question.index("bad") else "B"))
    judge = Judge("openai:tiny-judge", url=url, prompt="compact")
    scores = list(judge.score(replies(p1="good", p2="same"), replies(p1="bad", p2="same")))
    assert scores == [
        Score("win_rate.judge", "p1", 1.0),
        Score("judge.answered", "p1", 1.0),
        Score("judge.position_consistency", "p1", 1.0),
        Score("win_rate.judge", "p2", 0.5),
    ]
