"""A prompt as the model sees it: rendered by the chat template, as token ids, under one hash."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...models.chat import Refused, encode_rendered, render
from ...results.records import Message


@dataclass(frozen=True)
class Shown:
    """A prompt as text and token ids."""

    text: str
    ids: list[int]

    @property
    def hash(self) -> int:
        """64 bits of its token ids, by which two prompts are one."""
        return ids_hash(self.ids)


def show(tokenizer: Any, prompts: Sequence[Sequence[Message]]) -> list[Shown | str]:
    """Each prompt as the model sees it, or the reason why the template refuses it."""
    texts: list[str | Refused] = []
    for messages in prompts:
        try:
            texts.append(render(tokenizer, messages))
        except Refused as refused:
            texts.append(refused)
    encoded = iter(encode_rendered(tokenizer, [text for text in texts if isinstance(text, str)]))
    return [Shown(text, next(encoded)) if isinstance(text, str) else str(text) for text in texts]


def ids_hash(*sequences: Sequence[int], also: str = "") -> int:
    """64 bits of the hash of sequences of token ids, and of what else tells rows apart."""
    found = hashlib.blake2b(also.encode(), digest_size=8)
    for ids in sequences:
        found.update(len(ids).to_bytes(8, "little") + np.asarray(ids, "<i4").tobytes())
    return int.from_bytes(found.digest(), "little")


def least(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The least value of each one's group, in the order of the values; a value alone in its group is itself."""
    names, place = np.unique(groups, return_inverse=True)
    found = np.full(len(names), np.iinfo(values.dtype).max, values.dtype)
    np.minimum.at(found, place, values)
    return found[place]
