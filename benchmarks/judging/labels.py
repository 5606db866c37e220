"""Pairs of responses with people's labels, and what a judge is worth beside those people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ...analysis.agreement import (
    beside_another_person,
    clustered_share,
    cohen_kappa,
    kappa_limits,
    krippendorff_alpha,
    majority,
    mean_share,
)
from ...errors import InputError, nearest
from ...preferences.columns import Columns, renamed
from ...preferences.files import read_file
from ...results.records import Message

LABELS = ("a", "b", "tie")
LABEL_COLUMNS = ("human", "label")  # of people's labels, the first that a row has
NO_ANSWER = (None, "", "error", "invalid")  # what a file may hold where its judge gave no verdict


@dataclass(frozen=True)
class LabelledComparison:
    """Two responses to a prompt, and each person's label: a, b or tie."""

    id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    human: tuple[str, ...]
    subset: str | None
    row: Mapping[str, Any]
    """The row of the file, where other judges' labels may stand."""


def read_labels(
    path: Path, pairs: Path | None = None, subset: str = "subset", columns: Columns | None = None
) -> list[LabelledComparison]:
    """Read `id`, `prompt`, `response_a`, `response_b` and `human` or `label` (one, or a list of them) from a file.

    pairs: a second file with the texts, where the first holds only ids and labels. subset: the column of the subset.
    columns: the labels' own names, see preferences/columns.py.
    InputError names the row of an unknown label, a missing field, a doubled id or an id that the other file lacks.
    """
    rows = _rows(path)
    rows = list(renamed(rows, columns, str(path))) if columns else rows
    if pairs is not None:
        texts = {str(row.get("id")): row for row in _rows(pairs)}
        if other := [row for row in rows if str(row.get("id")) not in texts]:
            raise InputError(
                f"{path}: {len(other)} of its {len(rows)} ids are not in {pairs}, the first is {other[0].get('id')!r}; "
                f"give the pairs that these people labelled"
            )
        rows = [{**texts[str(row["id"])], **row} for row in rows]
    found: dict[str, LabelledComparison] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        column = next((name for name in LABEL_COLUMNS if row.get(name) is not None), LABEL_COLUMNS[0])
        for field in ("prompt", "response_a", "response_b", column):
            if row.get(field) is None:
                raise InputError(f"{where} has no {field!r}; {nearest(field, row)}")
        key = str(row.get("id", number))
        if key in found:
            raise InputError(f"{where}: the id {key!r} is there twice; give each pair an id of its own")
        given = [row[column]] if isinstance(row[column], str) else row[column]
        if not isinstance(given, list) or not given:
            raise InputError(f"{where}: {column} is {str(row[column])[:40]!r}; give a label or a list of labels")
        human = tuple(label_of(value, f"{where}, {column}") for value in given)
        prompt = row["prompt"]
        messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        part = row.get(subset)
        found[key] = LabelledComparison(
            key,
            messages,
            str(row["response_a"]),
            str(row["response_b"]),
            human,
            None if part is None else str(part),
            row,
        )
    return list(found.values())


def label_of(value: Any, where: str) -> str:
    """a, b or tie, whatever the case; InputError for anything else."""
    label = value.strip().lower() if isinstance(value, str) else value
    if label not in LABELS:
        raise InputError(f"{where}: the label {str(value)[:40]!r} is unknown; known: {', '.join(LABELS)}")
    return label


def published_labels(rows: Sequence[LabelledComparison], column: str) -> list[str | None]:
    """The labels of a judge that stand in a column of the file; None where it gave no answer."""
    if not any(column in row.row for row in rows):
        raise InputError(f"--judge column:{column}: no row has that column; {nearest(column, rows[0].row)}")
    values = [row.row.get(column) for row in rows]
    return [
        None if v in NO_ANSWER else label_of(v, f"column {column}, id {row.id}")
        for row, v in zip(rows, values, strict=True)
    ]


def outcome_label(outcome: float | None) -> str | None:
    """The label of a judge's outcome over both orders: it contradicts itself (0.5) where it sees no difference."""
    return None if outcome is None else "a" if outcome > 0.5 else "b" if outcome < 0.5 else "tie"


def among_people(rows: Sequence[LabelledComparison]) -> dict[str, Any]:
    """The agreement of the people among themselves: the ceiling for a judge."""
    several = [row for row in rows if len(row.human) > 1]
    pairs = [(x, y) for row in several for x, y in combinations(row.human, 2)]
    raters = [
        _columns([(row.human[i], row.human[j], str(row.prompt)) for row in several if len(row.human) > j])
        for i, j in combinations(range(max((len(row.human) for row in several), default=0)), 2)
    ]
    return {
        "pairs": len(rows),
        "labels": sum(len(row.human) for row in rows),
        "without_majority": sum(majority(row.human) is None for row in rows),
        "agreement": sum(x == y for x, y in pairs) / len(pairs) if pairs else None,
        **_kappa("kappa", raters),
        "alpha": known_alpha([row.human for row in rows]),
    }


