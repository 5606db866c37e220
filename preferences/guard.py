"""What stands before the labelling page: who may ask, how much, how long and by how many connections at once."""

import hmac
import ipaddress
import socket
from typing import Any
from urllib.parse import SplitResult, urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOPBACK = ("localhost", "127.0.0.1", "::1")
COOKIE_AGE = 90 * 24 * 3600  # seconds
PATIENCE = 10.0  # seconds for the head of a request, and for its body
MOST_CONNECTIONS = 64
LONGEST_BODY = 200_000  # bytes of a request
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Lets a request through to the application if Host, Origin, size and token are right; sets the safe headers."""

    def __init__(self, app: ASGIApp, host: str, token: str | None):
        self.app, self.token = app, token
        self.hosts = {*LOOPBACK, host.lower(), socket.gethostname().lower()}
        self.any_address = not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        response = self._check(Request(scope), Headers(scope=scope))
        body = None if response else await _body(receive)
        if body is None:
            response = response or refusal("The request is too long, or it did not come whole in time.", 413)
            response.headers["connection"] = "close"  # or the rest would be read, however long it is
            await response(scope, receive, send_safe)
        else:
            await self.app(scope, _replayed(body, receive), send_safe)

    def _check(self, request: Request, headers: Headers) -> Response | None:
        """An error response in place of the application's; None if the request may pass."""
        host = _split(f"//{headers.get('host', '')}")
        name = host.hostname if host else None
        if host is None or name is None or not (name in self.hosts or self.any_address and _is_address(name)):
            return PlainTextResponse("This address is not the one that the server was started with.", 421)
        if request.method not in ("GET", "HEAD"):
            # A page of another site can send requests here, but not without its own Origin.
            origin = _split(headers.get("origin", ""))
            if origin is None or origin.netloc != host.netloc:
                return refusal("This request comes from another page.", 403)
            size = headers.get("content-length", "")
            if "transfer-encoding" in headers or not size.isdecimal() or int(size) > LONGEST_BODY:
                return refusal("The request is too long; was a whole document pasted as the reason?", 413)
        if self.token is None or self._matches(request.cookies.get(cookie("token", request))):
            return None
        if self._matches(request.query_params.get("token")):
            return with_cookie(RedirectResponse("/", 303), request, "token", self.token)
        return PlainTextResponse("Open the whole address that you were given, with ?token= and what follows.", 401)

    def _matches(self, given: str | None) -> bool:
        if given is None or self.token is None:
            return False
        return hmac.compare_digest(given.encode(), self.token.encode())


async def _body(receive: Receive) -> bytes | None:
    """The body of a request; None where it is longer than it may be, or takes longer than PATIENCE."""
    parts, size, more = [], 0, True
    with anyio.move_on_after(PATIENCE):
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > LONGEST_BODY:
                return None
    return None if more else b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, to be received again."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


class Impatient(H11Protocol):
    """Connections that are bounded in number, each with PATIENCE for the head of a request.

    Where there are too many, the one that has said nothing whole for longest makes room.
    """

    def connection_made(self, transport: Any) -> None:
        open_ = [c for c in self.connections if isinstance(c, Impatient) and not c.transport.is_closing()]
        idle = [connection for connection in open_ if connection._is_idle()]
        if len(open_) >= MOST_CONNECTIONS and idle:
            min(idle, key=lambda connection: connection._since).transport.abort()
        super().connection_made(transport)
        self._since = self.loop.time()
        self._last: Any = None
        self._timer = self.loop.call_later(PATIENCE, self._look)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """End a connection that has begun no new request since the last look."""
        if self._is_idle() and self.cycle is self._last:
            self.transport.abort()
            return
        self._last = self.cycle
        self._timer = self.loop.call_later(PATIENCE, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)


def refusal(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)


def cookie(name: str, request: Request) -> str:
    """A cookie's name; browsers do not keep the cookies of two ports apart."""
    return f"label_{name}_{request.url.port or 80}"


def with_cookie(response: Response, request: Request, name: str, value: str) -> Response:
    # Lax, so that a link with the token works from a mail or chat; what changes anything is checked by its Origin.
    response.set_cookie(cookie(name, request), value, max_age=COOKIE_AGE, httponly=True, samesite="lax")
    return response


def _split(address: str) -> SplitResult | None:
    """The parts of an address such as //localhost:8000; None if it is none."""
    try:
        parts = urlsplit(address)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    return host == "localhost" or _is_address(host) and ipaddress.ip_address(host).is_loopback
