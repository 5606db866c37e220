"""Labellers that work alone: simulated people, a reward model, a judge. All write the same rows as people do.

A labeller gives one `Verdict` an item. What it prefers does not depend on the other items, so labelling can stop and
go on at any item.
"""

import dataclasses
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from tqdm import tqdm

from ..errors import InputError
from ..evaluators.gold import Gold
from ..evaluators.judge import Judge
from ..models.reward_model import RewardModel
from ..models.tuning import Tuning
from ..results.integrity import digest, write_json
from ..results.records import Generation
from .labels import (
    LABELLERS,
    Answer,
    Item,
    Shown,
    append,
    label_path,
    locked,
    make_label,
    read_items,
    read_labels,
    read_record,
    repair,
)

SIDES: dict[Shown, tuple[Literal["a", "b"], Literal["a", "b"]]] = {"ab": ("a", "b"), "ba": ("b", "a")}
CHUNK = 64  # items that are labelled together and written at once
POLITE = re.compile(
    r"\b(please|thanks?|thank you|sorry|apologi[sz]e|welcome|happy to|glad to|hope (this|that) helps)\b", re.IGNORECASE
)


class Verdict(NamedTuple):
    """One answer, the order in which the responses were seen, and why."""

    answer: Answer
    shown: Shown
    reasoning: str


class Labeller(Protocol):
    """A dataclass of settings that labels items."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def label(self, items: Sequence[Item]) -> Iterator[Verdict]: ...


@dataclass(frozen=True)
class SimulatedPerson:
    """A Bradley-Terry draw on the true reward and on what biases this person (all in units of the reward).

    P(first preferred) = (1 - inattention) sigmoid(sharpness (v_1 - v_2 + position)) + inattention / 2, where
    v = reward + length * words / 10 + politeness * (1 if the response is polite), and first is what is shown first
    (drawn for each item). Bradley and Terry (1952), eq. 1 without biases.
    """

    name: str
    reward: str
    """The true reward, as package.module:function; see evaluators/gold.py."""
    sharpness: float = 4.0
    """Noise: a difference of 1/sharpness in reward is seen 73% of the time. Above 0."""
    length: float = 0.0
    """Reward that ten words more are worth to this person."""
    position: float = 0.0
    """Reward that being shown first is worth; negative prefers the second."""
    politeness: float = 0.0
    """Reward that a polite phrase is worth."""
    inattention: float = 0.0
    """Share of items answered by a coin, 0 to 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.inattention <= 1:
            raise InputError(f"the bias inattention={self.inattention} is a share of items; give 0 to 1")
        if not 0 < self.sharpness < math.inf:
            raise InputError(f"--sharpness {self.sharpness} is not a number above 0")
        for bias in ("length", "position", "politeness"):
            if not math.isfinite(getattr(self, bias)):
                raise InputError(f"the bias {bias}={getattr(self, bias)} is not a finite number")
        Gold(self.reward)  # a wrong name is told before anything is labelled

    def label(self, items: Sequence[Item]) -> Iterator[Verdict]:
        both = [_generation(item, side) for item in items for side in "ab"]
        gold = [s for s in Gold(self.reward).score(both, both) if s.metric == "reward.gold"]
        rewards = [s.value for s in gold if s.value is not None]  # it is never None
        for item, a, b in zip(items, rewards[::2], rewards[1::2], strict=True):
            rng = random.Random(digest([self.seed, self.name, item.id]))
            shown: Shown = rng.choice(("ab", "ba"))
            seen = {"a": self._value(item.a, a), "b": self._value(item.b, b)}
            first, second = SIDES[shown]
            if rng.random() < self.inattention:
                answer, why = rng.choice((first, second)), "not read"
            else:
                margin = self.sharpness * (seen[first] - seen[second] + self.position)
                answer = first if rng.random() < _sigmoid(margin) else second
                why = f"true reward a {a:.3f}, b {b:.3f}; as seen a {seen['a']:.3f}, b {seen['b']:.3f}"
            yield Verdict(answer, shown, f"simulated: {why}")

    def _value(self, text: str, reward: float) -> float:
        return reward + self.length * len(text.split()) / 10 + self.politeness * bool(POLITE.search(text))


