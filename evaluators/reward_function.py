"""A function as a reward: how it is found, what it has to return, and the evaluator that scores with it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from ..errors import InputError
from ..results.records import Generation, Message
from .reward_model import RewardWinRate

Function = Callable[[Sequence[Message], str], Mapping[str, float | None]]
FORM = "give it as package.module:function, of a package that is installed or on PYTHONPATH"


def load_function(name: str, asked_by: str) -> Function:
    """The function package.module:function; InputError, which begins with asked_by, where there is none."""
    try:
        function: Any = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{asked_by} {name!r} cannot be loaded ({error}); {FORM}") from None
    if not callable(function):
        raise InputError(f"{asked_by} {name!r} is not a function; {FORM}")
    return function


def outcome(function: Function, name: str, asked_by: str, generation: Generation) -> dict[str, float]:
    """The reward and the facets that apply, as numbers; InputError where the function returns anything else."""
    returned = function(generation.prompt, generation.response)
    try:
        rewards = {facet: float(value) for facet, value in returned.items() if value is not None}
    except (AttributeError, TypeError, ValueError):
        rewards = {}
    if "reward" not in rewards or not all(map(math.isfinite, rewards.values())):
        raise InputError(
            f"{asked_by}: {name} returned {str(returned)[:80]} for prompt {generation.prompt_id}; "
            f"it has to return a mapping of finite numbers with the key 'reward'"
        )
    return rewards


def reward_of(name: str, asked_by: str) -> Callable[[Sequence[Generation]], list[float]]:
    """The rewards of a function, package.module:function. InputError, which begins with asked_by, where there is none,
    for what is no reward, and for an error of its own."""
    function = load_function(name, asked_by)

    def rewards(generations: Sequence[Generation]) -> list[float]:
        try:
            return [outcome(function, name, asked_by, each)["reward"] for each in generations]
        except InputError:
            raise
        except Exception as error:  # of the function's own code
            raise InputError(
                f"{asked_by}: {name} failed ({type(error).__name__}: {error}); repair the function"
            ) from error

    return rewards


@dataclass(frozen=True)
class RewardFunction(RewardWinRate):
    """Win rate of the policy's responses against the SFT checkpoint's by a function.

    Its `rewards` are a `Reward` that methods may be trained on. It holds the function's name alone, so it goes to any
    process.
    """

    reward: str
    """The function, as package.module:function; of the form that `gold` takes."""
    label: str
    """The label in names of metrics: reward.LABEL and win_rate.LABEL."""

    @property
    def calls(self) -> tuple[str, ...]:
        return (self.reward,)

    def rewards(self, generations: Sequence[Generation]) -> list[float]:
        """The function's rewards, as those of a benchmark's `training_reward`; errors as `reward_of`."""
        return reward_of(self.reward, "training_reward")(generations)
