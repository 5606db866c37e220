"""Messages of a field of a row, however a tool wrote them down, and what is no message that can be trained on.

Plain text is one message; HH-RLHF's transcripts, ShareGPT's `from` and `value`, contents in parts of text, and messages
saved as a string (JSON or Python's own form) are read. Reasoning in a field of its own is put before the content as
models write it, <think>...</think>. Tool calls are refused: a row without them would say something else.
"""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from ..results.records import Message

ROLES = ("system", "user", "assistant")
OTHER_NAMES = {"human": "user", "gpt": "assistant", "developer": "system"}  # of ShareGPT, and OpenAI's for system
TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython")
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning_content", "thinking", "reasoning")
TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
SAVED = re.compile(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]\s*:.*\}\s*\]\s*\Z", re.DOTALL)
TOOLS = "holds tools or tool calls, which are not supported"


class Unusable(Exception):
    """A row that is dropped; the text is the reason under which it is counted."""


def messages_of(value: Any, field: str, role: str) -> list[Message]:
    """Messages of a field; plain text becomes one message of the role, a transcript the messages of its turns."""
    if value is None:
        raise Unusable(f"{field} is missing")
    if isinstance(value, str) and SAVED.match(value):
        value = _parsed(value, field)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str):
        messages = _transcript(value, field) if TRANSCRIPT.match(value) else [{"role": role, "content": value}]
    elif isinstance(value, list | tuple) and all(isinstance(message, Mapping) for message in value):
        messages = [_message(message, field) for message in value]
    else:
        raise Unusable(f"{field} is neither text nor messages")
    for message in messages:
        if not encodable(message["content"]):
            raise Unusable(f"{field} is not valid Unicode")
        message["content"] = message["content"].strip()
    if not any(message["content"] for message in messages):
        raise Unusable(f"{field} is empty")
    return messages


def encodable(text: str) -> bool:
    """True if text can be written as UTF-8: JSON can hold half of a surrogate pair, a tokenizer cannot."""
    return not re.search("[\ud800-\udfff]", text)


def _message(given: Mapping[str, Any], field: str) -> Message:
    """A message under our names; Unusable says why it is none."""
    role = given.get("role", given.get("from"))
    role = OTHER_NAMES.get(role, role) if isinstance(role, str) else role
    if role in TOOL_ROLES or any(given.get(name) for name in CALLS):
        raise Unusable(TOOLS)
    if role not in ROLES:
        raise Unusable(f"{field} has a role other than {', '.join(ROLES)}")
    content = given.get("content", given.get("value"))
    if isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content):
        content = "".join(_text_of(part, field) for part in content)
    content = "" if content is None else content
    if not isinstance(content, str):
        raise Unusable(f"{field} is neither text nor messages")
    thoughts = next((given[name] for name in REASONING if given.get(name)), "")
    if not isinstance(thoughts, str):
        raise Unusable(f"{field} has reasoning that is no text")
    if thoughts.strip() and "</think>" not in content:
        content = f"<think>\n{thoughts.strip()}\n</think>\n\n{content.strip()}"
    return {"role": role, "content": content}


def _text_of(part: Mapping[str, Any], field: str) -> str:
    if not isinstance(part.get("text"), str):
        raise Unusable(f"{field} has parts that are no text")
    return part["text"]


def _parsed(text: str, field: str) -> Any:
    """Messages from the text that they were saved as."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise Unusable(f"{field} is messages saved as a text that cannot be read back")


def _transcript(text: str, field: str) -> list[Message]:
    """Turns of an HH-RLHF transcript; a prompt's closing "Assistant:" only says whose turn it is."""
    _, *parts = TURN.split(text)
    turns = [
        {"role": "user" if speaker == "Human" else "assistant", "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    if field == "prompt" and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return turns
