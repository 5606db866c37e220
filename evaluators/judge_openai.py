"""A judge behind an OpenAI-compatible chat-completions endpoint."""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
import httpx
import tenacity
from anyio.from_thread import start_blocking_portal
from tqdm import tqdm

from ..errors import InputError
from .judge_cache import Answer, Keep, Verdict
from .judge_verdict import parse_verdict

KEY = "OPENAI_API_KEY"
ATTEMPTS = 6  # requests for one question; the waits between them add up to half a minute
GIVE_UP = 20  # questions in a row without an answer after which the endpoint counts as broken
LONGEST_ANSWER = 16  # tokens; a verdict is one letter, and a longer answer is invalid anyhow
LONGEST_WAIT = 60.0  # seconds, also where the endpoint asks for more
Post = Callable[[str], httpx.Response]  # sends one question


class _Failed(Exception):
    """One question got no answer; the message says why and ends no sentence."""


class _Transient(_Failed):
    """The same request may work a little later; `wait` is what the endpoint asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _Unreachable(_Transient):
    """There was no connection at all."""


class OpenAIAsker:
    """Asks at temperature 0; 408, 409, 429, 5xx, timeouts and lost connections are tried again with growing waits.

    timeout: seconds for one request, up to the last byte of its answer; an endpoint that drips for ever is cut off.
    A question that gets no proper answer is None. InputError where asking on is pointless: no connection, a refused
    key, an unknown model or path, or GIVE_UP questions in a row (or all of them) without an answer.
    `first_wait`: seconds before the second attempt, doubled each time. The key comes from the environment variable
    OPENAI_API_KEY, is required only by OpenAI itself, and appears in no message.
    """

    def __init__(self, model: str, url: str | None, *, concurrency: int, timeout: float, first_wait: float = 1.0):
        self.model, self.concurrency, self.timeout, self.first_wait = model, concurrency, timeout, first_wait
        self.own_url = url is not None
        self.url = (url or OPENAI_URL).rstrip("/")

    @property
    def identity(self) -> dict[str, object]:
        """Everything but the question that determines a verdict."""
        return {"url": self.url, **self._body("")}

    def ask(self, prompts: list[str], keep: Keep | None = None) -> list[Verdict | None]:
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        stop = threading.Event()
        answers: list[Verdict | None] = []
        missing, in_a_row = 0, 0
        # httpx limits the wait for each piece of an answer, and only its asynchronous client can be cut off altogether
        limits = httpx.Timeout(self.timeout, connect=self.timeout / 2)
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(httpx.AsyncClient(headers=headers, timeout=limits)) as client,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            post = partial(portal.call, self._post, client)
            futures = [
                pool.submit(self._verdict, post, stop, key, prompt, place, keep) for place, prompt in enumerate(prompts)
            ]
            try:
                for future in tqdm(futures, desc="judge", unit="question", disable=None):
                    try:
                        answers.append(future.result())
                        in_a_row = 0
                    except _Failed as error:
                        answers.append(None)
                        missing, in_a_row, reason = missing + 1, in_a_row + 1, str(error)
                        if isinstance(error, _Unreachable):
                            raise InputError(
                                f"judge: {self.url} cannot be reached ({reason}); check the url and the network"
                            ) from None
                        if in_a_row == min(GIVE_UP, len(prompts)):
                            raise InputError(
                                f"judge: {self.url} answered none of {in_a_row} questions in a row, the last "
                                f"because it {reason}; check the url and the model {self.model!r}"
                            ) from None
            except BaseException:
                stop.set()  # ends the waits between attempts
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if missing:
            logging.getLogger(__name__).warning(
                "judge: %d of %d questions got no answer, the last because %s %s",
                missing, len(prompts), self.url, reason,
            )  # fmt: skip
        return answers

    def _key(self) -> str:
        key = os.environ.get(KEY, "").strip()
        if not key and not self.own_url:
            raise InputError(f"judge: {OPENAI_URL} needs a key; set the environment variable {KEY}, or give a url")
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"judge: the environment variable {KEY} holds characters that no key has; set it again")
        return key

    def _verdict(
        self, post: Post, stop: threading.Event, key: str, prompt: str, place: int, keep: Keep | None
    ) -> Verdict | None:
        """The verdict on one question, kept at once; None for an answer that is none, of which the cost is kept."""
        text, tokens_in, tokens_out = self._answer(post, stop, key, prompt)
        verdict = parse_verdict(text)
        if keep and (verdict or tokens_in or tokens_out):
            keep(place, Answer(verdict, tokens_in, tokens_out))
        return verdict

    def _answer(self, post: Post, stop: threading.Event, key: str, prompt: str) -> tuple[str, int, int]:
        """The text of the model's answer and the tokens in and out; _Failed or InputError without one."""
        backoff = tenacity.wait_exponential(multiplier=self.first_wait, max=LONGEST_WAIT)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(backoff(state), min(error.wait, LONGEST_WAIT) if isinstance(error, _Transient) else 0.0)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_when_event_set(stop),
            wait=wait,
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        return retrying(self._request, post, key, prompt)

    def _body(self, prompt: str) -> dict[str, object]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": LONGEST_ANSWER,
        }

    async def _post(self, client: httpx.AsyncClient, prompt: str) -> httpx.Response:
        with anyio.fail_after(self.timeout):
            return await client.post(f"{self.url}/chat/completions", json=self._body(prompt))

    def _request(self, post: Post, key: str, prompt: str) -> tuple[str, int, int]:
        try:
            reply = post(prompt)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Unreachable(type(error).__name__) from None
        except (httpx.TimeoutException, TimeoutError):
            raise _Transient(f"gave no answer within {self.timeout:g} seconds") from None
        except httpx.RequestError as error:
            raise _Transient(f"broke the connection ({type(error).__name__})") from None
        status = reply.status_code
        if status in (401, 403):  # such a body may quote the key
            raise InputError(f"judge: {self.url} refuses the key (HTTP {status}); set {KEY} to one that it accepts")
        if status == 404:
            raise InputError(
                f"judge: {self.url} knows no model {self.model!r}, or no chat completions (HTTP 404); "
                f"check the model's name, and that the url is what comes before /chat/completions"
            )
        if status in (408, 409, 429) or status >= 500:
            raise _Transient(f"answered HTTP {status}", _seconds(reply.headers.get("retry-after")))
        if status != 200:
            raise _Failed(f"answered HTTP {status}{_detail(reply, key)}")
        try:
            completion = reply.json()
            content = completion["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise _Failed("answered with something that is not a chat completion") from None
        usage = completion.get("usage")
        text = content if isinstance(content, str) else ""
        return text, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")


def _count(usage: object, name: str) -> int:
    """A number of tokens as the endpoint reports it; 0 where it reports none, or nonsense."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count > 0 else 0


def _seconds(retry_after: str | None) -> float:
    """Seconds of a Retry-After header; 0 for none and for a date."""
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _detail(reply: httpx.Response, key: str) -> str:
    """The endpoint's own reason in brackets, on one line, without the key."""
    try:
        text = reply.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        text = ""
    text = " ".join(str(text).split())
    text = text.replace(key, "[key]") if key else text
    return f" ({text[:200]})" if text else ""


OPENAI_URL = "https://api.openai.com/v1"
