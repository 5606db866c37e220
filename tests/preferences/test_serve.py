"""The labelling server: who may ask, what is sent, what survives a kill; in a browser where there is a Chromium."""

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
from starlette.testclient import TestClient

from alignment_bench.errors import InputError
from alignment_bench.preferences.answers import Answers, checked_items
from alignment_bench.preferences.markup import LONGEST, render_markdown
from alignment_bench.preferences.serve import build_app, serve

HERE = "http://127.0.0.1"
TOKEN = "a-long-enough-token"


def write_items(folder, texts, prompt="question"):
    rows = [
        {"id": f"model-one-{n}", "prompt": [{"role": "user", "content": f"{prompt} {n}"}], "a": a, "b": b,
         "a_version": "model-one", "b_version": "model-two", "prompt_source": "test", "decoding": {}}
        for n, (a, b) in enumerate(texts)
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def client_of(folder, *, names=(), host="127.0.0.1", token=None, overlap=1, base=HERE):
    app = build_app(Answers(folder, checked_items(folder), overlap), names=names, host=host, token=token)
    return TestClient(app, base_url=base, headers={"Origin": base}, follow_redirects=False)


@pytest.fixture
def folder(tmp_path):
    return write_items(tmp_path / "collection", [(f"text a{n}", f"text b{n}") for n in range(4)])


def test_a_labeller_works_through_the_pairs_blind(folder):
    client = client_of(folder)
    assert client.post("/api/next", json={}).status_code == 401
    assert client.post("/api/start", json={"name": "Ann"}).status_code == 200
    sent = client.post("/api/next", json={}).json()
    for done in range(4):
        assert (sent["progress"]["done"], sent["progress"]["left"]) == (done, 4 - done)
        assert not re.search("model|version", json.dumps(sent["pair"]))
        body = {"item": sent["pair"]["item"], "answer": "left", "strength": 1, "reasoning": " x "}
        half = client.post("/api/answer", content=json.dumps(body | {"reasoning": "\ud800"}))
        assert half.status_code == 422 and half.json()["error"].startswith("Not saved")
        sent = client.post("/api/answer", json=body).json()
    assert sent["pair"] is None
    assert client.post("/api/undo", json={}).json()["pair"]["draft"]["answer"] == "left"
    assert client.post("/api/export", json={}).json() == {"answers": 3, "file": "labels/people.jsonl"}
    assert len((folder / "labels" / "people.jsonl").read_text().splitlines()) == 3


def test_a_name_in_use_is_taken_over_only_on_purpose(folder):
    answers = Answers(folder, checked_items(folder), 1)
    app = build_app(answers, names=["Ann", "Ben"], host="127.0.0.1", token=None)
    one, two = (TestClient(app, base_url=HERE, headers={"Origin": HERE}) for _ in range(2))
    assert one.post("/api/start", json={"name": "Ann"}).status_code == 200
    refused = two.post("/api/start", json={"name": "Ann"})
    assert (refused.status_code, refused.json()["taken"]) == (409, True)
    assert two.post("/api/start", json={"name": "Ann", "take_over": True}).status_code == 200
    assert one.post("/api/next", json={}).status_code == 401
    assert two.post("/api/next", json={}).status_code == 200
    assert "not among the labellers" in two.post("/api/start", json={"name": "Eve"}).json()["error"]
    assert "letters, digits" in two.post("/api/start", json={"name": "<b>x</b>"}).json()["error"]


def test_only_this_page_may_ask(folder):
    client = client_of(folder)
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""}):
        assert client.post("/api/start", json={"name": "Ann"}, headers=headers).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200
    assert client.post("/api/start", content="x" * 200_001).status_code == 413
    assert client.post("/api/start", content=iter([b"{}"])).status_code == 413
    assert client.post("/api/start", content="{").status_code == 422
    for path in ("/../items.jsonl", "/%2e%2e/items.jsonl", "/items.jsonl", "/labels.sqlite", "//etc/passwd"):
        assert client.get(path).status_code == 404
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_elsewhere_only_with_the_token(folder):
    client = client_of(folder, host="0.0.0.0", token=TOKEN, base="http://192.0.2.7")
    assert client.get("/").status_code == 401
    assert client.get("/?token=wrong-but-long-enough").status_code == 401
    assert client.post("/api/start", json={"name": "Ann"}).status_code == 401
    opened = client.get(f"/?token={TOKEN}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert client.get("/").status_code == 200
    assert client.post("/api/start", json={"name": "Ann"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"host": "0.0.0.0"}, "give a token"),
        ({"token": "short"}, "16 or more"),
        ({"overlap": 3}, "needs 3 labellers, but 2 are named"),
        ({"overlap": 0}, "labels nothing"),
        ({"overlap_share": 1.5}, "--overlap-share 1.5 is a share of the pairs"),
        ({"names": ["<b>Ann</b>"]}, "letters, digits"),
        ({"host": "no.such.host.invalid", "token": TOKEN}, "cannot listen on no.such.host.invalid"),
    ],
)
def test_settings_that_cannot_be_used_get_a_sentence(folder, changed, said):
    settings = {"names": ["Ann", "Ben"], "overlap": 1, "host": "127.0.0.1", "port": 0, "token": None}
    with pytest.raises(InputError, match=said):
        serve(folder, **settings | changed)


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "![x](http://e.example/x)",
        "</div><style>body{display:none}</style>", "<svg onload=alert(1)>", "`<b>`", "<a href='http://e.example'>x</a>",
        "[x]: http://e.example\n[x]", "<http://e.example>", "```html\n<iframe src=x>\n```", "&lt;script&gt;",
    ],
)  # fmt: skip
def test_markup_is_inert(hostile):
    for text in (hostile, hostile + "x" * LONGEST):
        tags = re.findall(r"<([^>]*)>", render_markdown(text))
        known = r"/?(p|pre|code|br|em|strong)( (dir=\"ltr\"|class=\"plain\"))*"
        assert all(re.fullmatch(known, tag) for tag in tags), tags


