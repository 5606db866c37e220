"""Messages to people: errors, each one sentence with what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeVar

Choice = TypeVar("Choice", bound=str)


class TrainingError(Exception):
    """Training cannot go on (a non-finite loss, say): one sentence with the step and the rows; fails this cell only."""


class InputError(Exception):
    """Something the user gave cannot be used: one sentence with what is wrong, where, and what to do (exit code 2)."""


class Stopped(BaseException):
    """A training ended early because it was asked to; one sentence with what is saved. No `Exception`, as Ctrl-C."""


class GateError(Exception):
    """A gate was not reached and the user asked to stop there (exit code 1)."""


def one_of(option: str, given: str, known: Sequence[Choice]) -> Choice:
    """The known value that was given for an option; InputError for any other."""
    for value in known:
        if value == given:
            return value
    raise InputError(f"{option} {given} is not known; give {', '.join(known[:-1])} or {known[-1]}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names as a hint for an error message, the closest one first."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known) or "none"
    return f"did you mean {close[0]!r}? known: {listed}" if close else f"known: {listed}"
