"""PPO under a constraint with a Lagrange multiplier (safe RLHF): Dai et al. (2024, arXiv:2310.12773)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from ..errors import InputError, TrainingError
from ..models.network import Network
from ..models.policy import Policy
from ..models.sampler import Sample, to_generations
from ..results.records import Generation
from ..training.task import TrainingTask
from .ppo import PPO, Trainer

LENGTH = "length"


@dataclass(frozen=True, kw_only=True)
class PPOLagrangian(PPO):
    """PPO that keeps the mean of another quantity on one side of a limit, by a multiplier that learns beside it.

    A response is worth (reward - m cost) / (1 + m), where cost is how far its quantity is beyond the limit; m grows
    while the round's mean is beyond it and shrinks otherwise, both as in the authors' code, where it is advantages that
    are weighed so. The paper's cost is a model's, here it is a function; one critic learns the sum.
    """

    quantity: str = LENGTH
    """What is constrained: `length` in tokens, or a function as package.module:function that takes (prompt messages,
    response text) and returns a number, or a mapping of such by facet. No evaluator should ask the same function."""
    facet: str = ""
    """The facet of what the function returns, where that is a mapping; responses for which it is None do not count."""
    side: Literal["at_most", "at_least"] = "at_most"
    """The side of the limit on which the mean has to stay."""
    limit: float | None = None
    """The limit of the mean, in the quantity's own unit; null takes the mean of SFT's responses (the first round's)."""
    multiplier: Annotated[float, Gt(0)] = 1.0
    """The multiplier at the start, above 0, in rewards a standard deviation of the quantity on SFT's responses."""
    multiplier_lr: Annotated[float, Gt(0)] = 0.1
    """Step of the multiplier's logarithm a round, above 0, per such deviation by which the mean is beyond the limit."""

    goal: ClassVar[str] = "multiplier"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantity != LENGTH:
            self.function()  # a wrong name is told before anything is trained

    def function(self) -> Callable[[Sequence[Any], str], Any]:
        """The function behind the quantity. InputError if there is none."""
        try:
            found = resolve_name(self.quantity)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"ppo_lagrangian: quantity {self.quantity!r} cannot be loaded ({error}); give {LENGTH} or "
                f"package.module:function"
            ) from None
        if not callable(found):
            raise InputError(
                f"ppo_lagrangian: quantity {self.quantity!r} is not a function; give package.module:function"
            )
        return found

    @property
    def functions(self) -> tuple[str, ...]:
        """Functions that a setting names, by whose code results change."""
        return () if self.quantity == LENGTH else (self.quantity,)

    def measure(self, generation: Generation) -> float:
        """The quantity of a response; not a number where it does not apply. TrainingError for what is no number."""
        if self.quantity == LENGTH:
            return float(generation.length)
        found = self.function()(generation.prompt, generation.response)
        if isinstance(found, Mapping):
            if self.facet not in found:
                facets = ", ".join(map(str, found))
                raise TrainingError(f"{self.quantity} returns no facet {self.facet!r}; set facet to one of {facets}")
            found = found[self.facet]
        if found is None:
            return math.nan
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = math.inf
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.quantity} returned {str(found)[:60]} for prompt {generation.prompt_id}, no number"
            )
        return value

    def trainer(self, task: TrainingTask, policy: Policy, reference: Policy, critic: Network | None) -> Trainer:
        return LagrangianTrainer(self, task, policy, reference, critic)


class LagrangianTrainer(Trainer):
    """One training in progress, with its multiplier."""

    def __init__(self, method: PPOLagrangian, *parts: Any):
        super().__init__(method, *parts)
        self.multiplier = method.multiplier
        self.bounds: tuple[float, float] | None = None  # the limit, and the quantity's deviation on SFT's responses

    @torch.no_grad()
    def rewards(self, samples: list[Sample]) -> tuple[Tensor, dict[str, float]]:
        final, signals = super().rewards(samples)
        values = [self.method.measure(generation) for generation in to_generations(self.policy, samples)]
        costs, mean = self.costs(torch.tensor(values))
        worth = (final - self.multiplier * costs.to(final.device)) / (1 + self.multiplier)
        signals |= {"quantity": mean, "multiplier": self.multiplier}
        applying = sum(not math.isnan(value) for value in values)
        self.multiplier *= math.exp(self.method.multiplier_lr * float(costs.sum()) / max(1, applying))
        return worth, signals

    def costs(self, values: Tensor) -> tuple[Tensor, float]:
        """How far each response is beyond the limit, in deviations (0 where the quantity does not apply); the mean."""
        applies = ~values.isnan()
        known = values[applies]
        if not len(known):
            return torch.zeros_like(values), math.nan
        if self.bounds is None:
            limit = float(known.mean()) if self.method.limit is None else self.method.limit
            self.bounds = limit, max(float(known.std(correction=0)), 1e-6)
        limit, deviation = self.bounds
        sign = 1.0 if self.method.side == "at_most" else -1.0
        beyond = sign * (values - limit) / deviation
        return torch.where(applies, beyond, torch.zeros_like(beyond)), float(known.mean())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "multiplier": self.multiplier, "bounds": self.bounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.multiplier = state["multiplier"]
        self.bounds = tuple(state["bounds"]) if state["bounds"] else None
