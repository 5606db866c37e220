"""The true reward, where a benchmark knows it: values, win rate against the baseline, and facets."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from ..errors import InputError
from ..results.records import Generation, Message, Score, win

GoldReward = Callable[[Sequence[Message], str], Mapping[str, float | None]]


@dataclass(frozen=True)
class Gold:
    """Yields `reward.gold`, `win_rate.gold`, and `reward.gold.FACET` for every facet that applies to the prompt."""

    reward: str
    """The function, as package.module:function; it takes (prompt messages, response text) and returns a mapping with
    the number `reward` and any facets, None for a facet that does not apply."""

    scores_along = ("reward.gold",)

    def __post_init__(self) -> None:
        self._function()  # a wrong name is told before anything is trained

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        function = self._function()
        for ours, theirs in zip(responses, baseline, strict=True):
            mine, other = self._rewards(function, ours), self._rewards(function, theirs)
            yield Score("reward.gold", ours.prompt_id, mine["reward"])
            yield Score("win_rate.gold", ours.prompt_id, win(mine["reward"], other["reward"]))
            for facet, value in mine.items():
                if facet != "reward":
                    yield Score(f"reward.gold.{facet}", ours.prompt_id, value)

    def _function(self) -> GoldReward:
        try:
            function = resolve_name(self.reward)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"gold: reward {self.reward!r} cannot be loaded ({error}); give it as package.module:function"
            ) from None
        if not callable(function):
            raise InputError(f"gold: reward {self.reward!r} is not a function; give it as package.module:function")
        return function

    def _rewards(self, function: GoldReward, generation: Generation) -> dict[str, float]:
        """The reward and the facets that apply, as numbers."""
        outcome = function(generation.prompt, generation.response)
        try:
            rewards = {name: float(value) for name, value in outcome.items() if value is not None}
        except (AttributeError, TypeError, ValueError):
            rewards = {}
        if "reward" not in rewards or not all(map(math.isfinite, rewards.values())):
            raise InputError(
                f"gold: {self.reward} returned {str(outcome)[:80]} for prompt {generation.prompt_id}; "
                f"it has to return a mapping of finite numbers with the key 'reward'"
            )
        return rewards
