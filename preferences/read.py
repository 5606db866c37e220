"""Preference pairs: read from files, folders or the hub, brought to one form, and split by prompt.

A row has `prompt`, `chosen` and `rejected`, each text or chat messages (messages.py), or what other tools call them
(columns.py); and perhaps `subset`, `labeler_id`, and `chosen_cut` or `rejected_cut`, true for a reply that did not end
by itself. A row whose `tie` is true, whose `answer` is "skip" (labels.py) or whose own scores are equal or the other
way round states no preference and is dropped. Other fields are ignored. `prompt` may be left out where both replies
contain the conversation: as messages, or as a transcript in the format of HH-RLHF
("\\n\\nHuman: ...\\n\\nAssistant: ..."). Two plain texts without a prompt are not guessed at: the words they start with
alike need not be a prompt. White space around each text is dropped, so a row has the same id in every format.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..errors import InputError, nearest
from ..results.integrity import digest
from ..results.records import Message
from .columns import REPLIES, Columns, by_scores, shape_of, standard, with_context
from .files import open_source
from .messages import Unusable, encodable, messages_of

Row = TypeVar("Row", bound="Identified")
Prompted = TypeVar("Prompted", bound="HasPrompt")

PAIRED = ("chosen", "rejected")


class Identified(Protocol):
    @property
    def id(self) -> str: ...


class HasPrompt(Protocol):
    @property
    def prompt(self) -> Any: ...


@dataclass(frozen=True)
class PreferenceRow:
    """One pair of replies to one prompt."""

    id: str
    """Hash of prompt, chosen, rejected and labeler: the same row has the same id everywhere."""
    prompt: tuple[Message, ...]
    """The conversation so far; its last message is the user's."""
    chosen: str
    rejected: str
    subset: str | None
    labeler_id: str | None
    cut: tuple[bool, bool] = (False, False)
    """True for a reply (chosen, rejected) that was cut: it did not end by itself."""


class Reading(Generic[Row]):
    """The usable rows of a source, each once by its id, and the counts of all others by reason.

    Go over it once: a row is in memory while it is looked at. At the end comes an InputError if there were no rows,
    one of the fields was in none of them, or no row could be used.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        source: str,
        form: Callable[[Mapping[str, Any]], Row],
        fields: Sequence[str],
        needs: str,
    ):
        """form: brings a row to its form, or raises Unusable. needs: what a row must have, in words."""
        self.rows, self.source, self.form, self.fields, self.needs = rows, source, form, fields, needs
        self.read = 0
        self._dropped: Counter[str] = Counter()

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that could not be used by reason, most common first."""
        return dict(self._dropped.most_common())

    def __iter__(self) -> Iterator[Row]:
        columns: set[str] = set()
        ids = HashSet()
        for raw in self.rows:
            self.read += 1
            columns.update(raw)
            try:
                row = self.form(raw)
                if not ids.add(int(row.id, 16)):
                    raise Unusable("duplicate row")
            except Unusable as reason:
                self._dropped[str(reason)] += 1
            else:
                yield row
        check_columns(columns, self.read, self.source, self.fields)
        if not ids.count:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.dropped.items())
            raise InputError(
                f"{self.source}: none of its {self.read} rows can be used ({reasons}); a row needs {self.needs}"
                + ("" if "prompt" in columns else f"; there is no field 'prompt', {nearest('prompt', columns)}")
            )


class HashSet:
    """A set of 64-bit hashes at 11 to 22 bytes each, where a set of Python's takes 70.

    Open addressing: hashes are spread evenly, so one's last bits are its place, or the next place that is free.
    """

    def __init__(self):
        self.places, self.count = array("Q", bytes(8 * 1024)), 0  # 0: free

    def add(self, key: int) -> bool:
        """Add a hash; whether it is new."""
        if 4 * self.count >= 3 * len(self.places):
            old, self.places = self.places, array("Q", bytes(16 * len(self.places)))
            for each in filter(None, old):
                self.places[self._place(each)] = each
        place = self._place(key or 1)
        new = not self.places[place]
        self.places[place] = key or 1
        self.count += new
        return new

    def _place(self, key: int) -> int:
        """The place of a hash, found or free."""
        last = len(self.places) - 1
        place = key & last
        while self.places[place] not in (0, key):
            place = (place + 1) & last
        return place


