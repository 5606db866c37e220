"""The true reward, where a benchmark knows it: values, win rate against the baseline, and facets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..results.records import Generation, Score, win
from .reward_function import load_function, outcome


@dataclass(frozen=True)
class Gold:
    """Yields `reward.gold`, `win_rate.gold`, and `reward.gold.FACET` for every facet that applies to the prompt."""

    reward: str
    """The function, as package.module:function; it takes (prompt messages, response text) and returns a mapping with
    the number `reward` and any facets, None for a facet that does not apply."""

    scores_along = ("reward.gold",)

    def __post_init__(self) -> None:
        load_function(self.reward, "gold: reward")  # a wrong name is told before anything is trained

    @property
    def calls(self) -> tuple[str, ...]:
        return (self.reward,)

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        function = load_function(self.reward, "gold: reward")
        for ours, theirs in zip(responses, baseline, strict=True):
            mine, other = (outcome(function, self.reward, "gold", each) for each in (ours, theirs))
            yield Score("reward.gold", ours.prompt_id, mine["reward"])
            yield Score("win_rate.gold", ours.prompt_id, win(mine["reward"], other["reward"]))
            for facet, value in mine.items():
                if facet != "reward":
                    yield Score(f"reward.gold.{facet}", ours.prompt_id, value)
