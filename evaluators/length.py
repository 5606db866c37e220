"""Response length in tokens, and how often the policy ends its response by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..results.records import Generation, Score


@dataclass(frozen=True)
class Length:
    """Yields `length` (tokens, EOS included) and `eos_rate` (1 if the response ended by EOS, 0 if it was cut off)."""

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        for ours in responses:
            yield Score("length", ours.prompt_id, float(ours.length))
            yield Score("eos_rate", ours.prompt_id, float(ours.finished))
