"""A sampled response, and what a sampler promises."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..results.records import Generation, Ids, Prompt
from .chat import decode_response
from .policy import Policy
from .turn_end import without_stop


@dataclass(frozen=True)
class Sample:
    """A sampled response: token ids up to and with the first of the policy's `stops`, and whether there is one."""

    prompt: Prompt
    ids: Ids
    finished: bool
    logps: tuple[float, ...] = field(default=(), compare=False)  # its last digits depend on the batch
    """Log-probability of each token as it was drawn, at the temperature of the sampling; empty where not known."""
    values: tuple[float, ...] = field(default=(), compare=False)
    """A value head's values before each token; empty without one."""


class Sampler(Protocol):
    """The sampler that `tuning.sampler` names: it draws a response to each prompt from the policy as it is now.

    The responses come in the order of rows, which are indices of prompts; they end with the first of the policy's
    `stops` or after max_new_tokens. A row's response depends on the policy, its prompt, the seed and its stream alone
    (but for the rounding of sums).
    """

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        rows: Sequence[int],
        *,
        streams: Sequence[int],
        max_new_tokens: int,
        seed: int,
        temperature: float,
        top_p: float,
        progress: str | None,
    ) -> list[Sample]: ...


def to_generations(policy: Policy, samples: Sequence[Sample], kls: Sequence[float] | None = None) -> list[Generation]:
    """Samples as text records, for reward models, judges and the disk."""
    stops = policy.stops
    return [
        Generation(
            prompt_id=s.prompt.id,
            prompt=s.prompt.messages,
            response=decode_response(policy.tokenizer, without_stop(s.ids, stops)),
            length=len(s.ids),
            finished=s.finished,
            kl=kls[i] if kls else None,
        )
        for i, s in enumerate(samples)
    ]
