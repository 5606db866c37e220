"""Replies that people rated on their own, good or not, as KTO learns from: read and brought to one form.

A row has `prompt` and `completion`, each text or chat messages, and `label` (true or false), as TRL reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..results.integrity import digest
from ..results.records import Message
from .files import path_of, read_file
from .messages import Unusable, messages_of
from .read import Reading, check_prompt, is_true

LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}  # 1 is True to Python


@dataclass(frozen=True)
class RatedRow:
    """One reply to one prompt, and whether it was found good; a demonstration is."""

    id: str
    prompt: tuple[Message, ...]
    reply: str
    good: bool
    cut: bool = False
    """True for a reply that did not end by itself (`chosen_cut` of a good one, `rejected_cut` of a bad one)."""


def read_unpaired(source: str) -> Reading[RatedRow]:
    """The usable rows of a local file; InputError if there is none, and at the end if no row can be used."""
    path = path_of(source)
    if not path.is_file():
        raise InputError(f"there is no file {source}; give a file with rows of prompt, completion and label")
    return Reading(read_file(path), source, _row, ("completion", "label"), "prompt, completion, label")


def completion_of(fields: Mapping[str, Any]) -> tuple[list[Message], str]:
    """The prompt of a row, and the text of its completion; Unusable where they are none."""
    prompt = messages_of(fields.get("prompt"), "prompt", "user")
    reply = messages_of(fields.get("completion"), "completion", "assistant")
    check_prompt(prompt)
    if len(reply) != 1 or reply[0]["role"] != "assistant":
        raise Unusable("completion is not one reply")
    return prompt, reply[0]["content"]


def _row(fields: Mapping[str, Any]) -> RatedRow:
    prompt, text = completion_of(fields)
    label = fields.get("label")
    label = label.strip().lower() if isinstance(label, str) else label
    if not isinstance(label, str | bool | int) or label not in LABELS:
        raise Unusable("label is neither true nor false")
    good = LABELS[label]
    cut = is_true(fields.get("chosen_cut" if good else "rejected_cut"))
    name = digest([prompt, text, good, *([cut] if cut else [])])[:16]
    return RatedRow(name, tuple(prompt), text, good, cut)