@dataclass(frozen=True)
class RewardModelLabeller:
    """Prefers the response that a reward model scores higher; equal scores are a tie."""

    name: str
    model: str
    """Folder of a sequence classifier with one output."""
    tuning: Tuning = field(default_factory=Tuning)
    """Device and precision."""

    def label(self, items: Sequence[Item]) -> Iterator[Verdict]:
        scores = self._model([_generation(item, side) for item in items for side in "ab"])
        for a, b in zip(scores[::2], scores[1::2], strict=True):
            answer: Answer = "tie" if a == b else "a" if a > b else "b"
            yield Verdict(answer, "ab", f"reward model: a {a:.4f}, b {b:.4f}")

    @cached_property
    def _model(self) -> RewardModel:
        return RewardModel.open(self.model, self.tuning.resolve())


@dataclass(frozen=True)
class JudgeLabeller:
    """Prefers what a judge prefers in both orders; a judge that goes by the order ties, one that gives no answer skips.

    Each item is asked in both orders, so the order in the row says nothing.
    """

    name: str
    judge: Judge

    def label(self, items: Sequence[Item]) -> Iterator[Verdict]:
        ours, theirs = ([_generation(item, side) for item in items] for side in "ab")
        wins = [s.value for s in self.judge.score(ours, theirs) if s.metric == "win_rate.judge"]
        for win in wins:
            if win is None:
                yield Verdict("skip", "ab", "judge: no valid answer")
            elif win == 0.5:
                yield Verdict("tie", "ab", "judge: another answer in the other order")
            else:
                yield Verdict("a" if win > 0.5 else "b", "ab", "judge: the same answer in both orders")


def label_all(directory: Path, labeller: Labeller, name: str) -> Counter[str]:
    """Label the items of a collection that this labeller has not labelled yet; returns its answers by kind.

    InputError if the folder has no items, if a labeller of this name worked there with other settings, or if another
    process is labelling under the name. Answers are on the disk chunk by chunk.
    """
    path = label_path(directory, name)
    items = read_items(directory)
    with locked(directory, f"label-{name}"):
        _remember(directory, labeller, name)
        if torn := repair(path):
            tqdm.write(f"warning: {torn}")
        before = read_labels(path)
        done = {label.item for label in before}
        todo = [item for item in items if item.id not in done]
        answers: Counter[str] = Counter(label.answer for label in before)
        with tqdm(total=len(items), initial=len(items) - len(todo), desc=name, unit="item", disable=None) as bar:
            for start in range(0, len(todo), CHUNK):
                chunk = todo[start : start + CHUNK]
                verdicts = list(labeller.label(chunk))
                append(
                    path,
                    [
                        make_label(item, v.answer, name, v.shown, reasoning=v.reasoning)
                        for item, v in zip(chunk, verdicts, strict=True)
                    ],
                )
                answers.update(v.answer for v in verdicts)
                bar.update(len(chunk))
    return answers


def _remember(directory: Path, labeller: Labeller, name: str) -> None:
    """Write a labeller's settings beside the collection; InputError if they are not those it began with."""
    settings = json.loads(json.dumps({"kind": type(labeller).__name__, **dataclasses.asdict(labeller)}))
    path = directory / LABELLERS
    with locked(directory, "labellers"):
        known = read_record(path) if path.exists() else {}
        if known.get(name, settings) != settings:
            raise InputError(
                f"{name} has labelled {directory} with other settings; give those again to go on, or another --name"
            )
        write_json(path, {**known, name: settings})


def _generation(item: Item, side: str) -> Generation:
    text, is_cut = (item.a, item.a_cut) if side == "a" else (item.b, item.b_cut)
    return Generation(item.id, item.prompt, text, length=0, finished=not is_cut)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
