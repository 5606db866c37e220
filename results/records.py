"""The records that pass between stages and lie on disk; plain data, no torch."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}, the chat format of the ecosystem


class InputError(Exception):
    """Something the user gave cannot be used: one sentence with what is wrong, where, and what to do (exit code 2)."""


class Stopped(BaseException):
    """A training ended early because it was asked to; one sentence with what is saved. No `Exception`, as Ctrl-C."""


class GateError(Exception):
    """A gate was not reached and the user asked to stop there (exit code 1)."""


@dataclass(frozen=True)
class Generation:
    """One sampled response to one prompt.

    `kl`: sum over the response's tokens of the exact KL(policy || SFT) over the vocabulary, in nats; None where
    nobody computed it (during training, say). `entropy`: of the policy's next token, exact, in nats, mean over the
    response's tokens; None likewise. `length`: response tokens, the EOS included. `finished`: ended by EOS.
    """

    prompt_id: str
    prompt: tuple[Message, ...]
    response: str
    length: int
    finished: bool
    kl: float | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class LabelledPair:
    """Two replies to one prompt, as text, of which people preferred the first."""

    prompt_id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    subset: str | None = None


Reward = Callable[[Sequence[Generation]], Sequence[float]]


@dataclass(frozen=True)
class Score:
    """One value of one metric for one prompt; an evaluator yields these, the harness adds method and seed.

    `value` is None where the evaluator could not tell (a judge's invalid answer): counted against coverage, never
    turned into a number.
    """

    metric: str
    prompt_id: str
    value: float | None


def win(ours: float, theirs: float) -> float:
    """1 for a win, 0 for a loss, 0.5 for a tie."""
    return 0.5 if ours == theirs else float(ours > theirs)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names as a hint for an error message, the closest one first."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known) or "none"
    return f"did you mean {close[0]!r}? known: {listed}" if close else f"known: {listed}"
