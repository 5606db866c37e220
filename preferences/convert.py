"""Preferences from one shape of rows to another, row by row, with a count of everything that does not fit.

A file's shape is seen in its first row: `pairs` (prompt, chosen, rejected as TRL reads them, transcripts of HH-RLHF, or
the labels of a collection), `unpaired`, `scored`, `alpacaeval` or `ties`; and, only read, `ranked` (Nectar), `strength`
(two responses and how much the second is better, HelpSteer 2 and 3) or `rated` (a response a row, HelpSteer). Between
them stands a `Comparison`.
"""

import itertools
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import InputError
from ..results.records import Message
from .columns import CONTEXT, OPPOSITE, SCORES, shape_of
from .messages import TRANSCRIPT, TURN, Unusable
from .read import is_true, no_preference, normalise, prompt_of

Raw = Mapping[str, Any]
Prompt = tuple[Message, ...]
# What a row may say besides, kept under these names by every shape but scored (which groups rows).
TEXTS = ("labeler_id", "timestamp", "reasoning", "model_version", "prompt_source", "subset", "item", "answer", "shown")
NUMBERS = ("strength", "margin", "score_chosen", "score_rejected")
CUTS = ("chosen_cut", "rejected_cut")  # a reply that did not end by itself


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt; where `tie` is true neither is preferred."""

    prompt: Prompt
    chosen: str
    rejected: str
    tie: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    """Those of TEXTS, NUMBERS and CUTS that the row has. `margin` is the difference of the two scores."""


Read = Callable[[Iterable[Raw], Counter[str]], Iterator[Comparison]]
Write = Callable[[Iterable[Comparison], Counter[str]], Iterator[dict[str, Any]]]


class Shape(NamedTuple):
    """One shape of rows: how it is written, and the columns beside TEXTS and NUMBERS (`nested` do not fit a CSV)."""

    write: Write
    columns: dict[str, str]


def comparisons(rows: Iterable[Raw], where: str, dropped: Counter[str], read: Counter[str]) -> Iterator[Comparison]:
    """The comparisons of a table's rows, whatever their shape; adds to the counts of dropped and of read rows.

    InputError if the first row has no known shape, or a later one another shape than the first.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{where} holds no rows; there is nothing to convert")
    shape = shape_of(first.keys())
    if shape is None:
        raise InputError(
            f"{where}: no known shape has the fields {', '.join(sorted(first))}; see `bench convert "
            f"--help` for those of each, and name yours with --columns prompt=COLUMN,chosen=COLUMN,rejected=COLUMN"
        )

    def alike() -> Iterator[Raw]:
        for number, row in enumerate(itertools.chain([first], rows), 1):
            found = shape_of(row.keys())
            if found != shape:
                raise InputError(
                    f"{where}, row {number}: its fields are those of {found or 'no known shape'}, but the rows before "
                    f"are {shape}; one file has one format: split it into two"
                )
            read["rows"] += 1
            yield row

    yield from READERS[shape](alike(), dropped)


# Reading


def _each(read_one: Callable[[Raw], Iterable[Comparison]]) -> Read:
    """A reader of rows that stand alone; a row that cannot be used is counted by reason."""

    def read(rows: Iterable[Raw], dropped: Counter[str]) -> Iterator[Comparison]:
        for row in rows:
            try:
                found = list(read_one(row))
            except Unusable as reason:
                dropped[str(reason)] += 1
            else:
                yield from found

    return read


def _read_pair(row: Raw) -> Iterator[Comparison]:
    reason = no_preference(row)
    if reason in ("skipped by the labeller", OPPOSITE):
        raise Unusable(reason)
    scores = [name for pair in SCORES for name in pair]
    plain = {name: value for name, value in row.items() if name not in ("tie", "answer", *scores)}
    yield _comparison(plain, bool(reason), _more(row))


def _read_alpacaeval(row: Raw) -> Iterator[Comparison]:
    try:
        preference = float(row["preference"])
    except (TypeError, ValueError):
        raise Unusable("preference is not a number") from None
    if preference != preference or not (preference == 0 or 1 <= preference <= 2):
        raise Unusable("preference is not from 1 to 2 (0 and 1.5 are ties)")
    sides = [(row["output_1"], row.get("generator_1")), (row["output_2"], row.get("generator_2"))]
    if preference > 1.5:
        sides.reverse()
    versions = dict.fromkeys(str(name) for _, name in sides if name)
    more = _more(row) | ({"model_version": " | ".join(versions)} if versions else {})
    if row.get("annotator"):
        more["labeler_id"] = str(row["annotator"])
    if preference not in (0, 1, 1.5, 2):  # a weighted annotator: the share of weight on output 2, plus 1
        more["margin"] = abs(2 * preference - 3)
    replies = {"chosen": sides[0][0], "rejected": sides[1][0]}
    yield _comparison({**_context(row), **replies}, preference in (0, 1.5), more)


def _read_ties(row: Raw) -> Iterator[Comparison]:
    """One comparison a labeller: `label` is a, b or tie, or `human` a list of those."""
    labels = row["human"] if isinstance(row.get("human"), list) else [row.get("label")]
    for number, label in enumerate(labels, 1):
        if label not in ("a", "b", "tie"):
            raise Unusable("label is not a, b or tie")
        a, b = row["response_a"], row["response_b"]
        replies = {"chosen": b, "rejected": a} if label == "b" else {"chosen": a, "rejected": b}
        more = _more(row) | ({"labeler_id": f"human {number}"} if len(labels) > 1 else {})
        yield _comparison({**_context(row), **replies}, label == "tie", more)


