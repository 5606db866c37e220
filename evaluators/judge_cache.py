"""Verdicts on disk: a question that has been answered is never asked, or paid, again.

One JSON Lines file a judge, named by the hash of its identity (endpoint, model, weights, decoding); a line is appended
as each answer arrives, under the hash of the question. Failures and malformed answers are not kept, so they are asked
again the next time.
"""

import copy
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ..results.integrity import digest, writing

Verdict = Literal["A", "B"]
CHECK, FIELDS = "check", {"question", "answer", "in", "out"}  # of a line


@dataclass(frozen=True)
class Answer:
    """A verdict (None: a malformed answer) and the tokens that the endpoint says it cost, 0 where it does not say."""

    verdict: Verdict | None
    tokens_in: int = 0
    tokens_out: int = 0


Keep = Callable[[int, Answer], None]  # called with the place of a question as soon as it has an answer


class Asker(Protocol):
    """Puts prompts to a model that should answer each with "A" or "B"; None where it gave no such answer."""

    def ask(self, prompts: list[str], keep: Keep | None = None) -> list[Verdict | None]: ...


@dataclass(frozen=True)
class Usage:
    """A judge's verdicts that this process used, and how many of the questions it had to ask for them.

    The tokens are those of all verdicts used and of malformed answers to the same questions, whether paid now or in an
    earlier run.
    """

    verdicts: int
    asked: int
    tokens_in: int
    tokens_out: int


class RememberingAsker:
    """Answers from the disk what was answered before and asks the rest of the judge, which is opened only then.

    identity: everything but the question that determines a verdict, JSON-able; None keeps nothing on disk.
    """

    def __init__(self, open_asker: Callable[[], Asker], folder: Path | None, identity: Mapping[str, Any] | None):
        self._open = open_asker
        self._asker: Asker | None = None
        self._path = folder / f"{digest(identity)[:20]}.jsonl" if folder and identity else None
        self._known, self._malformed = _read(self._path) if self._path else ({}, {})
        self._wanted: set[str] = set()
        self._asked = 0
        self._lock = threading.Lock()
        if identity and self._path and not self._path.exists():
            _append(self._path, {"judge": dict(identity)})

    def ask(self, prompts: list[str], repeat: int = 0) -> list[Verdict | None]:
        """Verdicts in the order of the prompts. repeat: which asking of the same question this is, counted from 0."""
        keys = [_key(prompt, repeat) for prompt in prompts]
        new = list({key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}.items())
        if new:
            self._asker = self._asker or self._open()
            self._asked += len(new)
            verdicts = self._asker.ask(
                [prompt for _, prompt in new], lambda place, answer: self._keep(new[place][0], answer)
            )
            for (key, _), verdict in zip(new, verdicts, strict=True):
                if verdict is not None and key not in self._known:  # an asker that calls no `keep`
                    self._keep(key, Answer(verdict))
        self._wanted |= set(keys)
        return [self._known[key].verdict if key in self._known else None for key in keys]

    def offline(self) -> "RememberingAsker":
        """The same answers with a count of use of its own; a question that has none gets None and is not asked."""
        reader = copy.copy(self)
        reader._open, reader._asker, reader._wanted, reader._asked = _Nobody, None, set(), 0
        return reader

    def unknown(self, prompts: list[str]) -> list[str]:
        """The questions, each once, that would have to be asked."""
        return [prompt for prompt in dict.fromkeys(prompts) if _key(prompt, 0) not in self._known]

    def usage(self) -> Usage:
        used = [self._known[key] for key in self._wanted if key in self._known]
        paid = [*used, *(answer for key in self._wanted for answer in self._malformed.get(key, ()))]
        return Usage(len(used), self._asked, sum(a.tokens_in for a in paid), sum(a.tokens_out for a in paid))

    def _keep(self, key: str, answer: Answer) -> None:
        with self._lock:
            if answer.verdict:
                self._known[key] = answer
            else:
                self._malformed.setdefault(key, []).append(answer)
            if self._path:
                row = {"question": key, "answer": answer.verdict, "in": answer.tokens_in, "out": answer.tokens_out}
                _append(self._path, {**row, CHECK: _check(row)})


class _Nobody:
    def ask(self, prompts: list[str], keep: Keep | None = None) -> list[Verdict | None]:
        return [None] * len(prompts)


def _append(path: Path, row: dict[str, Any]) -> None:
    """One line in one write, so that a crash, or another process at the same file, tears at most a line."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as stream:
            torn = stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1) != b"\n")[1]
            stream.write(b"\n" * bool(torn) + json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _key(prompt: str, repeat: int) -> str:
    return digest([prompt, repeat])


def _check(row: Mapping[str, Any]) -> str:
    return digest(row)[:8]


def _read(path: Path) -> tuple[dict[str, Answer], dict[str, list[Answer]]]:
    """Verdicts and malformed answers of a file by question; lines that are torn or damaged are told and left out."""
    found: dict[str, Answer] = {}
    malformed: dict[str, list[Answer]] = {}
    damaged, lines = 0, path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            if not number and "judge" in row:
                continue
            check = row.pop(CHECK, None)  # older versions wrote none
            if set(row) != FIELDS or row["answer"] not in ("A", "B", None) or check not in (None, _check(row)):
                raise ValueError
            answer = Answer(row["answer"], int(row["in"]), int(row["out"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged += 1
            continue
        if answer.verdict:
            found[row["question"]] = answer
        else:
            malformed.setdefault(row["question"], []).append(answer)
    if damaged:
        logging.getLogger(__name__).warning(
            "%s: %d of %d lines are damaged; their questions are asked again", path, damaged, len(lines)
        )
    return found, malformed
