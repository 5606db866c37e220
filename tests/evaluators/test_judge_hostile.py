"""An endpoint that means harm, or is broken beyond the usual: one bad answer costs one question, and no memory."""

import gzip
import json
import socketserver
import threading
import time
import tracemalloc

import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge_cache import RememberingAsker, counted
from alignment_bench.evaluators.judge_openai import LONGEST_BODY, OpenAIAsker
from alignment_bench.evaluators.judge_reply import LONGEST_ANSWER
from alignment_bench.evaluators.judge_verdict import LONGEST_VERDICT, Reader

DEEP = "[" * 100_000
LONG = "9" * 5000


def completion(content, **more) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": content}}], **more}


def asker_for(url, **given) -> OpenAIAsker:
    settings = {"temperature": 0, "max_tokens": 16}
    return OpenAIAsker("m", url, **{"concurrency": 1, "timeout": 5.0, "first_wait": 0.01, "settings": settings} | given)


def packed(content: bytes, how: str = "gzip") -> tuple:
    return 200, gzip.compress(content), {"Content-Encoding": how}


BAD = {
    "deep": (200, DEEP.encode()),
    "deep within": (200, b'{"choices": [{"message": {"content": "A"}}], "x": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "a deep refusal": (200, b'{"choices": [{"message": {"refusal": ' + b"[" * 900 + b"]" * 900 + b"}}]}"),
    "a deep error": (400, b'{"error": {"message": ' + b"[" * 900 + b"]" * 900 + b"}}"),
    "an answer that is deep": (200, completion(DEEP)),
    "a long number": (200, f'{{"choices": {LONG}}}'.encode()),
    "half a character": (200, b'{"choices": [{"message": {"content": "\\ud800 or so"}}]}'),
    "too long": (200, json.dumps(completion("A" * LONGEST_BODY)).encode()),
    "an answer too long": (200, completion("A" * (LONGEST_ANSWER + 1))),
    "a bomb": packed(json.dumps(completion(" " * 2**24 + "A")).encode()),
    "no gzip": (200, b"nothing", {"Content-Encoding": "gzip"}),
    "cut gzip": (200, gzip.compress(json.dumps(completion("A")).encode())[:30], {"Content-Encoding": "gzip"}),
    "another encoding": packed(b"x", "br"),
    "twice packed": packed(gzip.compress(b"x"), "gzip, gzip"),
    "a charset that is none": (200, b"\xff", {"Content-Type": "application/json; charset=rot13"}),
    "an unknown status": (999, {}),
}


SAID = {  # of those that hold no verdict
    "deep": "something that is not a chat completion",
    "a deep refusal": "refused to judge",
    "a deep error": "answered HTTP 400",
    "an answer that is deep": "which holds no verdict",
    "a long number": "something that is not a chat completion",
    "half a character": "answered '? or so', which holds no verdict",
    "too long": "answered with more than 4 MiB",
    "an answer too long": "answered with 200,001 characters",
    "a bomb": "answered with more than 4 MiB",
    "no gzip": "answered with something that is not gzip",
    "cut gzip": "something that is not a chat completion",
    "another encoding": "an encoding that was not asked for ('br')",
    "twice packed": "an encoding that was not asked for ('gzip, gzip')",
    "a charset that is none": "something that is not a chat completion",
    "an unknown status": "answered HTTP 999",
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_answer_costs_one_question(serve_chat, tmp_path, caplog, bad):
    """The others are kept, and what was wrong is told."""
    url, _ = serve_chat(lambda question, _: BAD[bad] if question == "bad" else (200, completion("A")))
    asker = RememberingAsker(lambda: asker_for(url), tmp_path, {"model": "m"}, Reader())
    assert asker.ask(["q1", "bad", "q2", "q3"]) == ["A", None if bad in SAID else "A", "A", "A"]
    assert (SAID[bad] in caplog.text) if bad in SAID else not caplog.text
    again = RememberingAsker(lambda: asker_for(url), tmp_path, {"model": "m"}, Reader())
    assert again.unknown(["q1", "q2", "q3"]) == []


@pytest.mark.parametrize("error", [RecursionError, ValueError, OverflowError, TypeError, KeyError, AttributeError])
def test_an_answer_that_breaks_the_reading_of_it(serve_chat, caplog, error):
    def read(text, cut_off):
        if text == "bad":
            raise error
        return text

    url, _ = serve_chat(lambda question, _: (200, completion(question)))
    assert asker_for(url, read=read).ask(["A", "bad", "B"]) == ["A", None, "B"]
    assert f"answered with something that cannot be read ({error.__name__})" in caplog.text


def test_gzip_is_read(serve_chat):
    url, requests = serve_chat(lambda *_: packed(json.dumps(completion("B")).encode()))
    assert asker_for(url).ask(["q"]) == ["B"] and requests[0][1]["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("tokens", [10**400, -1, True, 1.5, "7", None, [], 10**9 + 1])
def test_a_count_that_is_none_counts_nothing(serve_chat, tmp_path, tokens):
    """A number of tokens beyond all reason is none, as it comes and as an older version kept it."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 3}
    url, _ = serve_chat(lambda *_: (200, completion("A", usage=usage)))

    def asker():
        return RememberingAsker(lambda: asker_for(url), tmp_path, {"model": "m"}, Reader())

    first = asker()
    assert first.ask(["q"]) == ["A"]
    assert (first.usage().tokens_in, first.usage().tokens_out) == (0, 3)
    [path] = tmp_path.glob("*.jsonl")
    head, line = path.read_text().splitlines()
    row = {name: value for name, value in json.loads(line).items() if name != "check"}
    path.write_text(f"{head}\n{json.dumps({**row, 'in': tokens})}\n")
    second = asker()
    assert second.ask(["q"]) == ["A"] and second.usage().tokens_in == 0 and second.usage().asked == 0
    assert counted(10**9) == 10**9


@pytest.mark.parametrize("after", ["²", "-1", "1e400", "9" * 400, "Thu, 01 Jan 1970 00:00:00 GMT", "٣", "nan", ""])
def test_a_waiting_time_that_is_none(serve_chat, monkeypatch, after):
    monkeypatch.setattr("alignment_bench.evaluators.judge_openai.LONGEST_WAIT", 0.02)
    header = {"Retry-After": after if after != "٣" else after.encode().decode("latin-1")}
    url, _ = serve_chat(lambda _, attempt: (200, completion("A")) if attempt == 2 else (429, {}, header))
    assert asker_for(url).ask(["q"]) == ["A"]


@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_an_endless_body_is_let_go(monkeypatch, packing):
    """It sends as fast as it can; no more than the limit is read, though it would go on for ever."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sent, ended = [0], threading.Event()
    chunk = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)
    head = b"Content-Encoding: gzip\r\n" if packing == "gzip" else b""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n")
                while True:
                    sent[0] += self.wfile.write(chunk)
            except OSError:
                ended.set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(InputError, match="answered with more than 4 MiB"):
            asker_for(f"http://127.0.0.1:{server.server_address[1]}/v1", timeout=30.0).ask(["q"])
        assert ended.wait(5)
        server.shutdown()
    assert sent[0] < 4 * LONGEST_BODY  # what lies in the sockets' buffers included


def test_a_bomb_takes_no_memory(serve_chat):
    """64 MiB of blanks in 64 KiB: no more than some bodies' worth is in memory at once."""
    bomb = packed(b" " * 2**26)
    url, _ = serve_chat(lambda *_: bomb)
    tracemalloc.start()
    with pytest.raises(InputError, match="answered with more than 4 MiB"):
        asker_for(url).ask(["q"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LONGEST_BODY


HARD = {
    "brackets": "(" * 10**5 + ")" * 10**5,
    "boxes": "\\boxed{" * 2 * 10**4 + "A" + "}" * 2 * 10**4,
    "blanks": "answer" + " " * 10**5 + "x",
    "lines": "((A))\n" * 3 * 10**4,
    "braces": "{}" + " " * 10**5 + "x",
    "many braces": "{" * 10**5 + "}" * 10**5,
    "quotes": '"' * 10**5,
    "code": "``` " * 5 * 10**4,
    "code blocks": "```json\n{}\n```" * 10**4,
    "double brackets": "[[" * 10**5,
    "tags": "<a>" * 5 * 10**4 + "</a>",
    "words": "the final " * 2 * 10**4,
    "thoughts": "<think>" * 2 * 10**4,
    "ligatures": "\ufdfa" * 10**4,
    "a bracket a line": "(\n" * 10**5,
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("points", [False, True])
def test_reading_an_answer_takes_no_time(name, points):
    """The longest answers that are read, made to be hard."""
    began = time.process_time()
    Reader(points=points)(HARD[name][:LONGEST_ANSWER])
    assert time.process_time() - began < 2


def test_a_verdict_may_have_much_around_it():
    room = LONGEST_VERDICT - 1
    assert Reader()("(" * (room // 2) + "A" + ")" * (room // 2)) == "A"
    assert Reader()(" " * 10**5 + "B" + "\n" * 10**5) == "B"
    assert Reader()("(" * LONGEST_VERDICT + "A" + ")" * LONGEST_VERDICT) is None
    assert Reader(points=True)('{"score": 1' + "0" * 400 + "}") is None
    assert Reader(points=True)("1" + "0" * 400) is None
