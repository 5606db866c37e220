"""One person's or judge's answer to one pair, read from every kind of preference row, for the audit.

Kinds of rows: preferences (`prompt`, `chosen`, `rejected`), the labels of a collection folder (with `answer` and
`shown`), and pairs with several people's answers (`response_a`, `response_b`, `human`: a list of "a", "b" or "tie",
and fields that end in "_judge"; response_a counts as the one shown first).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..results.records import Message
from .columns import Columns, by_scores, shape_of
from .files import path_of, read_file
from .read import PreferenceRow, is_true, read_source, usable

SIDES = {"a": "first", "b": "second", "tie": "tie", "both_bad": "both_bad"}


@dataclass(frozen=True)
class Judgement:
    """One labeller's answer to one pair."""

    prompt: tuple[Message, ...]
    first: str
    second: str
    answer: str
    """"first", "second", "tie" or "both_bad"."""
    shown: bool
    """True if first and second are the order in which the labeller saw them."""
    labeller: str | None
    person: bool
    """False for a judge's answer beside those of people."""
    source: str | None
    split: str | None
    item: str | None

    @property
    def winner(self) -> str | None:
        return {"first": self.first, "second": self.second}.get(self.answer)

    @property
    def loser(self) -> str | None:
        return {"first": self.second, "second": self.first}.get(self.answer)

    @property
    def prompt_text(self) -> str:
        return "\n\n".join(message["content"] for message in self.prompt)

    @property
    def unit(self) -> tuple[Any, ...]:
        """The pair, whichever of its responses came first."""
        return (self.prompt_text, *sorted((self.first, self.second)))

    @property
    def label(self) -> str:
        """The answer in terms of the unit: which of its two texts won, or tie, or both_bad."""
        return self.answer if self.winner is None else ("low", "high")[self.unit.index(self.winner, 1) - 1]


@dataclass
class Judgements:
    """The usable judgements of a source, and the rows that were dropped by reason."""

    source: str
    kind: str
    read: int
    rows: list[Judgement] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    gold: dict[str, str] = field(default_factory=dict)
    """Known answers of attention checks: item -> text of the right response."""


def read_judgements(source: str, split: str = "train", columns: Columns | None = None) -> Judgements:
    """Read a file, a folder, a hub data set or a collection folder; InputError says what is wrong.

    columns: the source's own names, see columns.py.
    """
    folder = path_of(source)
    gold: dict[str, str] = {}
    if (folder / "items.jsonl").is_file():
        files = sorted((folder / "labels").glob("*.jsonl"))
        rows: list[Mapping[str, Any]] = [row for path in files for row in read_file(path)]
        if not rows:
            raise InputError(f"{folder} is a collection without labels yet; label it with `bench label {folder}`")
        items = read_file(folder / "items.jsonl")
        gold = {item["id"]: item[item["gold"]] for item in items if item.get("gold") in ("a", "b")}
    else:
        rows = list(read_source(source, split, columns))
    if not rows:
        raise InputError(f"{source} holds no rows; give a file with rows of prompt, chosen, rejected")
    kinds = Counter(map(_kind, rows))
    if len(kinds) > 1:
        told = " and ".join(f"{count} rows with {kind}" for kind, count in kinds.most_common())
        raise InputError(f"{source} mixes formats: {told}; put each into a file of its own")
    (kind,) = kinds
    if kind == UNKNOWN:
        known = ", ".join(sorted({str(name) for row in rows for name in row})[:20])
        convert = (
            f"`bench convert {source} pairs.jsonl` writes such rows"
            if shape_of(rows[0])
            else "name them with --columns"
        )
        raise InputError(
            f"{source}: no row has chosen and rejected, or response_a and response_b; it has {known}; {convert}"
        )
    data = Judgements(source, kind, len(rows), gold=gold)
    seen: set[Judgement] = set()
    for raw in rows:
        for found in READERS[kind](raw):
            if isinstance(found, str):
                data.dropped[found] += 1
            elif found in seen:
                data.dropped["duplicate row"] += 1
            else:
                seen.add(found)
                data.rows.append(found)
    if not data.rows:
        told = ", ".join(f"{reason}: {count}" for reason, count in data.dropped.most_common())
        raise InputError(f"{source}: none of its {len(rows)} rows can be used ({told})")
    return data


UNKNOWN = "neither chosen and rejected nor response_a and response_b"
PREFERENCES, LABELS, ANSWERS = "chosen and rejected", "labels with an answer", "several people's answers"


def _kind(row: Mapping[str, Any]) -> str:
    if "response_a" in row and "response_b" in row:
        return ANSWERS
    if "chosen" in row or "rejected" in row or shape_of(row) == "pairs":
        return LABELS if row.get("answer") is not None and "item" in row else PREFERENCES
    return UNKNOWN


def _of_preference(raw: Mapping[str, Any]) -> Iterable[Judgement | str]:
    row = by_scores(raw) or usable(raw)
    if isinstance(row, str):
        return [row]
    return [_judgement(raw, row, (row.chosen, row.rejected), "tie" if is_true(raw.get("tie")) else "a")]


def _of_label(raw: Mapping[str, Any]) -> Iterable[Judgement | str]:
    row, answer = usable(raw), raw["answer"]
    if isinstance(row, str):
        return [row]
    if answer not in SIDES:
        return ["skipped by the labeller" if answer == "skip" else "answer is not a, b, tie, both_bad or skip"]
    texts = (row.rejected, row.chosen) if answer == "b" else (row.chosen, row.rejected)
    if raw.get("shown") == "ba":
        texts, answer = texts[::-1], {"a": "b", "b": "a"}.get(answer, answer)
    return [_judgement(raw, row, texts, answer, shown=raw.get("shown") in ("ab", "ba"))]


def _of_answers(raw: Mapping[str, Any]) -> Iterable[Judgement | str]:
    row = usable({"prompt": raw.get("prompt"), "chosen": raw["response_a"], "rejected": raw["response_b"]})
    if isinstance(row, str):
        return [row.replace("chosen", "response_a").replace("rejected", "response_b")]
    people = raw.get("human")
    given = [(f"person {n}", True, answer) for n, answer in enumerate(people if isinstance(people, list) else [], 1)]
    given += [(name, False, answer) for name, answer in raw.items() if name.endswith("_judge") and answer is not None]
    found: list[Judgement | str] = []
    for labeller, person, answer in given:
        if answer not in SIDES:
            found.append("answer is not a, b, tie or both_bad")
        else:
            texts = (row.chosen, row.rejected)
            found.append(_judgement(raw, row, texts, answer, shown=True, labeller=labeller, person=person))
    return found or ["nobody's answer"]


READERS = {PREFERENCES: _of_preference, LABELS: _of_label, ANSWERS: _of_answers}


def _judgement(
    raw: Mapping[str, Any], row: PreferenceRow, texts: tuple[str, str], answer: str, *, shown: bool = False,
    labeller: str | None = None, person: bool = True,
) -> Judgement:  # fmt: skip
    source = raw.get("prompt_source") or row.subset
    split, item = raw.get("split"), raw.get("item")
    return Judgement(
        tuple(_Frozen(m) for m in row.prompt), *texts, SIDES[answer], shown, labeller or row.labeler_id, person,
        None if source is None else str(source), None if split is None else str(split),
        None if item is None else str(item),
    )  # fmt: skip


class _Frozen(dict):
    """A message that can be compared by hash, to find duplicate rows."""

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none because it may change; these do not
        return hash(tuple(self.items()))
