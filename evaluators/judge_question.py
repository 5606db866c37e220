"""The question to a judge: a prompt file, filled with a prompt and one or two responses as data."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, nearest
from ..results.records import Message

PROMPTS = Path(__file__).parent / "prompts"


def read_template(name: str) -> str:
    """The text of a prompt file; InputError if there is none of that name."""
    known = {path.stem: path for path in PROMPTS.glob("*.txt")}
    if name not in known:
        raise InputError(f"judge: no prompt file is named {name!r}; {nearest(name, known)}")
    return known[name].read_text(encoding="utf-8")


def is_pointwise(template: str) -> bool:
    """True for a question about one response alone, which is answered with points."""
    return "{b}" not in template


def is_graded(template: str) -> bool:
    """True for a question that asks how much better a response is."""
    return "A>>B" in template


def both_orders(template: str, prompt: Sequence[Message], first: str, second: str) -> list[str]:
    """The two questions about a pair of responses: as given, and swapped."""
    return [fill(template, prompt, first, second), fill(template, prompt, second, first)]


def fill(template: str, prompt: Sequence[Message], a: str, b: str) -> str:
    """The question to the judge; prompt and answers go in as data.

    All placeholders are replaced in one pass, so that braces in an answer stay what they are. Where the template
    delimits with <tags>, the same tags in the data lose their bracket and cannot close the block they stand in.
    """
    values = {"prompt": _render(prompt), "a": a, "b": b}
    if tags := set(re.findall(r"<(\w+)>", template)):
        forged = re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(sorted(tags))})\b)", re.IGNORECASE)
        values = {name: forged.sub("&lt;", text) for name, text in values.items()}
    return re.sub(r"\{(prompt|a|b)\}", lambda match: values[match[1]], template)


def _render(prompt: Sequence[Message]) -> str:
    """A single user message as its bare text; otherwise one line `Role: text` a turn."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)
