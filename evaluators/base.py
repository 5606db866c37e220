"""What an evaluator is: it turns responses, and a baseline's responses to the same prompts, into scores."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..results.records import Generation, Score


class Evaluator(Protocol):
    """Scores one policy's responses; its constructor's arguments are its YAML settings.

    `responses[i]` and `baseline[i]` answer the same prompt; the baseline is the SFT checkpoint sampled with the same
    seed. A metric `win_rate.NAME` yields 1, 0.5 or 0 a prompt (win, tie, loss against the baseline).
    """

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterable[Score]: ...
