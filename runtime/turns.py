"""Passes through divided weights: all processes make each of them at once, whichever one's texts it is for.

A pass brings a layer's weights together when it gets to it, which takes all processes. So each says what pass it is
about to make, all make the first of these, and whoever wanted another or none makes it with a token of nothing. After a
pass with gradients comes its backward pass, before any other pass: a loss has one.
"""

import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch

from . import processes

Pass = tuple[str, bool]  # through which weights, and whether with gradients


class Divided(ABC):
    """Weights that all processes go through at once; a subclass has a pass with a token of nothing."""

    def __init__(self, name: str):
        """name: the same in all processes; of weights that are equal in number and kind."""
        self.name, self._joins = name, False
        _known[name].add(self)

    @abstractmethod
    def nothing(self) -> None:
        """A pass that changes nothing, with a backward pass where gradients are enabled."""

    def go(self, work: Callable[..., Any], **inputs: Any) -> Any:
        """Make a pass when it is its turn. An error in it ends all processes, for the others wait in its middle."""
        if not self._joins:
            take_turn((self.name, torch.is_grad_enabled()))
        try:
            return work(**inputs)
        except Exception as error:
            processes.end_all(error)

    def join(self, grads: bool) -> None:
        """Take part in another process's pass."""
        self._joins = True
        with torch.set_grad_enabled(grads):
            self.nothing()
        self._joins = False


_known: dict[str, WeakSet[Divided]] = defaultdict(WeakSet)
_numbers = itertools.count()


def agreed_name() -> str:
    """A name for weights that all processes divide at the same moment."""
    return f"trained {processes.broadcast(next(_numbers))}"


def take_turn(wanted: Pass | None = None) -> None:
    """Return when all processes are about to make the wanted pass, None: when none wants one any more.

    Meanwhile this one takes part in the others' passes. RuntimeError in the first process while the others wait for
    work: none would come.
    """
    if processes.are_waiting():
        raise RuntimeError("a pass through divided weights takes all processes, and the others wait for work")
    while asked := [each for each in processes.all_gather(wanted) if each is not None]:
        name, grads = first = min(asked)
        if first == wanted:
            return
        next(iter(_known[name])).join(grads)


def end_turns() -> None:
    """After work in which the processes make passes of different number: return when all have made theirs."""
    if processes.is_sharding():
        take_turn()
