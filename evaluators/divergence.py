"""The policy's distance from the SFT checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..results.records import Generation, Score


@dataclass(frozen=True)
class Divergence:
    """Yields `kl`: KL(policy || SFT) in nats per response, measured when the response was sampled; None where not.

    Nothing where none was measured, as of a policy with other tokens than SFT's.
    """

    scores_along = ("kl",)

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        for ours in responses if any(r.kl is not None for r in responses) else ():
            yield Score("kl", ours.prompt_id, ours.kl)
