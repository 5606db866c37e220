"""The labelling server under load and ill will: bodies beyond the limit, half-open connections, one person's names."""

import socket
import subprocess
import sys
import time

import httpx
import pytest

from alignment_bench.errors import InputError
from alignment_bench.preferences.answers import Answers, checked_items
from alignment_bench.preferences.guard import LONGEST_BODY
from alignment_bench.preferences.labels import folded, label_path
from alignment_bench.preferences.serve import build_app

from .test_serve import write_items

SERVE = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
from alignment_bench.preferences import guard
from alignment_bench.preferences.serve import serve
guard.PATIENCE = float(sys.argv[2])
serve(Path(sys.argv[1]), names=[], overlap=1, host="127.0.0.1", port=0, token=None)
"""


@pytest.fixture
def started(tmp_path):
    """start(patience): a server's port; what it wrote to its log in the end must be short."""
    servers = []

    def start(patience):
        folder = write_items(tmp_path / "collection", [("text a", "text b")])
        log = (tmp_path / "log").open("w")  # noqa: SIM115  (the server writes to it)
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, folder, str(patience)], stdout=subprocess.PIPE, stderr=log
        )
        servers.append(server)
        line = server.stdout.readline().decode()
        return int(line.split(":")[-1].split("/")[0])

    yield start
    for server in servers:
        server.terminate()
        server.wait(20)
        server.stdout.close()
    assert (tmp_path / "log").stat().st_size < 2000


def connect(port) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_half_open_connections_stop_no_service(started):
    """400 of them at once, renewed: a labeller is answered meanwhile, well within their patience."""
    port = started(60)
    opened = []
    for n in range(400):
        opened.append(connect(port))
        opened[-1].sendall(b"GET / HTTP/1.1\r\nHost: 127" if n % 2 else b"")
        if n % 50 == 49:
            began = time.monotonic()
            assert httpx.get(f"http://127.0.0.1:{port}/", timeout=10).status_code == 200
            assert time.monotonic() - began < 5
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127",
        b"POST /api/start HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nOrigin: http://127.0.0.1:%d\r\nContent-Length: 9\r\n\r\n{",
    ],
)
def test_an_unfinished_request_is_given_up(started, sent):
    """Nothing, half a head, half a body: the connection ends after two looks, and not before its time."""
    port = started(0.5)
    with connect(port) as half:
        half.sendall(sent % (port, port) if b"%d" in sent else sent)
        began = time.monotonic()
        while half.recv(1000):
            pass
        assert 0.2 < time.monotonic() - began < 8


@pytest.mark.parametrize("length", [b"", b"Content-Length: 2\r\n"])
def test_a_chunked_body_is_refused(started, length):
    """With a length beside it or without; what is sent on is not read."""
    port = started(5)
    origin = b"Host: 127.0.0.1:%d\r\nOrigin: http://127.0.0.1:%d\r\n" % (port, port)
    with connect(port) as rude:
        rude.sendall(b"POST /api/start HTTP/1.1\r\n" + origin + length + b"Transfer-Encoding: chunked\r\n\r\n")
        taken = 0
        try:
            while taken < 2**26:
                rude.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
                taken += 2**16
        except OSError:
            pass
        assert taken < 2**25
    assert httpx.get(f"http://127.0.0.1:{port}/", timeout=10).status_code == 200


def test_the_body_s_limit_counts_what_comes(tmp_path):
    """Whatever its head says, and whoever stands between."""
    from starlette.testclient import TestClient

    folder = write_items(tmp_path / "collection", [("text a", "text b")])
    client = TestClient(build_app(Answers(folder, checked_items(folder), 1), names=(), host="127.0.0.1", token=None),
                        base_url="http://127.0.0.1", headers={"Origin": "http://127.0.0.1"})  # fmt: skip
    long = client.post("/api/start", content=iter([b"x" * 2**16] * 8), headers={"Content-Length": "2"})
    assert long.status_code == 413
    short = client.post(
        "/api/start", content=b'{"name": "Ann"}', headers={"Transfer-Encoding": "chunked", "Content-Length": "15"}
    )
    assert short.status_code == 413
    name = b'{"name": "Ann"}'
    assert client.post("/api/start", content=name + b" " * (LONGEST_BODY - len(name))).status_code == 200


@pytest.mark.parametrize("other", ["ann", "ANN", "Ａｎｎ", " Ann "])
@pytest.mark.parametrize("names", [(), ("Ann", "Ben")])
def test_one_person_under_any_spelling(tmp_path, other, names):
    """Case and width make no other person, neither while the first works nor after."""
    from starlette.testclient import TestClient

    folder = write_items(tmp_path / "collection", [("text a", "text b")])
    answers = Answers(folder, checked_items(folder), 1)
    app = build_app(answers, names=names, host="127.0.0.1", token=None)
    one, two = (TestClient(app, base_url="http://127.0.0.1", headers={"Origin": "http://127.0.0.1"}) for _ in range(2))
    assert one.post("/api/start", json={"name": "Ann"}).json() == {"labeller": "Ann"}
    pair = one.post("/api/next", json={}).json()["pair"]
    assert two.post("/api/start", json={"name": other}).json()["taken"]
    assert one.post("/api/answer", json={"item": pair["item"], "answer": "tie"}).status_code == 200
    one.post("/api/end", json={})
    assert two.post("/api/start", json={"name": other}).json() == {"labeller": "Ann"}
    assert two.post("/api/next", json={}).json()["progress"]["done"] == 1
    assert two.post("/api/start", json={"name": "Ben"}).json() == {"labeller": "Ben"}


def test_names_of_files():
    assert folded("Straße") == folded("STRASSE") and folded("Ann") != folded("Anna")


def test_a_labellers_file_under_another_spelling(tmp_path):
    (tmp_path / "labels").mkdir()
    label_path(tmp_path, "Ann").write_text("")
    with pytest.raises(InputError, match="differs from 'Ann'"):
        label_path(tmp_path, "ann")
    assert label_path(tmp_path, "Ａｎｎ").name == "Ann.jsonl"
