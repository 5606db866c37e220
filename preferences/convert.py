"""Comparisons read from rows of any shape, row by row, with a count of everything that does not fit.

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
from typing import Any

from ..errors import InputError
from ..results.records import Message
from .columns import CONTEXT, OPPOSITE, SCORES, shape_of
from .messages import Unusable
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