def test_markdown_is_shown():
    html = render_markdown("**bold**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nx < y\n```\n\n3. שלום")
    for part in (
        "<strong>bold</strong>",
        "<td>1</td>",
        "x &lt; y",
        '<ol start="3" dir="auto">',
        '<pre dir="ltr">',
        "שלום",
    ):
        assert part in html


@contextmanager
def running(folder, names=("Ann", "Ben"), overlap=2, port=0):
    """A server in a process of its own: (process, address)."""
    code = (
        "import sys; from pathlib import Path; from alignment_bench.preferences.serve import serve; "
        f"serve(Path(sys.argv[1]), names={list(names)!r}, overlap={overlap}, host='127.0.0.1', port={port}, token=None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        yield process, re.search(r"http://\S+:\d+", process.stdout.readline()).group()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def post(client, path, body=None):
    return client.post(path, json=body or {}, headers={"Origin": str(client.base_url).rstrip("/")}).json()


def test_a_killed_server_loses_no_answer_and_a_second_one_is_refused(folder):
    with running(folder) as (process, address), httpx.Client(base_url=address) as client:
        with pytest.raises(InputError, match="being labelled through another server"):
            serve(folder, names=[], overlap=1, host="127.0.0.1", port=0, token=None)
        with pytest.raises(InputError, match="cannot listen on 127.0.0.1"):
            other = write_items(folder.parent / "other", [("x", "y")])
            serve(other, names=[], overlap=1, host="127.0.0.1", port=int(address.rsplit(":")[-1]), token=None)
        post(client, "/api/start", {"name": "Ann"})
        first = post(client, "/api/next")["pair"]["item"]
        second = post(client, "/api/answer", {"item": first, "answer": "right", "reasoning": "why"})["pair"]["item"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        cookies = dict(client.cookies)
    port = int(address.rsplit(":")[-1])
    with running(folder, port=port) as (process, address), httpx.Client(base_url=address, cookies=cookies) as client:
        # What was answered is written out at the start, and Ann goes on where she was.
        (row,) = map(json.loads, (folder / "labels" / "people.jsonl").read_text().splitlines())
        assert (row["labeler_id"], row["reasoning"], row["answer"]) == ("Ann", "why", row["shown"][1])
        sent = post(client, "/api/next")
        assert (sent["pair"]["item"], sent["progress"]["done"]) == (second, 1)
        post(client, "/api/answer", {"item": second, "answer": "tie"})
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    assert len((folder / "labels" / "people.jsonl").read_text().splitlines()) == 2


HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script></main><style>body{display:none}</style>"  # noqa: E501
SIZES = ({"width": 1280, "height": 800}, {"width": 360, "height": 740})


def open_page(browser, address, name, size, problems):
    page = browser.new_context(viewport=size).new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith(address) or problems.append(request.url))
    page.goto(address)
    page.get_by_label(name).check()
    page.keyboard.press("Enter")
    page.wait_for_selector("#pair:not([hidden])")
    return page


def done(page, count):
    page.locator("#counts", has_text=re.compile(rf"^{count} done")).wait_for()


def test_two_people_label_in_a_browser_through_a_kill_and_hostile_texts(browser, tmp_path):
    texts = [(HOSTILE, "שלום **עולם**"), ("long " * 20_000, "x" * 5_000), ("a", "b"), ("c", "d")]
    folder = write_items(tmp_path / "collection", texts, prompt=HOSTILE)
    (folder / "guidelines.md").write_text("Be *fair*.")
    problems = []
    with running(folder) as (process, address):
        ann, ben = (open_page(browser, address, n, s, problems) for n, s in zip(("Ann", "Ben"), SIZES, strict=True))
        for page in (ann, ben):
            assert "<img src=x" in page.locator("#prompt").inner_text()  # shown as the characters it is
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert ann.locator("#left").bounding_box()["y"] == ann.locator("#right").bounding_box()["y"]  # side by side
        assert (
            ben.locator("#left").bounding_box()["y"] < ben.locator("#right").bounding_box()["y"]
        )  # one below the other
        hebrew = ann.locator("article .text p", has_text="שלום")
        assert hebrew.evaluate("e => e.matches(':dir(rtl)')")
        # Ann by keyboard alone, Ben by touch.
        for key in ("a", "3", "r"):
            ann.keyboard.press(key)
        ann.keyboard.type("because a b s u")
        ann.keyboard.press("Control+Enter")
        ben.get_by_role("button", name="Both bad").click()
        ben.get_by_role("button", name="Save").click()
        done(ann, 1)
        done(ben, 1)
        for page in (ann, ben):  # the very long pair
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        ann.keyboard.press("u")
        done(ann, 0)
        assert ann.locator("#reason").input_value() == "because a b s u"
        assert ann.locator("[data-answer=left]").get_attribute("aria-pressed") == "true"
        ann.keyboard.press("Enter")
        done(ann, 1)
        ann.keyboard.press("p")
        assert ann.get_by_text("Paused").is_visible() and not ann.locator("#pair").is_visible()
        ann.keyboard.press("p")
        ann.wait_for_selector("#pair:not([hidden])")
        process.send_signal(signal.SIGKILL)
        process.wait()
        ann.keyboard.press("b")
        ann.keyboard.press("Enter")
        ann.get_by_text("not saved yet").wait_for()
    with running(folder, port=int(address.rsplit(":")[-1])):
        ann.keyboard.press("Enter")  # the same page, the choice still there
        done(ann, 2)
        for count in (3, 4):
            ann.keyboard.press("t")
            ann.keyboard.press("Enter")
            if count < 4:
                done(ann, count)
        ann.get_by_text("Nothing is left for you").wait_for()
        for count in (2, 3):
            ben.get_by_role("button", name="Skip").click()
            ben.get_by_role("button", name="Save").click()
            done(ben, count)
        assert [page.title() for page in (ann, ben)] == ["Label collection"] * 2
        answers = Answers(folder, checked_items(folder), 2)
        rows = answers.rows()
        answers.close()
    assert not problems
    given = {name: [row["answer"] for row in rows if row["labeler_id"] == name] for name in ("Ann", "Ben")}
    assert given["Ben"] == ["both_bad", "skip", "skip"]
    assert given["Ann"][2:] == ["tie", "tie"] and {*given["Ann"][:2]} <= {"a", "b"}
    first = rows[0] if rows[0]["labeler_id"] == "Ann" else rows[1]
    assert (first["strength"], first["reasoning"]) == (3, "because a b s u")
    assert len({(row["item"], row["labeler_id"]) for row in rows}) == len(rows) == 7
