"""What an evaluator is: it turns responses, and a baseline's responses to the same prompts, into scores.

Four optional class attributes tell the benchmark more:

- `needs_policy = True`: responses are not enough, the model itself is needed. `score` then takes two more arguments,
  `policy` and `reference` (the SFT checkpoint), each an `OpenPolicy`; see `PolicyEvaluator`.
- `keeps_answers = True`: the evaluator has a cache of its own (a judge's verdicts), of which failures are no part. It
  is then called on every run, so that what failed is tried again; otherwise scores on disk are used as they are.
- `has_rewards = True`: each response has a number of its own, whatever it is compared with. The benchmark then asks for
  the baseline's once and not again with every method; see `RewardEvaluator`.
- `rewards_text = True`: that number hangs on the prompt and the response's text alone, not on its length in tokens, KL
  or how it ended. A response that the baseline gave too is then not asked for.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from ..results.records import Generation, Message, Score

Conversation = tuple[Sequence[Message], str]  # a prompt's messages and the response's text


class Evaluator(Protocol):
    """Scores one policy's responses; its constructor's arguments are its YAML settings.

    `responses[i]` and `baseline[i]` answer the same prompt; the baseline is the SFT checkpoint sampled with the same
    seed. A metric `win_rate.NAME` yields 1, 0.5 or 0 a prompt (win, tie, loss against the baseline).
    """

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterable[Score]: ...


class RewardEvaluator(Evaluator, Protocol):
    """Scores each response alone and compares the numbers; `score` does both at once."""

    has_rewards: Literal[True]

    def rewards(self, generations: Sequence[Generation]) -> list[float]:
        """A number a response, the same in whatever company it is asked for, but for its last digits."""
        ...

    def compare(
        self, responses: Sequence[Generation], rewards: Sequence[float], baseline: Sequence[float]
    ) -> Iterable[Score]:
        """The scores of responses from their rewards and those of the baseline's responses to the same prompts."""
        ...


class OpenPolicy(Protocol):
    """A policy in memory; it reads text, so that an evaluator need not know its tokenizer."""

    def sample(self, prompts: Sequence[Sequence[Message]], seed: int) -> list[Generation]:
        """One response a prompt, in their order, as in the benchmark's evaluation (temperature, longest response)."""
        ...

    def logps(self, conversations: Sequence[Conversation]) -> list[float]:
        """Log-probability of each response in nats, its EOS included, summed over its tokens."""
        ...

    def entropies(self, conversations: Sequence[Conversation]) -> list[float]:
        """Entropy in nats of the next token, exact over the vocabulary, mean over the response's tokens."""
        ...

    def network(self) -> tuple[Any, Any]:
        """The transformers model, ready to run, and its tokenizer; for libraries that take both."""
        ...


class PolicyEvaluator(Protocol):
    """Scores a policy with the model itself at hand; it is called for the SFT checkpoint too."""

    needs_policy: Literal[True]

    def score(
        self,
        responses: Sequence[Generation],
        baseline: Sequence[Generation],
        *,
        policy: OpenPolicy,
        reference: OpenPolicy,
    ) -> Iterable[Score]: ...
