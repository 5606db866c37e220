"""Demonstrations, which SFT imitates, and prompts without a reply: read from a team's own files.

A demonstration is `prompt` and `completion`, each text or chat messages, as TRL reads them; or a conversation that ends
with the assistant's turn, of which the last reply is imitated. A prompt is the field `prompt`, what two replies share,
or a conversation, whose last reply is left out if it has one. A conversation is messages, or a transcript, in one of
the fields CONVERSATION; `subset` of a prompt is kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..results.integrity import digest
from ..results.records import Message
from .files import path_of, read_file
from .read import Reading, Row, Unusable, check_prompt, encodable, messages_of, prompt_of
from .unpaired import RatedRow, completion_of

CONVERSATION = ("messages", "conversation", "conversations", "text")
DEMONSTRATION = "prompt and completion, or messages that end with the assistant's turn"


@dataclass(frozen=True)
class PromptRow:
    """A prompt."""

    id: str
    prompt: tuple[Message, ...]
    subset: str | None


def read_demonstrations(source: str, field: str) -> Reading[RatedRow]:
    """The demonstrations of a local file; InputError if there is none, and at the end if no row can be used.

    field: where the file is named, for errors.
    """
    return _reading(source, field, _demonstration, DEMONSTRATION)


def read_prompts(source: str, field: str) -> Reading[PromptRow]:
    """The prompts of a local file; errors as `read_demonstrations`."""
    return _reading(source, field, _prompt, "a prompt, text or messages that end with the user's turn")


def _reading(source: str, field: str, form: Callable[[Mapping[str, Any]], Row], needs: str) -> Reading[Row]:
    path = path_of(source)
    if not path.is_file():
        raise InputError(f"{field}: there is no file {source}; give a file with rows of {needs}")
    return Reading(read_file(path), source, form, (), needs)


def _demonstration(raw: Mapping[str, Any]) -> RatedRow:
    if raw.get("completion") is not None:
        prompt, reply = completion_of(raw)
    else:
        field, messages = _conversation(raw)
        if messages[-1]["role"] != "assistant":
            raise Unusable(f"{field} does not end with the assistant's turn")
        *prompt, last = messages
        reply = last["content"]
        if not prompt:
            raise Unusable("prompt is missing")
        check_prompt(prompt)
    if not reply:
        raise Unusable("reply is empty")
    return RatedRow(digest([prompt, reply])[:16], tuple(prompt), reply, good=True)


def _prompt(raw: Mapping[str, Any]) -> PromptRow:
    if any(raw.get(field) is not None for field in ("prompt", "chosen", "rejected")):
        prompt = prompt_of(raw)
    else:
        messages = _conversation(raw)[1]
        kept = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if not kept:
            raise Unusable("prompt is missing")
        check_prompt(kept)
        prompt = tuple(kept)
    subset = raw.get("subset")
    is_name = isinstance(subset, str) and subset and encodable(subset)
    return PromptRow(digest(list(prompt))[:16], prompt, subset if is_name else None)


def _conversation(raw: Mapping[str, Any]) -> tuple[str, list[Message]]:
    """The first field that holds a conversation, and its messages; Unusable where there is none."""
    for field in CONVERSATION:
        if raw.get(field) is not None:
            return field, messages_of(raw[field], field, "user")
    raise Unusable("prompt is missing")
