"""Columns of a row: those that other tools write brought to ours, and those of a file that a user names.

Read by their names, beside `prompt`, `chosen` and `rejected`: `instruction`, `question` or ShareGPT's `conversations`
for the prompt; `system`, `history` (pairs of turns, or messages) and Alpaca's `input`, which belong to it;
`chosen_response` and `rejected_response`, or `output` with two replies, the better first, for the replies.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ..errors import InputError, nearest
from ..results.records import Message
from .messages import TOOLS, Unusable, messages_of

Columns = Mapping[str, str]
"""A file's own names by ours: {"prompt": "question", "chosen": "answer_a"}."""

PROMPTS = ("prompt", "instruction", "question", "conversations", "input")  # the first that a row has is its prompt
SYSTEM = ("system", "system_prompt")
REPLIES = {"chosen": "chosen_response", "rejected": "rejected_response"}
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
SHAPES = (  # the first whose fields are all there
    ("alpacaeval", {"output_1", "output_2", "preference"}),
    ("scored", {"completions"}),
    ("ranked", {"answers"}),
    ("unpaired", {"completion", "label"}),
    ("ties", {"response_a", "response_b"}),
    ("strength", {"response_1", "response_2", "preference_strength"}),
    ("strength", {"response1", "response2", "overall_preference"}),
    ("rated", {"response", "helpfulness"}),
    ("pairs", {"chosen", "rejected"}),
    ("pairs", set(REPLIES.values())),
    ("pairs", {"instruction", "output"}),
)
CONTEXT = (*PROMPTS, *SYSTEM, "history", "tools")  # what makes a prompt
KNOWN = (
    *CONTEXT,
    *(name for pair in SCORES for name in pair),
    *("chosen", "rejected", *REPLIES.values(), "chosen_cut", "rejected_cut", "output", "tie", "margin"),
    *("completion", "label", "response_a", "response_b", "human", "output_1", "output_2", "preference"),
    *("completions", "answers", "response", "helpfulness", "response_1", "response_2", "preference_strength"),
    *("subset", "labeler_id", "prompt_source", "split", "id"),
)


def parse_columns(text: str | None) -> dict[str, str]:
    """Columns as the command line has them, `prompt=question,chosen=answer_a`; InputError for anything else."""
    found = {}
    for part in (text or "").split(","):
        ours, equals, theirs = part.partition("=")
        if part.strip() and not (equals and ours.strip() and theirs.strip()):
            raise InputError(f"--columns {text}: {part.strip()!r} is not NAME=COLUMN; for example prompt=question")
        if part.strip():
            found[ours.strip()] = theirs.strip()
    check_names(found)
    return found


def check_names(columns: Columns) -> None:
    """InputError for a name on our side that nothing reads."""
    for name in columns:
        if name not in KNOWN:
            raise InputError(f"columns: there is no field {name!r}; {nearest(name, KNOWN)}")


def renamed(rows: Iterable[Mapping[str, Any]], columns: Columns, where: str) -> Iterator[dict[str, Any]]:
    """Rows with the named columns under our names; InputError at the end for a column that no row has.

    Where the prompt is named, other columns that would be part of it by their names count only if they are named too;
    where a reply is, so do scores.
    """
    check_names(columns)
    aside = {*columns.values(), *columns}
    aside |= {*PROMPTS, *SYSTEM, "history"} if "prompt" in columns else set()
    aside |= {name for pair in SCORES for name in pair} if {"chosen", "rejected"} & {*columns} else set()
    seen: set[str] = set()
    for row in rows:
        seen.update(row)
        kept = {name: value for name, value in row.items() if name not in aside}
        yield kept | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    for theirs in columns.values():
        if theirs not in seen:
            raise InputError(f"{where}: no row has the column {theirs!r} that was named; {nearest(theirs, seen)}")


def shape_of(fields: Collection[str]) -> str | None:
    """The shape of rows by their fields, see convert.py; None if they have those of none."""
    for shape, all_of in SHAPES:
        if all_of <= set(fields):
            return shape
    return None


