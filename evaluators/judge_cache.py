"""Answers on disk: a question that has been answered is never asked, or paid, again.

One JSON Lines file a judge, named by the hash of its identity (endpoint, model, weights, decoding); a line is appended
as each answer arrives, under the hash of the question. An endpoint's answer is kept as it came, and its verdict is read
from it anew each time: what holds none now may hold one once the pattern is declared. A refusal is an answer without a
verdict. What failed is not kept and asked again the next time.
"""

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import InputError
from ..results.integrity import digest
from ..results.lines import append_line, read_lines
from .judge_verdict import WINS, Verdict

CHECK, FIELDS, KEPT = "check", {"question", "answer", "in", "out"}, {"raw", "state"}  # of a line; KEPT: endpoints' only
State = Literal["whole", "cut", "refused"]
MOST_TOKENS = 10**9  # of one question
QUOTED = 160  # characters of an answer that are shown to people
Read = Callable[[str, bool], Verdict | None]  # of an answer's text, and of its being cut off, the verdict


@dataclass(frozen=True)
class Answer:
    """A verdict, None where the answer holds none, and the tokens that the endpoint says it cost (0: it says nothing).

    raw: the answer's own text, None where a verdict is all that there is. state: whether that text is whole, was cut
    off, or refuses to judge.
    """

    verdict: Verdict | None
    tokens_in: int = 0
    tokens_out: int = 0
    raw: str | None = None
    state: State = "whole"

    @property
    def is_final(self) -> bool:
        """True where the same question would get the same answer, so that it is not asked again."""
        return self.verdict is not None or bool(self.raw) or self.state == "refused"


class NoVerdictError(InputError):
    """A judge gave no verdict on any of some questions, too few of them to tell that it never will."""


Keep = Callable[[int, Answer], None]  # called with the place of a question as soon as it has an answer


class Asker(Protocol):
    """Puts prompts to a model that should answer each with a verdict; None where it gave none."""

    def ask(self, prompts: list[str], keep: Keep | None = None) -> list[Verdict | None]: ...


@dataclass(frozen=True)
class Usage:
    """A judge's verdicts that this process used, and how many of the questions it had to ask for them.

    The tokens are those of all answers to these questions, with a verdict or without, whether paid now or in an earlier
    run.
    """

    verdicts: int
    asked: int
    tokens_in: int
    tokens_out: int