def known_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Krippendorff's alpha; None where there is none."""
    alpha = krippendorff_alpha(units)
    return alpha if math.isfinite(alpha) else None


def against_people(rows: Sequence[LabelledComparison], labels: Sequence[str | None]) -> dict[str, Any]:
    """The worth of a judge's labels beside people's; a missing label counts against coverage, never as a label.

    `accuracy`: share of pairs on which it gives the label of the people's majority, ties included. `decided_accuracy`:
    the same where both prefer one response. `kappa`: with the majority; `kappa_person`: mean with one person, to be
    compared with the people's kappa among themselves; each with `_limits`, its 95% interval. `prefers_longer`: of its
    preferences between responses of unequal length in characters; `people_prefer_longer` the majority's on all pairs;
    `another_person`: see `beside_another_person`. Intervals are over prompts.
    """
    known = [(row, label, majority(row.human)) for row, label in zip(rows, labels, strict=True) if label is not None]
    voted = [(row, label, vote) for row, label, vote in known if vote is not None]
    decided = [(row, label, vote) for row, label, vote in voted if "tie" not in (label, vote)]
    persons = range(max((len(row.human) for row in rows), default=0))
    one_person = [
        _columns([(label, row.human[person], str(row.prompt)) for row, label, _ in known if len(row.human) > person])
        for person in persons
    ]
    votes = [(row, majority(row.human)) for row in rows]
    return {
        "coverage": len(known) / len(rows) if rows else None,
        "ties": sum(label == "tie" for _, label, _ in known) / len(known) if known else None,
        "accuracy": _by_prompt([(row, label == vote) for row, label, vote in voted]),
        "decided_accuracy": _by_prompt([(row, label == vote) for row, label, vote in decided]),
        **_kappa("kappa", [_columns([(label, vote, str(row.prompt)) for row, label, vote in voted])]),
        **_kappa("kappa_person", one_person),
        "another_person": beside_another_person(
            [label for _, label, _ in known], [row.human for row, *_ in known], [str(row.prompt) for row, *_ in known]
        ),
        "prefers_longer": _longer([(row, label) for row, label, _ in known]),
        "people_prefer_longer": _longer([(row, vote) for row, vote in votes if vote]),
    }


def by_subset(rows: Sequence[LabelledComparison], labels: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """`against_people` within each subset; empty where the file names none."""
    names = sorted({row.subset for row in rows if row.subset is not None})
    found = {}
    for name in names:
        part = [(row, label) for row, label in zip(rows, labels, strict=True) if row.subset == name]
        mine, theirs = [row for row, _ in part], [label for _, label in part]
        found[name] = {"pairs": len(mine), "alpha": among_people(mine)["alpha"], **against_people(mine, theirs)}
    return found


def over_subsets(rows: Sequence[LabelledComparison], labels: Sequence[str | None]) -> dict[str, Any]:
    """The mean over subsets of `accuracy`, each weighing the same; a subset without a valid verdict is left out."""
    parts: dict[str, list[tuple[bool, str]]] = {}
    for row, label in zip(rows, labels, strict=True):
        vote = majority(row.human)
        if row.subset is not None and label is not None and vote is not None:
            parts.setdefault(row.subset, []).append((label == vote, str(row.prompt)))
    return mean_share([([right for right, _ in part], [prompt for _, prompt in part]) for part in parts.values()])


Ratings = tuple[list[str], list[str], list[str]]  # of one rater, of another, and the clusters


def _columns(rows: Sequence[tuple[str, str, str]]) -> Ratings:
    one, other, clusters = zip(*rows, strict=True) if rows else ((), (), ())
    return list(one), list(other), list(clusters)


def _kappa(name: str, raters: Sequence[Ratings]) -> dict[str, Any]:
    """The mean of Cohen's kappas, and its limits; both None where there is none."""
    kappas = [k for one, other, _ in raters if one and (k := cohen_kappa(one, other)) is not None]
    limits = kappa_limits(raters) if kappas else None
    return {
        name: sum(kappas) / len(kappas) if kappas else None,
        f"{name}_limits": None if limits is None else list(limits),
    }


def _longer(choices: Sequence[tuple[LabelledComparison, str]]) -> dict[str, Any]:
    unequal = [(row, label) for row, label in choices if label != "tie" and len(row.a) != len(row.b)]
    return _by_prompt([(row, (label == "a") == (len(row.a) > len(row.b))) for row, label in unequal])


def _by_prompt(values: Sequence[tuple[LabelledComparison, bool]]) -> dict[str, Any]:
    """The share of pairs, with an interval for pairs that come in clusters: those of one prompt hang together."""
    return clustered_share([value for _, value in values], [str(row.prompt) for row, _ in values])


def _rows(path: Path) -> list[dict[str, Any]]:
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; give JSON Lines, JSON, Parquet or CSV with labels")
    rows = list(read_file(Path(path)))
    if not rows:
        raise InputError(f"{path} holds no rows; give pairs with people's labels")
    return rows
