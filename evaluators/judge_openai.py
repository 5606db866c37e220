"""A judge behind an OpenAI-compatible chat-completions endpoint."""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import httpx
import tenacity
from anyio.from_thread import start_blocking_portal
from tqdm import tqdm

from ..errors import InputError
from ..results.lines import DAMAGE
from .judge_cache import Answer, Keep, NoVerdictError, Read
from .judge_reply import KEY, Failed, Reply, Transient, Unreachable, answer_of, unpacked, unusable
from .judge_verdict import Reader, Verdict

OPENAI_URL = "https://api.openai.com/v1"
ATTEMPTS = 6  # requests for one question; the waits between them add up to half a minute
GIVE_UP = 20  # questions in a row without a verdict after which the judge counts as broken
LONGEST_WAIT = 60.0  # seconds, also where the endpoint asks for more
LONGEST_BODY = 4 * 2**20  # bytes of a reply, as they come
Post = Callable[[str], Reply]  # sends one question


def check_proxy() -> None:
    """InputError for a proxy named in the environment that cannot be used as httpx is installed."""
    try:
        httpx.Client().close()
    except (ImportError, ValueError) as error:
        raise InputError(
            f"judge: the proxy that the environment names (ALL_PROXY, HTTPS_PROXY, HTTP_PROXY) cannot be used: "
            f"{str(error).rstrip('.')}; for a SOCKS proxy pip install 'httpx[socks]', or unset the variable"
        ) from None


class OpenAIAsker:
    """Asks one question a request; 408, 409, 429, 5xx, timeouts and lost connections are tried again, ever later.

    timeout: seconds for one request, up to the last byte of its answer; an endpoint that drips for ever is cut off.
    settings: fields of each request beside model and messages (temperature, max_tokens, ...). read: the verdict of an
    answer's text. A question that gets no verdict is None. InputError where asking on is pointless: no connection, a
    refused key, an unknown model or path, a setting that is not taken, or GIVE_UP questions in a row without a verdict;
    NoVerdictError where none of fewer questions has one. `first_wait`: seconds before the second attempt, doubled each
    time. The key comes from the environment variable OPENAI_API_KEY, is required only by OpenAI itself, and appears in
    no message.
    """

    def __init__(
        self,
        model: str,
        url: str | None,
        *,
        concurrency: int,
        timeout: float,
        settings: Mapping[str, Any],
        read: Read | None = None,
        first_wait: float = 1.0,
    ):
        self.model, self.concurrency, self.timeout, self.first_wait = model, concurrency, timeout, first_wait
        self.settings, self.read = dict(settings), read or Reader()
        self.own_url = url is not None
        self.url = (url or OPENAI_URL).rstrip("/")

    @property
    def identity(self) -> dict[str, object]:
        """Everything but the question that determines an answer."""
        return {"url": self.url, **self._body("")}

    def ask(self, prompts: list[str], keep: Keep | None = None) -> list[Verdict | None]:
        key = self._key()
        headers = {"Accept-Encoding": "gzip"} | ({"Authorization": f"Bearer {key}"} if key else {})
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
                    except Failed as error:
                        answers.append(None)
                        missing, in_a_row, reason = missing + 1, in_a_row + 1, str(error)
                        if isinstance(error, Unreachable):
                            raise InputError(
                                f"judge: {self.url} cannot be reached ({reason}); check the url and the network"
                            ) from None
                        if in_a_row == min(GIVE_UP, len(prompts)):
                            kind = InputError if in_a_row == GIVE_UP else NoVerdictError
                            raise kind(
                                f"judge: {self.model!r} at {self.url} gave no verdict on {in_a_row} "
                                f"question{'s in a row' if in_a_row > 1 else ''}, the last because it {reason}; "
                                f"{error.advice}"
                            ) from None
            except BaseException:
                stop.set()  # ends the waits between attempts
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if missing:
            logging.getLogger(__name__).warning(
                "judge: %d of %d questions got no verdict, the last because %r at %s %s",
                missing, len(prompts), self.model, self.url, reason,
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
    ) -> Verdict:
        """The verdict on one question; the answer is kept at once, a verdict or none, for it is paid."""
        answer = self._answer(post, stop, key, prompt)
        if keep:
            keep(place, answer)
        if answer.verdict is None:
            tokens = self.settings.get("max_completion_tokens") or self.settings.get("max_tokens") or 0
            raise unusable(answer, tokens)
        return answer.verdict

    def _answer(self, post: Post, stop: threading.Event, key: str, prompt: str) -> Answer:
        """The model's answer; Failed or InputError without one."""
        backoff = tenacity.wait_exponential(multiplier=self.first_wait, max=LONGEST_WAIT)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(backoff(state), min(error.wait, LONGEST_WAIT) if isinstance(error, Transient) else 0.0)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_when_event_set(stop),
            wait=wait,
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        return retrying(self._request, post, key, prompt)

    def _body(self, prompt: str) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], **self.settings}

    async def _post(self, client: httpx.AsyncClient, prompt: str) -> Reply:
        address, data = f"{self.url}/chat/completions", bytearray()
        with anyio.fail_after(self.timeout):
            async with client.stream("POST", address, json=self._body(prompt)) as reply:
                async for chunk in reply.aiter_raw():
                    data += chunk
                    if len(data) > LONGEST_BODY:
                        raise Failed(f"answered with more than {LONGEST_BODY >> 20} MiB")
        return Reply(reply.status_code, reply.headers, unpacked(bytes(data), reply.headers, LONGEST_BODY))

    def _request(self, post: Post, key: str, prompt: str) -> Answer:
        try:
            reply = post(prompt)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(type(error).__name__) from None
        except (httpx.TimeoutException, TimeoutError):
            raise Transient(f"gave no answer within {self.timeout:g} seconds") from None
        except httpx.RequestError as error:
            raise Transient(f"broke the connection ({type(error).__name__})") from None
        try:
            return answer_of(reply, self.url, self._body(prompt), key, self.read)
        except DAMAGE as error:  # whatever it may be: one bad answer costs one question
            raise Failed(f"answered with something that cannot be read ({type(error).__name__})") from None
