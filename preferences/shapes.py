"""Shapes in which comparisons are written, row by row, with a count of everything that a shape has no room for."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..results.records import Message
from .convert import CUTS, Comparison, Prompt
from .messages import TRANSCRIPT, TURN, Unusable

Write = Callable[[Iterable[Comparison], Counter[str]], Iterator[dict[str, Any]]]


class Shape(NamedTuple):
    """One shape of rows: how it is written, and the columns beside TEXTS and NUMBERS (`nested` do not fit a CSV)."""

    write: Write
    columns: dict[str, str]


def _write_each(write_one: Callable[[Comparison], list[dict[str, Any]]]) -> Write:
    def write(rows: Iterable[Comparison], dropped: Counter[str]) -> Iterator[dict[str, Any]]:
        for one in rows:
            try:
                yield from write_one(one)
            except Unusable as reason:
                dropped[str(reason)] += 1

    return write


def _write_pair(one: Comparison) -> list[dict[str, Any]]:
    _refuse_tie(one)
    replies = {"chosen": _reply(one.chosen), "rejected": _reply(one.rejected)}
    return [{"prompt": list(one.prompt), **replies, **one.more}]


def _write_implicit(one: Comparison) -> list[dict[str, Any]]:
    _refuse_tie(one)
    return [{side: [*one.prompt, *_reply(getattr(one, side))] for side in ("chosen", "rejected")} | one.more]


def _write_text(one: Comparison) -> list[dict[str, Any]]:
    _refuse_tie(one)
    replies = {"chosen": one.chosen, "rejected": one.rejected}
    for text in replies.values():
        _refuse_transcript(text)
    return [{"prompt": flat(one.prompt), **replies, **one.more}]


def _write_hh(one: Comparison) -> list[dict[str, Any]]:
    _refuse_tie(one)
    return [{side: transcript(one.prompt, getattr(one, side)) for side in ("chosen", "rejected")} | one.more]


def _write_unpaired(one: Comparison) -> list[dict[str, Any]]:
    _refuse_tie(one)
    return [
        {"prompt": list(one.prompt), "completion": _reply(text), "label": good, **one.more}
        for text, good in ((one.chosen, True), (one.rejected, False))
    ]


def _write_ties(one: Comparison) -> list[dict[str, Any]]:
    replies = {"response_a": one.chosen, "response_b": one.rejected}
    for text in replies.values():
        _refuse_transcript(text)
    return [{"prompt": flat(one.prompt), **replies, "label": "tie" if one.tie else "a", **one.more}]


def _write_alpacaeval(one: Comparison) -> list[dict[str, Any]]:
    if len(one.prompt) > 1:
        raise Unusable("a conversation of several turns is not an instruction")
    for text in (one.prompt[0]["content"], one.chosen, one.rejected):
        _refuse_transcript(text)
    more = dict(one.more)
    names = [*str(more.pop("model_version", "")).split(" | "), ""]
    row = {
        "instruction": one.prompt[0]["content"],
        "output_1": one.chosen,
        "generator_1": names[0] or None,
        "output_2": one.rejected,
        "generator_2": names[1] or names[0] or None,
        "annotator": more.pop("labeler_id", None),
        "preference": 1.5 if one.tie else 1.0,
    }
    return [row | more]


def _write_scored(rows: Iterable[Comparison], dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Neighbouring comparisons of one prompt as one list of responses with their scores."""
    for prompt, group in itertools.groupby(rows, key=lambda one: one.prompt):
        scores: dict[str, dict[str, Any]] = {}
        for one in group:
            given = [one.more.get("score_chosen"), one.more.get("score_rejected")]
            if None in given:
                dropped["no scores to write"] += 1
                continue
            if any(name in one.more for name in CUTS):
                dropped["cut reply: the shape has no room for it"] += 1
                continue
            names = [*str(one.more.get("model_version", "")).split(" | ")]
            texts = (one.chosen, one.rejected)
            if any(
                scores.get(t, {"overall_score": s})["overall_score"] != s for t, s in zip(texts, given, strict=True)
            ):
                dropped["another score for the same response"] += 1
                continue
            for text, score, name in zip(texts, given, (names[0], names[-1]), strict=True):
                scores.setdefault(text, {"response": text, "overall_score": score, "model": name or None})
        if scores:
            yield {"prompt": list(prompt), "completions": list(scores.values())}


def _reply(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def flat(prompt: Prompt) -> str:
    """A prompt as one text: the user's words, or the transcript of several turns, which reads back as messages."""
    if len(prompt) > 1:
        return transcript(prompt, "").rstrip()
    _refuse_transcript(prompt[0]["content"])
    return prompt[0]["content"]


def transcript(prompt: Prompt, reply: str) -> str:
    """The HH-RLHF transcript of a conversation; Unusable if it would read back as another one."""
    parts = []
    names = {"user": "Human", "assistant": "Assistant"}
    for message in [*prompt, *_reply(reply)]:
        if message["role"] not in names:
            raise Unusable(f"a {message['role']} message does not fit a transcript")
        text = f"\n\n{names[message['role']]}: {message['content']}"
        if len(TURN.findall(text)) > 1:
            raise Unusable("a text holds the marker of a turn, Human: or Assistant:")
        parts.append(text)
    return "".join(parts)


def _refuse_tie(one: Comparison) -> None:
    if one.tie:
        raise Unusable("tie: the shape has no room for it, --to ties has")


def _refuse_transcript(text: str) -> None:
    """Plain text that would be read as a transcript is told apart only as messages."""
    if TRANSCRIPT.match(text):
        raise Unusable("a text reads as a transcript; it fits only as messages")


_MESSAGES, _TEXT, _TRUTH = "messages", "text", "truth"  # kinds of columns, see export.py
SHAPES = {
    "pairs": Shape(_write_each(_write_pair), dict(prompt=_MESSAGES, chosen=_MESSAGES, rejected=_MESSAGES)),
    "implicit": Shape(_write_each(_write_implicit), dict(chosen=_MESSAGES, rejected=_MESSAGES)),
    "text": Shape(_write_each(_write_text), dict(prompt=_TEXT, chosen=_TEXT, rejected=_TEXT)),
    "hh": Shape(_write_each(_write_hh), dict(chosen=_TEXT, rejected=_TEXT)),
    "unpaired": Shape(_write_each(_write_unpaired), dict(prompt=_MESSAGES, completion=_MESSAGES, label=_TRUTH)),
    "ties": Shape(_write_each(_write_ties), dict(prompt=_TEXT, response_a=_TEXT, response_b=_TEXT, label=_TEXT)),
    "alpacaeval": Shape(
        _write_each(_write_alpacaeval),
        dict.fromkeys(("instruction", "output_1", "generator_1", "output_2", "generator_2", "annotator"), _TEXT)
        | {"preference": "number"},
    ),
    "scored": Shape(_write_scored, dict(prompt=_MESSAGES, completions="completions")),
}
