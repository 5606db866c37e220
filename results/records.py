"""The records that pass between stages and lie on disk; plain data, no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import GateError, InputError, Stopped, nearest

__all__ = [  # the errors have a room of their own, and plugins know them by this one
    "GateError",
    "Generation",
    "Ids",
    "InputError",
    "LabelledPair",
    "Message",
    "Pair",
    "Prompt",
    "RatedReply",
    "Reward",
    "Score",
    "Stopped",
    "nearest",
    "rated_replies",
    "win",
]

Ids = tuple[int, ...]
Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}, the chat format of the ecosystem


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


@dataclass(frozen=True)
class Prompt:
    """A conversation up to the assistant's turn, and its token ids."""

    id: str
    messages: tuple[Message, ...]
    ids: Ids


@dataclass(frozen=True)
class Pair:
    """A prompt with a preferred and a rejected reply; the replies' ids end with EOS."""

    id: str
    prompt: Prompt
    chosen: Ids
    rejected: Ids


@dataclass(frozen=True)
class RatedReply:
    """A reply to a prompt that people found good, or not, on its own; the ids end with EOS."""

    id: str
    prompt: Prompt
    ids: Ids
    good: bool


def rated_replies(pair: Pair) -> tuple[RatedReply, RatedReply]:
    """A pair's chosen reply as a good one and its rejected as not."""
    return RatedReply(pair.id, pair.prompt, pair.chosen, True), RatedReply(pair.id, pair.prompt, pair.rejected, False)
