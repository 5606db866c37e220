"""Tiny models and data that every test may use, the command line in this process, a chat server, and a browser."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported: tests never wait for a network

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.tuning import Tuning
from alignment_bench.reports import page

DRAWN = page.drawn
pytest_plugins = ["plain"]  # plain.py beside this
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and tests press Ctrl-C


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Every test, fixtures that it is the first to ask for among them, draws what it draws when it runs alone.

    Reports of runs have figures in the tests of reports and in those marked `figures`: they take half of the time of
    a tiny run.
    """
    figured = "reports" in item.path.parts or item.get_closest_marker("figures")
    page.drawn = DRAWN if figured else lambda material, looks: {}
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def build_tokenizer(*, pad_is_eos: bool = True, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 258 ids; pad is eos unless said otherwise, the trap that many models set."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad = "</s>" if pad_is_eos else "<pad>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token=pad)
    fast.chat_template = template
    return fast


def save_tiny_model(
    folder: Path, *, seed: int = 0, template: str | None = TEMPLATE, std: float = 0.2, layers: int = 2
) -> Path:
    """A random Llama, 32 wide and of so many layers, that reads 256 tokens; weights are large, so outputs differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=std,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    build_tokenizer(template=template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Checkpoint:
    """The checkpoint of a random tiny model."""
    return Checkpoint(save_tiny_model(tmp_path_factory.mktemp("tiny")), key="tiny")


@pytest.fixture(params=["full", "lora"])
def tuning(request) -> Tuning:
    """Full fine-tuning and LoRA, both in fp32 on the CPU."""
    return Tuning(lora_rank=4 if request.param == "lora" else 0, lora_alpha=8.0, precision="fp32", device="cpu")


@pytest.fixture
def full() -> Tuning:
    return Tuning(precision="fp32", device="cpu")


@pytest.fixture(scope="session")
def make_tiny():
    """The function that writes a random tiny model into a folder."""
    return save_tiny_model


@dataclass(frozen=True)
class Done:
    """A finished command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def bench():
    """bench(*arguments, cwd, code=0): run the command in this process, which saves seconds of imports; a `Done`."""
    from alignment_bench.benchmarks.cli.main import main

    def run(*arguments, cwd, code=0) -> Done:
        out, err = io.StringIO(), io.StringIO()
        interrupts = signal.getsignal(signal.SIGINT)  # a command that was interrupted ignores any more
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", ["bench", *map(str, arguments)]),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        signal.signal(signal.SIGINT, interrupts)
        returncode = ended.value.code or 0
        assert returncode == code, err.getvalue()[-3000:]
        return Done(returncode, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def serve_chat(monkeypatch):
    """serve_chat(reply): an OpenAI-compatible server's url, and the (path, headers, body) of each request as it comes.

    It answers with what `reply(question, attempt)` returns: (status, JSON or bytes[, headers]).
    """
    servers = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def start(reply):
        requests, attempts, lock = [], {}, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                question = body["messages"][0]["content"]
                with lock:
                    attempts[question] = attempt = attempts.get(question, 0) + 1
                    requests.append((self.path, dict(self.headers.items()), body))
                status, content, *headers = reply(question, attempt)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **(headers[0] if headers else {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests that look at a page; a module each, for its event loop must not be there in other tests."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
