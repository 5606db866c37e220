"""An evaluator: it turns responses, and a baseline's responses to the same prompts, into scores.

What else it needs of a benchmark, or offers, its class says by attributes: those of `Traits`, and no others. Nobody
asks which evaluator it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ..results.records import Generation, Message, Score

# A prompt's messages and the response's text; and true where that did not end by itself.
Conversation = tuple[Sequence[Message], str] | tuple[Sequence[Message], str, bool]


@dataclass(frozen=True)
class Traits:
    """An evaluator's description of itself: class attributes of these names, each with its default.

    What an evaluator is given comes as arguments of its constructor, beside its YAML settings: the fields of a
    dataclass, or attributes of the same names.
    """

    needs_policy: bool = False
    """Responses are not enough, the model itself is needed: `score` takes two more arguments, `policy` and `reference`
    (the SFT checkpoint), each an `OpenPolicy`; see `PolicyEvaluator`."""
    needs_pairs: bool = False
    """It is given `pairs`, a sequence of the held-out `LabelledPair`s. They are read as they are looked at: take
    elements and slices, and keep no list of them."""
    draws: int = 0
    """Responses that it draws from the policy beside those that it is given, for a plan's reckoning; 0 says nothing."""
    needs_reward_model: bool = False
    """It is given `model`, the folder of a reward model that no method was trained on, and `tuning`, the device and
    precision to open it with. Settings with a `model` of their own go before: `model` is then that one's folder, and
    `device` is given in place of `tuning`."""
    compares_with_training: bool = False
    """Its scores are read beside those of the reward model that methods are trained on, which then scores as well."""
    asks_models: bool = False
    """It asks the models that its setting `model` names, and has them as `models`. It is given their folders as `model`
    (openai:NAME stays as it is), `cache`, a folder for answers, and `device`, unless the settings name one."""
    is_judge: bool = False
    """It asks models which of two responses is better, also of two rows (`score_versus`). What that can cost at most is
    said before, what it cost after, and its verdicts are audited and compared with people's labels; so it is to be a
    `Judge` or a subclass, and a run has one of them: several models form its panel."""
    keeps_answers: bool = False
    """It has a cache of its own (a judge's verdicts), of which failures are no part. It is then called on every run, so
    that what failed is tried again; otherwise scores on disk are used as they are."""
    has_rewards: bool = False
    """Each response has a number of its own, whatever it is compared with. The benchmark then asks for the baseline's
    once and not again with every method; see `RewardEvaluator`."""
    rewards_text: bool = False
    """That number depends on prompt and the response's text alone, not on its length in tokens, KL or how it ended. A
    response that the baseline gave too is then not asked for."""
    scores_along: tuple[str, ...] = ()
    """The metrics, if any, that are also measured at the checkpoints along training, with their facets (`reward.gold`
    stands for `reward.gold.helpful` too); not together with `needs_policy` or `keeps_answers`."""
    calls: tuple[str, ...] = ()
    """The functions that its scores come from, as package.module:function: their code counts in the scores' key."""
    determined_by: tuple[str, ...] | None = None
    """The settings that its scores depend on, beside the models it asks; none says all of them. Scores of evaluators
    that differ in them never share a column of a table."""


def traits_of(evaluator: Any) -> Traits:
    """The traits of an evaluator or its class."""
    said: dict[str, Any] = {trait.name: getattr(evaluator, trait.name, trait.default) for trait in fields(Traits)}
    return Traits(**said)


class OtherTokens(Exception):
    """Asked for what compares a policy with SFT token by token, of one whose tokens or template are others."""


class Evaluator(Protocol):
    """Scores one policy's responses; its constructor's arguments are its YAML settings.

    `responses[i]` and `baseline[i]` answer the same prompt; the baseline is the SFT checkpoint sampled with the same
    seed. A metric `win_rate.NAME` yields 1, 0.5 or 0 a prompt (win, tie, loss against the baseline).
    """

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterable[Score]: ...


class RewardEvaluator(Evaluator, Protocol):
    """Scores each response alone and compares the numbers; `score` does both at once."""

    has_rewards: bool
    """True."""

    def rewards(self, generations: Sequence[Generation]) -> list[float]:
        """A number a response, the same in whatever company it is asked for, but for its last digits."""
        ...

    def compare(
        self, responses: Sequence[Generation], rewards: Sequence[float], baseline: Sequence[float]
    ) -> Iterable[Score]:
        """The scores of responses from their rewards and those of the baseline's responses to the same prompts."""
        ...


class OpenPolicy(Protocol):
    """A policy in memory; it reads text, so that an evaluator need not know its tokenizer.

    One that was trained elsewhere may have a tokenizer or template of its own: `logps` and `entropies`, which are
    compared with SFT's, then raise `OtherTokens`, and an evaluator that lets it pass is left out for that policy.
    """

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

    needs_policy: bool
    """True."""

    def score(
        self,
        responses: Sequence[Generation],
        baseline: Sequence[Generation],
        *,
        policy: OpenPolicy,
        reference: OpenPolicy,
    ) -> Iterable[Score]: ...
