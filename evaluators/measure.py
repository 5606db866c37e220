"""A number of each response by a function of your own, beside the scores and no part of any verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..results.records import Generation, Score
from .reward_function import reward_of


@dataclass(frozen=True)
class Measure:
    """Yields `measure.NAME`, the number that a function gives a response, for each function."""

    functions: Mapping[str, str]
    """Functions as package.module:function, by the names of their measures; each takes (prompt messages, response text)
    and returns a mapping with the number `reward`."""

    def __post_init__(self) -> None:
        for name, function in self.functions.items():
            reward_of(function, f"measure: functions.{name}")  # a wrong name is told before anything is trained

    @property
    def calls(self) -> tuple[str, ...]:
        return tuple(self.functions.values())

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        for name, function in self.functions.items():
            values = reward_of(function, f"measure: functions.{name}")(responses)
            for ours, value in zip(responses, values, strict=True):
                yield Score(f"measure.{name}", ours.prompt_id, value)