def read_preferences(source: str, split: str = "train", columns: Columns | None = None) -> Reading[PreferenceRow]:
    """Preference pairs of a local file or folder, or of a hub data set.

    split: the split of a hub data set, or of a folder whose files or subfolders are named after splits. columns: the
    source's own names, see columns.py. Going over them ends with an InputError if there is no such source, it cannot
    be read, or it has no usable row.
    """
    return from_rows(_checked_tables(source, split, columns), source)


def from_rows(rows: Iterable[Mapping[str, Any]], source: str) -> Reading[PreferenceRow]:
    """Preference pairs of rows from elsewhere; source: what errors call it."""
    return Reading(rows, source, normalise, PAIRED, "a prompt and two replies to it, chosen and rejected, that differ")


def _checked_tables(source: str, split: str, columns: Columns | None) -> Iterator[dict[str, Any]]:
    """The rows of a source; InputError names the file of several that has no preferences."""
    for where, rows in open_source(source, split, columns):
        found: set[str] = set()
        read = 0
        for row in rows:
            found |= row.keys()
            read += 1
            yield row
        check_columns(found, read, where)


def read_source(source: str, split: str = "train", columns: Columns | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a local file or folder, or of a hub data set; InputError as `read_preferences`."""
    for _, rows in open_source(source, split, columns):
        yield from rows


def usable(raw: Mapping[str, Any]) -> PreferenceRow | str:
    """A pair in the one form whether it states a preference or not, or the reason why it is dropped."""
    try:
        return pair_of(raw)
    except Unusable as reason:
        return str(reason)


def split_by_prompt(
    rows: Sequence[Prompted], shares: Mapping[str, float], seed: int, source: str = "the preferences"
) -> dict[str, list[Prompted]]:
    """Rows with a `prompt`, split so that all rows of a prompt are on one side; see `places_by_prompt`."""
    keys = np.fromiter((split_key(seed, row.prompt) for row in rows), np.uint64, len(rows))
    return {name: [rows[i] for i in places] for name, places in places_by_prompt(keys, shares, source).items()}


def split_key(seed: int, prompt: Any) -> int:
    """A 64-bit hash of a prompt (the exact text of its messages), by which prompts are ranked for a split."""
    return int(digest([seed, prompt])[:16], 16)


def places_by_prompt(keys: np.ndarray, shares: Mapping[str, float], source: str) -> dict[str, np.ndarray]:
    """The places of the rows of each split, in their order; rows of one prompt, by its `split_key`, are on one side.

    shares: parts of the prompts, each above 0, scaled to sum to 1; a split gets its share rounded up or down (largest
    remainders up). Prompts are ranked by their keys, so the order of rows does not matter. source: for the InputError
    that says how many prompts are needed if a split would be empty.
    """
    ranked, rank = np.unique(keys, return_inverse=True)
    total = sum(shares.values())
    # Rounded, lest float noise decide between equal remainders.
    exact = {name: round(len(ranked) * share / total, 9) for name, share in shares.items()}
    sizes = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: sizes[name] - exact[name])
    for name in by_remainder[: len(ranked) - sum(sizes.values())]:
        sizes[name] += 1
    if not all(sizes.values()):
        needed = math.ceil(round(total / min(shares.values()), 9))
        have = f"{source} has {len(ranked)}; give more prompts or larger shares"
        raise InputError(f"splitting into {', '.join(shares)} needs at least {needed} prompts, {have}")
    side = np.searchsorted(np.cumsum(list(sizes.values())), rank, side="right")
    return {name: np.flatnonzero(side == number) for number, name in enumerate(sizes)}


# One row


def normalise(raw: Mapping[str, Any]) -> PreferenceRow:
    """A row brought to one form; Unusable says why it cannot be."""
    if reason := no_preference(raw):
        raise Unusable(reason)
    return pair_of(raw)


def pair_of(raw: Mapping[str, Any]) -> PreferenceRow:
    """Prompt and two replies of a row, the preferred or first one as chosen; Unusable says why they are none."""
    raw = standard(raw)
    given = [] if raw.get("prompt") is None else messages_of(raw["prompt"], "prompt", "user")
    chosen, rejected = (messages_of(raw.get(side), side, "assistant") for side in ("chosen", "rejected"))
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[-1]["role"] != "assistant":
            raise Unusable(f"{side} does not end with the assistant's turn")
        if not messages[-1]["content"]:
            raise Unusable(f"{side} is empty")
    prompt = with_context(raw, _prompt(given, chosen[:-1], rejected[:-1]))
    check_prompt(prompt)
    replies = chosen[-1]["content"], rejected[-1]["content"]
    if replies[0] == replies[1]:
        raise Unusable("chosen equals rejected")
    labeler = _label(raw.get("labeler_id"))
    cut = is_true(raw.get("chosen_cut")), is_true(raw.get("rejected_cut"))
    # Two people who prefer the same reply are two rows, so the labeler is part of the id.
    name = digest([prompt, *replies, labeler, *([cut] if any(cut) else [])])[:16]
    return PreferenceRow(name, tuple(prompt), *replies, _label(raw.get("subset")), labeler, cut)


def prompt_of(raw: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt of a row, from its own field or from what its replies share; Unusable if there is none."""
    raw = standard(raw)
    given = [] if raw.get("prompt") is None else messages_of(raw["prompt"], "prompt", "user")
    if not given:
        chosen, rejected = (messages_of(raw.get(side), side, "assistant") for side in ("chosen", "rejected"))
        given = _prompt([], chosen[:-1], rejected[:-1])
    given = with_context(raw, given)
    check_prompt(given)
    return tuple(given)


def no_preference(raw: Mapping[str, Any]) -> str | None:
    """The reason why a row prefers neither reply (`tie`, `answer`, see labels.py), or its own scores do not prefer the
    one that it names; None where all is well."""
    if raw.get("answer") == "skip":
        return "skipped by the labeller"
    if raw.get("answer") == "both_bad":
        return "both bad by the labeller"
    return "tie" if is_true(raw.get("tie")) or raw.get("answer") == "tie" else by_scores(raw)


def is_true(value: Any) -> bool:
    """A flag of a row, which a CSV has as text."""
    return str(value).lower() in ("true", "1", "1.0")


def check_prompt(prompt: list[Message]) -> None:
    """Unusable says why messages are no prompt."""
    if not any(message["role"] == "user" for message in prompt):
        raise Unusable("prompt has no user message")
    if prompt[-1]["role"] != "user":
        raise Unusable("prompt does not end with the user's turn")
    if not prompt[-1]["content"]:
        raise Unusable("prompt is empty")


def _prompt(given: list[Message], before_chosen: list[Message], before_rejected: list[Message]) -> list[Message]:
    """The prompt of a row from its own field and from what stands before the two replies, each perhaps empty."""
    if not given:
        if before_chosen != before_rejected:
            raise Unusable("chosen and rejected do not share a prompt")
        if not before_chosen:
            raise Unusable("prompt is missing")
        return before_chosen
    for side, before in (("chosen", before_chosen), ("rejected", before_rejected)):
        # Some data sets repeat the prompt, whole or as its first or last message, in both replies' conversations.
        if before and given not in (before[: len(given)], before[-len(given) :]):
            raise Unusable(f"{side} is not one reply to the prompt")
    if before_chosen and before_rejected and before_chosen != before_rejected:
        raise Unusable("chosen and rejected do not share a prompt")
    return before_chosen or before_rejected or given


def _label(value: Any) -> str | None:
    """The text of a labeler's or subset's name; None where there is none (null, empty, NaN) or it is no name."""
    if not isinstance(value, str | int | float) or value == "" or value != value:
        return None
    return str(value) if encodable(str(value)) else None


def check_columns(columns: Iterable[str], read: int, where: str | Path, fields: Iterable[str] = PAIRED) -> None:
    """InputError if there are no rows, or none has one of the fields; it says how the file can be read."""
    if not read:
        raise InputError(f"{where} holds no rows; give a file with rows of {', '.join(('prompt', *fields))}")
    columns = set(columns)
    missing = [field for field in fields if field not in columns and REPLIES.get(field) not in columns]
    shape = shape_of(columns)
    if not missing or (fields == PAIRED and shape == "pairs"):
        return
    if fields == PAIRED and shape:
        raise InputError(
            f"{where}: its rows are of the shape {shape}, not pairs; `bench convert {where} pairs.jsonl` writes pairs, "
            f"which can be given"
        )
    raise InputError(
        f"{where}: no row has the field {missing[0]!r}; {nearest(missing[0], columns)}; say which column it is with "
        f"--columns {missing[0]}=COLUMN"
    )
