"""The labelling page: people compare the pairs of a collection folder in a browser, served from this machine.

Blind: the page is given two texts, left and right, never which model wrote which, and no id that could tell. Safe: the
loopback address unless there is a token, Host and Origin checked, a strict Content-Security-Policy, texts as inert HTML
(`markup.py`), and no request names a path. Durable: a request is answered once its answer is on the disk
(`answers.py`).
"""

import contextlib
import re
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..errors import InputError
from ..results.integrity import digest
from .answers import Answers, Refused, Slot, checked_items
from .guard import Guard, Impatient, cookie, is_loopback, refusal, with_cookie
from .labels import check_name, folded
from .markup import render_markdown

PAGE = Path(__file__).with_name("page")
BACKLOG = 32  # connections that are taken at once, beside those that are open
LONGEST_REASON = 20_000  # characters
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")


class Start(BaseModel):
    """A request to label under a name."""

    name: Annotated[str, Field(max_length=200)]
    take_over: bool = False


class Answer(BaseModel):
    """A request to store an answer to the pair that the page shows."""

    item: str
    answer: Literal["left", "right", "tie", "both_bad", "skip"]
    strength: Literal[1, 2, 3] | None = None
    reasoning: Annotated[str, Field(max_length=LONGEST_REASON)] = ""


def serve(
    directory: Path,
    *,
    names: list[str],
    overlap: int,
    overlap_share: float = 1.0,
    host: str,
    port: int,
    token: str | None,
) -> None:
    """Serve the labelling page of a collection folder until it is interrupted; then write labels/people.jsonl.

    names: who may label; empty: whoever gives a name. overlap: labellers per pair, of this share of the pairs; each of
    the others has one. port: 0 takes a free one. InputError if the folder, the address, the token or a name cannot be
    used, or another server has the folder.
    """
    names = list({folded(name): check_name(name) for name in reversed(names)}.values())[::-1]
    if overlap < 1:
        raise InputError(f"an overlap of {overlap} labels nothing; give 1 or more labellers per pair")
    if not 0 <= overlap_share <= 1:
        raise InputError(f"--overlap-share {overlap_share} is a share of the pairs; give 0 to 1")
    if names and overlap > len(names):
        raise InputError(f"an overlap of {overlap} needs {overlap} labellers, but {len(names)} are named; name more")
    _check_address(host, token)
    items = checked_items(directory)
    with _lock(directory), listen(host, port) as listening:
        answers = Answers(directory, items, overlap, overlap_share)
        answers.export()  # what a server that was killed could not write out
        app = build_app(answers, names=names, host=host, token=token)
        print(
            f"labelling {len(items)} pairs of {directory} at {at_address(host, listening)}" + _query(token), flush=True
        )
        print("every answer is saved as it is given; Ctrl-C stops, the same command goes on", flush=True)
        try:
            serve_until_interrupted(app, listening)
        finally:
            answers.close()