class RememberingAsker:
    """Answers from the disk what was answered before and asks the rest of the judge, which is opened only then.

    identity: everything but the question that determines an answer, JSON-able; None keeps nothing on disk. read: the
    verdict of an answer's text; None where the judge gives verdicts and no texts.
    """

    def __init__(
        self,
        open_asker: Callable[[], Asker],
        folder: Path | None,
        identity: Mapping[str, Any] | None,
        read: Read | None = None,
    ):
        self._open = open_asker
        self._asker: Asker | None = None
        self._path = folder / f"{digest(identity)[:20]}.jsonl" if folder and identity else None
        self._known: dict[str, Answer] = {}
        self._paid: dict[str, list[Answer]] = {}  # answers that came to nothing, and were asked for again
        self._wanted: set[str] = set()
        self._asked = 0
        self._tells = True
        self._lock = threading.Lock()
        for key, answer in _read(self._path, read) if self._path else ():
            self._remember(key, answer)
        if identity and self._path and not self._path.exists():
            append_line(self._path, {"judge": dict(identity)})

    def ask(self, prompts: list[str], repeat: int = 0) -> list[Verdict | None]:
        """Verdicts in the order of the prompts. repeat: which asking of the same question this is, counted from 0."""
        keys = [_key(prompt, repeat) for prompt in prompts]
        new = list({key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}.items())
        if new:
            self._ask(new)
        if self._tells:
            self._tell([self._known[key] for key in set(keys) - {key for key, _ in new} - self._wanted])
        self._wanted |= set(keys)
        return [self._known[key].verdict if key in self._known else None for key in keys]

    def _ask(self, new: list[tuple[str, str]]) -> None:
        """Ask the judge these questions, each with its key, and keep what it says."""
        self._asker = self._asker or self._open()
        self._asked += len(new)
        proven = any(answer.verdict is not None for answer in self._known.values())
        try:
            verdicts = self._asker.ask(
                [prompt for _, prompt in new], lambda place, answer: self._keep(new[place][0], answer)
            )
        except NoVerdictError as error:
            if not proven:
                raise
            logging.getLogger(__name__).warning("%s", error)  # a few that always fail are no reason to stop the rest
            return
        for (key, _), verdict in zip(new, verdicts, strict=True):
            if verdict is not None and key not in self._known:  # an asker that calls no `keep`
                self._keep(key, Answer(verdict))

    def _tell(self, answers: list[Answer]) -> None:
        """Say how many answers on disk hold no verdict, and quote one."""
        if without := [answer for answer in answers if answer.verdict is None]:
            logging.getLogger(__name__).warning(
                "judge: %d of %d answers on disk hold no verdict, such as %s; they are not paid for again, and "
                "evaluators.judge.pattern can say how to read them",
                len(without), len(answers), quoted(without[0].raw or "a refusal"),
            )  # fmt: skip

    def offline(self) -> "RememberingAsker":
        """The same answers with a count of use of its own; a question that has none gets None and is not asked."""
        reader = copy.copy(self)
        reader._open, reader._asker, reader._wanted, reader._asked = _Nobody, None, set(), 0
        reader._tells = False
        return reader

    def unknown(self, prompts: list[str]) -> list[str]:
        """The questions, each once, that would have to be asked."""
        return [prompt for prompt in dict.fromkeys(prompts) if _key(prompt, 0) not in self._known]

    def usage(self) -> Usage:
        used = [self._known[key] for key in self._wanted if key in self._known]
        paid = [*used, *(answer for key in self._wanted for answer in self._paid.get(key, ()))]
        verdicts = sum(answer.verdict is not None for answer in used)
        return Usage(verdicts, self._asked, sum(a.tokens_in for a in paid), sum(a.tokens_out for a in paid))

    def _remember(self, key: str, answer: Answer) -> None:
        if answer.is_final:
            self._known[key] = answer
        else:
            self._paid.setdefault(key, []).append(answer)

    def _keep(self, key: str, answer: Answer) -> None:
        with self._lock:
            self._remember(key, answer)
            if self._path:
                row = {"question": key, "answer": answer.verdict, "in": answer.tokens_in, "out": answer.tokens_out}
                row |= {} if answer.raw is None else {"raw": answer.raw, "state": answer.state}
                append_line(self._path, {**row, CHECK: _check(row)})


def counted(tokens: Any) -> int:
    """A number of tokens as an endpoint reports it; 0 where it reports none, or nonsense."""
    return tokens if type(tokens) is int and 0 < tokens <= MOST_TOKENS else 0


def quoted(text: str) -> str:
    """A text for people to see, on one line and cut."""
    line = " ".join(text.split())
    return repr(line if len(line) <= QUOTED else f"{line[:QUOTED]}...")


class _Nobody:
    def ask(self, prompts: list[str], keep: Keep | None = None) -> list[Verdict | None]:
        return [None] * len(prompts)


def _key(prompt: str, repeat: int) -> str:
    return digest([prompt, repeat])


def _check(row: Mapping[str, Any]) -> str:
    return digest(row)[:8]


def _read(path: Path, read: Read | None) -> Iterator[tuple[str, Answer]]:
    """The answers of a file, each with its question's hash; lines that are torn or damaged are told and left out."""

    def form(row: dict[str, Any]) -> tuple[str, Answer] | None:
        if "judge" in row:
            return None
        check = row.pop(CHECK, None)  # older versions wrote none
        if set(row) not in (FIELDS, FIELDS | KEPT) or check not in (None, _check(row)):
            raise ValueError
        verdict, raw, state = row["answer"], row.get("raw"), row.get("state", "whole")
        known = verdict is None or verdict in WINS or isinstance(verdict, float)
        if not (known and isinstance(row["question"], str)):
            raise ValueError
        if read and raw is not None and state != "refused":
            verdict = read(raw, state == "cut")
        return row["question"], Answer(verdict, counted(row["in"]), counted(row["out"]), raw, state)

    return filter(None, read_lines(path, form, "their questions are asked again"))