def standard(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with its prompt and two replies under `prompt`, `chosen` and `rejected`; Unusable where it says two things.

    What belongs to the prompt besides (`system`, `history`) is put there by `with_context`.
    """
    if _given(row, "tools") not in (None, "[]"):
        raise Unusable(TOOLS)
    names = [name for name in PROMPTS if _given(row, name) is not None]
    found = dict(row)
    if names:
        found["prompt"] = _prompt(row, names)
    for side, name in REPLIES.items():
        if row.get(side) is None and row.get(name) is not None:
            found[side] = row[name]
    output = row.get("output")
    if isinstance(output, list | tuple) and len(output) == 2 and row.get("chosen") is row.get("rejected") is None:
        found["chosen"], found["rejected"] = output
    return found


def _prompt(row: Mapping[str, Any], names: list[str]) -> Any:
    """The prompt of a row from the columns that may hold it; the text of `input` follows the instruction's."""
    first, *others = names
    prompt = row[first]
    for name in others:
        if name == "conversations":
            continue  # the whole conversation, which the replies' fields hold too
        more, last = row[name], prompt
        if isinstance(last, list | tuple):
            last = messages_of(last, "prompt", "user")[-1]["content"]
        if not isinstance(more, str) or not isinstance(last, str):
            raise Unusable(f"{first} and {name} are not both text")
        more, last = more.strip(), last.strip()
        if more == last or last.startswith(f"{more}\n") or last.endswith(f"\n{more}"):
            continue
        if name != "input" or not isinstance(prompt, str):
            raise Unusable(f"{first} and {name} differ; name one with --columns prompt={first}")
        prompt = f"{prompt}\n{more}"
    return prompt


def with_context(row: Mapping[str, Any], prompt: list[Message]) -> list[Message]:
    """A prompt with what stands before it in columns of its own: earlier turns, and a system message."""
    before: list[Message] = []
    if (history := _given(row, "history")) is not None:
        before = _turns(history)
    head = prompt[:1] if prompt and prompt[0]["role"] == "system" else []
    if prompt[len(head) : len(head) + len(before)] != before:
        prompt = [*head, *before, *prompt[len(head) :]]
    for name in SYSTEM:
        if _given(row, name) is None:
            continue
        (message, *rest) = messages_of(row[name], name, "system")
        if rest or message["role"] != "system":
            raise Unusable(f"{name} is no system prompt")
        if prompt[0]["role"] != "system":
            prompt = [message, *prompt]
        elif prompt[0] != message:
            raise Unusable(f"{name} differs from the prompt's system message")
    return prompt


def _turns(history: Any) -> list[Message]:
    """Earlier turns: pairs of what user and assistant said, as LLaMA-Factory has them, or messages."""
    pairs = isinstance(history, list | tuple) and all(isinstance(turn, list | tuple) for turn in history)
    if not pairs:
        return messages_of(history, "history", "user")
    if not all(len(turn) == 2 and all(isinstance(said, str) for said in turn) for turn in history):
        raise Unusable("history is neither pairs of texts nor messages")
    return [
        {"role": role, "content": said.strip()}
        for turn in history
        for role, said in zip(("user", "assistant"), turn, strict=True)
    ]


def _given(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column; None where it says nothing (null, an empty text or list, NaN)."""
    value = row.get(name)
    if value is None or value != value or (isinstance(value, str | list | tuple) and not len(value)):
        return None
    return None if isinstance(value, str) and not value.strip() else value


def by_scores(row: Mapping[str, Any]) -> str | None:
    """The reason why a row's own scores do not say that chosen is better; None where they do, or there are none."""
    for better, worse in SCORES:
        try:
            chosen, rejected = float(row[better]), float(row[worse])
        except (KeyError, TypeError, ValueError):
            continue
        if chosen == rejected:
            return TIE
        if chosen < rejected:
            return OPPOSITE
    return None


TIE, OPPOSITE = "tie by its scores", "its scores prefer the rejected reply"
