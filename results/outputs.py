"""Model-output files of AlpacaEval and Arena-Hard-Auto, written and read.

AlpacaEval (0.6): a JSON list of objects with instruction, output, generator and dataset; its evaluation set has the
same form. Arena-Hard-Auto (v2): one JSON object a line with uid, ans_id, model, messages (the last one the assistant's,
its content {"answer": text}), tstamp and metadata (token_len and counts of Markdown, for its style control), in
model_answer/<model>.jsonl; its question.jsonl has uid and prompt. The older form (question_id, turns) is read too.
Arena counts token_len with GPT-4o's tokenizer; here it is the policy's own, as no tokenizer is at hand offline.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import InputError
from .integrity import own_folder, write_json
from .records import Message
from .store import write_jsonl

Format = Literal["alpaca_eval", "arena"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Response:
    """One model's response to one question; `output` is "" in a file of questions."""

    id: str
    messages: tuple[Message, ...]
    output: str
    generator: str
    dataset: str
    tokens: int = 0
    """Length of the output by the policy's own tokenizer."""


def write_outputs(responses: Sequence[Response], format: Format, folder: Path, time: float) -> Path:
    """Write one generator's responses in a tool's format below a folder; returns the file.

    time: seconds since 1970 for Arena's tstamp. Both tools match them by instruction or uid, so a second response to
    the same question is refused.
    """
    generator = responses[0].generator
    keys = [_instruction(a.messages) if format == "alpaca_eval" else a.id for a in responses]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise InputError(f"{generator} has two responses to a question ({twice[:60]!r}); the format takes one to each")
    if format == "alpaca_eval":
        path = folder / f"{generator}.json"
        write_json(path, [_to_alpaca_eval(a) for a in responses])
        return path
    path = folder / "model_answer" / f"{generator}.jsonl"
    own_folder(path.parent)
    write_jsonl(path, [_to_arena(a, time) for a in responses])
    return path


def read_outputs(path: Path, format: Format) -> list[Response]:
    """Responses, or questions without one, from a file of a tool; InputError names the file and the row."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if format == "alpaca_eval" else [json.loads(r) for r in text.splitlines() if r.strip()]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file of {format}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not {format}'s JSON ({error}); give a file that the tool itself reads") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} holds no list of rows; give a file of {format}")
    read = _from_alpaca_eval if format == "alpaca_eval" else _from_arena
    responses = []
    for number, row in enumerate(rows, start=1):
        try:
            responses.append(read(row))
        except (KeyError, TypeError, IndexError, AttributeError):
            fields = "instruction" if format == "alpaca_eval" else "uid and prompt or messages"
            raise InputError(f"{path}, row {number}: not a row of {format}, which needs {fields}") from None
    return responses


def _instruction(messages: Sequence[Message]) -> str:
    """A single user message as it is; AlpacaEval knows no turns, so of several each becomes a line `Role: text`."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)


def _user(text: Any) -> tuple[Message, ...]:
    if not isinstance(text, str):
        raise TypeError
    return ({"role": "user", "content": text},)


def _to_alpaca_eval(response: Response) -> dict[str, str]:
    return {
        "instruction": _instruction(response.messages),
        "output": response.output,
        "generator": response.generator,
        "dataset": response.dataset,
    }


def _from_alpaca_eval(row: Any) -> Response:
    key = hashlib.sha256(row["instruction"].encode()).hexdigest()[:16]  # the format has no ids
    output, generator, dataset = (str(row.get(name) or "") for name in ("output", "generator", "dataset"))
    return Response(key, _user(row["instruction"]), output, generator, dataset)


def _to_arena(response: Response, time: float) -> dict[str, Any]:
    return {
        "uid": response.id,
        "ans_id": hashlib.sha256(f"{response.generator}/{response.id}".encode()).hexdigest()[:22],
        "model": response.generator,
        "messages": [*response.messages, {"role": "assistant", "content": {"answer": response.output}}],
        "tstamp": time,
        "metadata": {"token_len": response.tokens, **_markdown_counts(response.output)},
    }


def _from_arena(row: Any) -> Response:
    key = str(row["uid"] if "uid" in row else row["question_id"])
    generator, dataset = str(row.get("model", "")), str(row.get("category", ""))
    if "messages" in row:
        *asked, said = row["messages"]
        text, tokens = said["content"]["answer"], int((row.get("metadata") or {}).get("token_len", 0))
        return Response(
            key, tuple({"role": m["role"], "content": m["content"]} for m in asked), text, generator, dataset, tokens
        )
    prompt = row["prompt"] if "prompt" in row else row["turns"][0]["content"]
    return Response(key, _user(prompt), "", generator, dataset)


def _markdown_counts(text: str) -> dict[str, dict[str, int]]:
    """Headers by level, list items and bold spans outside fenced code, as Arena's style control reads them."""
    text = re.sub(r"```[^`]*```", "", text)
    levels = [len(mark) for mark in re.findall(r"^(#{1,6})\s", text, re.MULTILINE)]

    def count(pattern: str) -> int:
        return len(re.findall(pattern, text, re.MULTILINE))

    return {
        "header_count": {f"h{level}": levels.count(level) for level in range(1, 7)},
        "list_count": {"ordered": count(r"^\s*\d+\.\s"), "unordered": count(r"^\s*[-*+]\s")},
        "bold_count": {"**": count(r"\*\*[^*\n]+\*\*"), "__": count(r"__[^_\n]+__")},
    }
