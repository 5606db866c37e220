"""An endpoint's reply to one question: a judge's answer, or what went wrong and what to change.

The chat-completions format, with what servers make of it: content in parts, refusals in a field of their own, errors in
a reply of status 200, and thoughts that use up all tokens.
"""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .judge_cache import Answer, Read, counted, quoted

KEY = "OPENAI_API_KEY"
CHECK = "check the url and the model"
LONGEST_ANSWER = 200_000  # characters
ADVICE = {  # of a setting that the endpoint does not take
    "max_tokens": "set max_completion_tokens in its place",
    "max_completion_tokens": "set max_tokens in its place, and max_completion_tokens to null",
    "temperature": "set temperature to null, which leaves it out, or to a value that it takes",
}


class Failed(Exception):
    """One question got no verdict; the message says why and ends no sentence, `advice` says what to change."""

    def __init__(self, reason: str, advice: str = CHECK):
        super().__init__(reason)
        self.advice = advice


class Transient(Failed):
    """The same request may work a little later; `wait` is what the endpoint asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Unreachable(Transient):
    """There was no connection at all."""


@dataclass(frozen=True)
class Reply:
    """A reply as it came: status, headers (names in any case), and the body as text."""

    status: int
    headers: Mapping[str, str]
    text: str


def unpacked(data: bytes, headers: Mapping[str, str], longest: int) -> str:
    """A body as text, decompressed up to so many bytes; Failed where it is longer, or packed in a way not asked for."""
    how = headers.get("content-encoding", "identity").strip().lower()
    if how == "gzip":
        try:
            data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, longest + 1)
        except zlib.error:
            raise Failed("answered with something that is not gzip, as it says") from None
        if len(data) > longest:
            raise Failed(f"answered with more than {longest >> 20} MiB")
    elif how not in ("", "identity"):
        raise Failed(f"answered in an encoding that was not asked for ({how[:40]!r})")
    return data.decode(errors="replace")


def answer_of(reply: Reply, url: str, body: dict[str, Any], key: str, read: Read) -> Answer:
    """The answer that a reply to `body` holds, with its verdict or without; Failed where it holds none.

    InputError where no question would fare better: a refused key, an unknown model or path, a used-up quota, a setting
    that the endpoint does not take. The key appears in no message.
    """
    status = reply.status
    if status in (401, 403):  # such a body may quote the key
        raise InputError(f"judge: {url} refuses the key (HTTP {status}); set {KEY} to one that it accepts")
    if status == 404:
        raise InputError(
            f"judge: {url} knows no model {body['model']!r}, or no chat completions (HTTP 404); "
            f"check the model's name, and that the url is what comes before /chat/completions"
        )
    content = _json(reply)
    error = content.get("error")
    details = error if isinstance(error, dict) else {}
    said = _said(details, key)
    if status == 402 or "insufficient_quota" in (details.get("code"), details.get("type")):
        raise InputError(f"judge: {url} says that the account has nothing left{said}; top it up or use another key")
    if status in (408, 409, 429) or status >= 500:
        raise Transient(f"answered HTTP {status}{said}", _seconds(reply.headers.get("retry-after")))
    if status in (301, 302, 303, 307, 308):
        to = reply.headers.get("location", "").removesuffix("/chat/completions")
        raise Failed(f"redirects to {to}", "give that as the url, if you trust it with your key")
    if status != 200 or (error and not content.get("choices")):
        if "content_filter" in (details.get("code"), details.get("type")):
            return Answer(None, raw=_masked(str(details.get("message") or ""), key), state="refused")
        _check_setting(url, body, details, said)
        if isinstance(code := details.get("code"), int) and (code in (408, 409, 429) or code >= 500):
            raise Transient(f"answered with an error{said}")
        raise Failed(f"answered HTTP {status}{said}" if status != 200 else f"answered with an error{said}")
    return _answer(reply, content, key, read)


def _answer(reply: Reply, content: dict[str, Any], key: str, read: Read) -> Answer:
    try:
        choice = content["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        parts = message.get("content")
    except (LookupError, TypeError, AttributeError):
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            raise Failed("answered with a stream of events", "set extra_body to {stream: false}") from None
        raise Failed(f"answered with something that is not a chat completion{_start(reply, key)}") from None
    usage = content.get("usage")
    used = usage if isinstance(usage, dict) else {}
    tokens = counted(used.get("prompt_tokens")), counted(used.get("completion_tokens"))
    text, refusal = _text(parts), message.get("refusal")
    if isinstance(parts, list) and not refusal:
        refusal = next((p["refusal"] for p in parts if isinstance(p, dict) and p.get("refusal")), None)
    if refusal or reason == "content_filter":
        return Answer(None, *tokens, raw=_masked(str(refusal or text), key), state="refused")
    if len(text) > LONGEST_ANSWER:
        raise Failed(f"answered with {len(text):,} characters", "have it answer shorter, by max_tokens")
    cut_off = reason == "length"
    raw = _masked(text, key)
    return Answer(read(raw, cut_off), *tokens, raw=raw, state="cut" if cut_off else "whole")


def unusable(answer: Answer, tokens: int) -> Failed:
    """The failure that an answer without a verdict is; tokens: the most that it was allowed."""
    shown = quoted(answer.raw or "")
    if answer.state == "refused":
        how = f" ({shown})" if answer.raw else ", by a filter of content"
        return Failed(f"refused to judge{how}", "take a judge that judges such prompts, or leave them out")
    if answer.state == "cut":
        what = f"was cut off at {tokens} tokens ({shown})" if answer.raw else f"spent all of its {tokens} tokens unseen"
        return Failed(what, "raise max_tokens (or max_completion_tokens), or have it think less by extra_body")
    return Failed(f"answered {shown}, which holds no verdict", "say with pattern how to read it, or take another judge")


def _check_setting(url: str, body: dict[str, Any], details: dict[str, Any], said: str) -> None:
    """InputError where an error is about a setting of the request."""
    found = re.search(r"[Uu]n(?:supported|recognized) (?:parameter|value|request argument)\w*:? *'?(\w+)", said)
    for name in (details.get("param"), found and found[1]):
        if isinstance(name, str) and name in body and name not in ("model", "messages"):
            advice = ADVICE.get(name, f"change {name} in extra_body")
            raise InputError(f"judge: {url} does not take {name}: {body[name]!r}{said}; {advice}")


def _text(parts: Any) -> str:
    """The content of a message, which may come in parts."""
    if isinstance(parts, list):
        return "".join(str(p.get("text") or "") for p in parts if isinstance(p, dict))
    return parts if isinstance(parts, str) else ""


def _json(reply: Reply) -> dict[str, Any]:
    try:
        content = json.loads(reply.text)
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(retry_after: str | None) -> float:
    """Seconds of a Retry-After header; 0 for none and for a date."""
    return float(retry_after) if retry_after and re.fullmatch(r"\d+(\.\d+)?", retry_after) else 0.0


def _said(details: dict[str, Any], key: str) -> str:
    """The endpoint's own reason in brackets, on one line, without the key."""
    text = " ".join(_masked(str(details.get("message") or ""), key).split())
    return f" ({text[:200]})" if text else ""


def _start(reply: Reply, key: str) -> str:
    return f" ({quoted(_masked(reply.text, key))})" if reply.text.strip() else ""


def _masked(text: str, key: str) -> str:
    """A text as it may be kept and shown: without the key, and without half characters, which no file can hold."""
    text = text.encode(errors="replace").decode()
    return text.replace(key, "[key]") if key else text
