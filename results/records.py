"""The records that pass between stages and lie on disk; plain data, no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..errors import GateError, InputError, Stopped, nearest

__all__ = [  # the errors have a room of their own, and plugins know them by this one
    "GateError",
    "Generation",
    "Ids",
    "InputError",
    "LEARNING_RATE",
    "LabelledPair",
    "Message",
    "Pair",
    "Prompt",
    "Range",
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
    cut: tuple[bool, bool] = (False, False)
    """True for a reply that did not end by itself."""


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
    """A prompt with a preferred and a rejected reply; the replies' ids end with EOS, but for one that was cut."""

    id: str
    prompt: Prompt
    chosen: Ids
    rejected: Ids


@dataclass(frozen=True)
class RatedReply:
    """A reply to a prompt that people found good, or not, on its own; the ids end with EOS unless it was cut."""

    id: str
    prompt: Prompt
    ids: Ids
    good: bool


def rated_replies(pair: Pair) -> tuple[RatedReply, RatedReply]:
    """A pair's chosen reply as a good one and its rejected as not."""
    return RatedReply(pair.id, pair.prompt, pair.chosen, True), RatedReply(pair.id, pair.prompt, pair.rejected, False)


@dataclass(frozen=True)
class Range:
    """The values of a setting among which `bench tune` looks, both ends included.

    A method declares its `space`, a `ClassVar[dict[str, Range]]` by field, beside its fields. ValueError for ends the
    wrong way round, or that a logarithm cannot have.
    """

    low: float
    high: float
    scale: Literal["log", "linear"]
    """Trials are spread evenly over the logarithm, or over the value itself."""
    factor: bool = False
    """The ends are factors of the benchmark's own value, as suits what depends on the size of the model."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.low <= 0 and (self.scale == "log" or self.factor):
            raise ValueError(f"low {self.low:g} must be above 0 on a scale of logarithms or factors")

    def around(self, value: float) -> "Range":
        """The same with ends that are values: value is the benchmark's own."""
        return Range(self.low * value, self.high * value, self.scale) if self.factor else self


# Meng et al. (2024, arXiv:2405.14734), table of search ranges: 3e-7 to 1e-6 for every method, a factor of 3.3; here it
# is about twice as wide on either side, for the benchmark's own rate may be far from a method's best.
LEARNING_RATE = Range(0.3, 3.0, "log", factor=True)