def _read_scored(row: Raw) -> Iterator[Comparison]:
    """Every two responses of a list, the higher score chosen, `margin` the difference; equal scores are a tie."""
    completions = row["completions"]
    if not isinstance(completions, list | tuple) or len(completions) < 2:
        raise Unusable("fewer than two completions")
    scored = []
    for one in completions:
        score = one.get("overall_score", one.get("score")) if isinstance(one, Mapping) else None
        scored.append((one.get("response", one.get("text")), _number(score, "a completion"), one.get("model")))
    for pair in itertools.combinations(scored, 2):
        (chosen, high, better), (rejected, low, worse) = sorted(pair, key=lambda one: -one[1])
        versions = dict.fromkeys(str(name) for name in (better, worse) if name)
        more = _more(row) | {"margin": high - low, "score_chosen": high, "score_rejected": low}
        more |= {"model_version": " | ".join(versions)} if versions else {}
        yield _comparison({**_context(row), "chosen": chosen, "rejected": rejected}, high == low, more)


def _number(value: Any, owner: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise Unusable(f"{owner} has no score")
    return float(value)


def _read_ranked(row: Raw) -> Iterator[Comparison]:
    """Every two answers of a list, the lower rank chosen; equal ranks are a tie."""
    answers = row["answers"]
    if not isinstance(answers, list | tuple) or not all(isinstance(one, Mapping) for one in answers):
        raise Unusable("answers is no list of answers with ranks")
    ranks = [one | {"rank": _number(one.get("rank"), "an answer")} for one in answers]
    for pair in itertools.combinations(ranks, 2):
        better, worse = sorted(pair, key=lambda one: one["rank"])
        versions = dict.fromkeys(str(one["model"]) for one in (better, worse) if one.get("model"))
        more = _more(row) | ({"model_version": " | ".join(versions)} if versions else {})
        replies = {"chosen": better.get("answer"), "rejected": worse.get("answer")}
        yield _comparison({**_context(row), **replies}, better["rank"] == worse["rank"], more)


def _read_strength(row: Raw) -> Iterator[Comparison]:
    """Two responses and a number: below 0 the first is better, above 0 the second, 0 is a tie; `strength` its size."""
    strength = _number(row.get("preference_strength", row.get("overall_preference")), "the pair")
    one, other = (row.get(f"response_{i}", row.get(f"response{i}")) for i in (1, 2))
    prompt = row.get("prompt", row.get("context"))
    chosen, rejected = (other, one) if strength > 0 else (one, other)
    more = _more(row) | ({"strength": abs(strength)} if strength else {})
    yield _comparison({**_context(row), "prompt": prompt, "chosen": chosen, "rejected": rejected}, not strength, more)


def _read_rated(rows: Iterable[Raw], dropped: Counter[str]) -> Iterator[Comparison]:
    """Neighbouring rows of one prompt as a list of responses with their helpfulness as scores."""
    for _, group in itertools.groupby(rows, key=_context):
        alike = list(group)
        completions = [{"response": row["response"], "score": row["helpfulness"]} for row in alike]
        try:
            yield from list(_read_scored({**alike[0], "completions": completions}))
        except Unusable as reason:
            dropped[str(reason)] += len(alike)


def _read_unpaired(rows: Iterable[Raw], dropped: Counter[str]) -> Iterator[Comparison]:
    """The n-th good completion of a prompt against its n-th bad one; only those that wait for another are held."""
    waiting: dict[tuple[str, bool], deque[Raw]] = defaultdict(deque)
    for row in rows:
        good = {"true": True, "1": True, "false": False, "0": False}.get(str(row["label"]).lower())
        if good is None:
            dropped["label is neither true nor false"] += 1
            continue
        try:
            key = json.dumps(prompt_of({"prompt": row.get("prompt")}))
        except Unusable as reason:
            dropped[str(reason)] += 1
            continue
        if not waiting[key, not good]:
            waiting[key, good].append(row)
            continue
        other = waiting[key, not good].popleft()
        chosen, rejected = (row, other) if good else (other, row)
        replies = {"chosen": chosen["completion"], "rejected": rejected["completion"]}
        try:
            yield _comparison({"prompt": row["prompt"], **replies}, False, _more(chosen))
        except Unusable as reason:
            dropped[str(reason)] += 2
    for (_, good), left in waiting.items():
        if left:
            dropped[f"{'good' if good else 'bad'} completion without a {'bad' if good else 'good'} one"] += len(left)


READERS: dict[str, Read] = {
    "pairs": _each(_read_pair),
    "alpacaeval": _each(_read_alpacaeval),
    "ties": _each(_read_ties),
    "scored": _each(_read_scored),
    "ranked": _each(_read_ranked),
    "strength": _each(_read_strength),
    "rated": _read_rated,
    "unpaired": _read_unpaired,
}


def _comparison(raw: Raw, tie: bool, more: dict[str, Any]) -> Comparison:
    row = normalise(raw)
    return Comparison(row.prompt, row.chosen, row.rejected, tie, more)


def _context(row: Raw) -> dict[str, Any]:
    """The columns of a row that make its prompt, see columns.py."""
    return {name: row[name] for name in CONTEXT if name in row}


def _more(row: Raw) -> dict[str, Any]:
    """The contents of a row besides its texts; empty fields (CSV has no null) say nothing."""
    said = {name: row[name] for name in (*TEXTS, *NUMBERS) if row.get(name) not in (None, "")}
    found: dict[str, Any] = {n: str(said[n]).encode("utf-8", "replace").decode() for n in TEXTS if n in said}
    for name in NUMBERS:
        if name in said:
            try:
                found[name] = float(said[name])
            except (TypeError, ValueError):
                raise Unusable(f"{name} is not a number") from None
    return found | {name: True for name in CUTS if is_true(row.get(name))}


# Writing


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