def serve_until_interrupted(app: ASGIApp, listening: socket.socket) -> None:
    """Serve an application at a socket until Ctrl-C."""
    config = uvicorn.Config(
        app,
        http=Impatient,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=3,
        ws="none",
        backlog=BACKLOG,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down in order and raises it again
        uvicorn.Server(config).run(sockets=[listening])


def at_address(host: str, listening: socket.socket) -> str:
    """The address of a page that is served at a socket."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"


def build_app(answers: Answers, *, names: Sequence[str], host: str, token: str | None) -> ASGIApp:
    """The web application over the answers of one folder."""
    keys = {digest(name)[:16]: name for name in answers.items}  # ids may tell the model

    def name_of(request: Request) -> str | None:
        """The sender of a request, by the session in its cookie."""
        return answers.labeller(request.cookies.get(cookie("session", request), ""))

    def answering(handle: Callable[[Request, Any], Any], model: type[BaseModel] | None = None) -> Callable[..., Any]:
        """An endpoint that reads its JSON, runs `handle` beside the event loop, and says what was refused."""

        async def endpoint(request: Request) -> Response:
            try:
                given = model.model_validate_json(await request.body()) if model else None
                return await run_in_threadpool(handle, request, given)
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"])) or "the request"
                return refusal(f"Not saved: {field}: {first['msg'].lower()}.", 422)
            except Refused as reason:
                return refusal(str(reason), 409)

        return endpoint

    def labelling(handle: Callable[[str, Any], Any]) -> Callable[[Request, Any], Response]:
        """`handle(labeller, given)`, then what is in front of that labeller now."""

        def respond(request: Request, given: Any) -> Response:
            labeller = name_of(request)
            if labeller is None:
                return refusal("You are no longer labelling here, perhaps because you went on elsewhere.", 401)
            handle(labeller, given)
            slot = answers.next(labeller)
            return JSONResponse(
                {
                    "labeller": labeller,
                    "progress": answers.progress(labeller),
                    "pair": slot and {"item": digest(slot.item.id)[:16], **_show(slot)},
                }
            )

        return respond

    def state(request: Request, _: None) -> Response:
        guidelines = answers.directory / "guidelines.md"
        text = guidelines.read_text(encoding="utf-8", errors="replace") if guidelines.is_file() else ""
        return JSONResponse(
            {
                "collection": answers.directory.resolve().name,
                "names": list(names),
                "labeller": name_of(request),
                "guidelines": render_markdown(text) if text.strip() else None,
            }
        )

    def start(request: Request, given: Start) -> Response:
        try:
            name = check_name(given.name)
            name = next((known for known in names if folded(known) == folded(name)), None) or answers.known_as(name)
        except InputError as error:
            return refusal(f"{str(error)[0].upper()}{str(error)[1:]}.", 422)
        if names and name not in names:
            return refusal("This name is not among the labellers of this collection.", 422)
        session = answers.start(name, given.take_over)
        if session is None:
            said = f"{name} is labelling in another window or was. Go on here? The other window then stops."
            return JSONResponse({"error": said, "taken": True}, 409)
        return with_cookie(JSONResponse({"labeller": name}), request, "session", session)

    def end(request: Request, _: None) -> Response:
        if labeller := name_of(request):
            answers.leave(labeller)
        return JSONResponse({})

    def answer(labeller: str, given: Answer) -> None:
        if given.item not in keys:
            raise Refused("This pair is no longer in the collection. Here is the next one.")
        answers.answer(labeller, keys[given.item], given.answer, given.strength, given.reasoning.strip())

    def export(request: Request, _: None) -> Response:
        answers.export()
        return JSONResponse({"answers": len(answers.rows()), "file": "labels/people.jsonl"})

    def file(name: str, kind: str) -> Callable[[Request], Response]:
        return lambda request: FileResponse(PAGE / name, media_type=kind)

    @asynccontextmanager
    async def lifespan(_: Starlette):
        yield
        try:
            print(f"\n{len(answers.rows())} answers are in {answers.export()}", file=sys.stderr)
        except InputError as error:
            print(f"\nbench: {error}", file=sys.stderr)

    app = Starlette(
        routes=[
            Route("/", file("label.html", "text/html")),
            Route("/label.css", file("label.css", "text/css")),
            Route("/label.js", file("label.js", "text/javascript")),
            Route("/api/state", answering(state)),
            Route("/api/start", answering(start, Start), methods=["POST"]),
            Route("/api/end", answering(end), methods=["POST"]),
            Route("/api/next", answering(labelling(lambda labeller, _: None)), methods=["POST"]),
            Route("/api/answer", answering(labelling(answer), Answer), methods=["POST"]),
            Route("/api/undo", answering(labelling(lambda labeller, _: answers.undo(labeller))), methods=["POST"]),
            Route("/api/export", answering(export), methods=["POST"]),
        ],
        lifespan=lifespan,
    )
    return Guard(app, host, token)


def _show(slot: Slot) -> dict[str, Any]:
    """A labeller's view of a slot, the texts as HTML; a draft's answer in terms of left and right."""
    sides = {"a": slot.item.a, "b": slot.item.b}
    draft = dict(slot.draft)
    if draft["answer"] in ("a", "b"):
        draft["answer"] = ("left", "right")[slot.shown.index(draft["answer"])]
    return {
        "prompt": [{"role": m["role"], "html": render_markdown(m["content"])} for m in slot.item.prompt],
        "left": render_markdown(sides[slot.shown[0]]),
        "right": render_markdown(sides[slot.shown[1]]),
        "draft": draft if draft["answer"] else None,
    }


def _query(token: str | None) -> str:
    return f"?token={token}" if token else ""


def _check_address(host: str, token: str | None) -> None:
    if token is None and not is_loopback(host):
        raise InputError(
            f"on {host} anybody who reaches this machine could label; give a token, "
            f"for example --token {secrets.token_urlsafe(16)}, or stay on 127.0.0.1"
        )
    if token is not None and not TOKEN.fullmatch(token):
        raise InputError(
            f"the token must have 16 or more letters, digits, - or _, so that nobody can guess it; "
            f"for example {secrets.token_urlsafe(16)}"
        )


def _lock(directory: Path) -> AbstractContextManager:
    """The folder's lock, held by one server at a time and let go when its process ends, however it ends."""
    try:
        return FileLock(directory / ".labels.lock").acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{directory} is being labelled through another server; use the page of that one, or stop it first"
        ) from None
    except OSError as error:
        raise InputError(f"{directory} cannot be written to ({error.strerror}); labels are kept there") from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address; InputError if it is taken or is no address of this machine."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # so that whoever reads the address finds it open
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {host}, port {port} ({reason}); give another --port or --host") from None
    return listening
