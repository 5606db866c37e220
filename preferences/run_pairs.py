"""A finished run's responses as pairs for people to label, and what their labels say of the run's rows.

    RUN/people/              a collection folder (labels.py): items.jsonl, labels.sqlite, labels/people.jsonl
    RUN/people/people.json   whose run it is, and the seed of the plan
    RUN/people/key.jsonl     who wrote what, one `Pairing` a row, in the order of the items; not for labellers

Blind: an item holds two texts and an id that says nothing; which row wrote which stands in the key alone. Balanced: the
plan goes through the prompts in a random order and takes of each every comparison with every seed, so that rows are
compared on the same prompts; then pairs and sides are shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.grids import SFT, versus
from ..analysis.people import labelling
from ..errors import InputError, nearest
from ..results.integrity import digest, no_link, write_json
from ..results.records import Generation
from ..results.run_folder import Run
from ..results.store import write_jsonl
from .labels import ITEMS, LABELS, Item, locked, read_labels, read_record, read_rows

if TYPE_CHECKING:
    import pandas

BY_PEOPLE = "win_rate.people"
PEOPLE, RECORD, KEY = "people", "people.json", "key.jsonl"
DEFAULT = 200  # pairs that are served where nobody says how many
EMPTY = "(an empty response)"  # shown where a policy wrote nothing
OUTCOME = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}  # for a; a skipped pair has none
Responses = Mapping[tuple[str, int], Mapping[str, Generation]]


@dataclass(frozen=True)
class Pairing:
    """One pair of the plan: who wrote the item's a and b."""

    item: str
    prompt_id: str
    seed: int
    a: str
    b: str
    texts: str | None
    """The hash of prompt and both responses, by which a run whose responses changed is noticed."""
    identical: bool
    """Not served: equal responses count one half unasked."""


def plan(run: Run, *, pairs: int | None, methods: Sequence[str], seed: int) -> Path:
    """Write the pairs of a run that people are to label, and return their folder.

    pairs: how many are served, by default `DEFAULT` or all. methods: rows that are compared with SFT and with each
    other, by default all. A larger number or further rows add pairs behind those that are there. InputError if the run
    is not finished, has nothing to compare or fewer pairs, or if the labels in its folder are of other responses.
    """
    folder = run.path / PEOPLE
    responses = _responses(run)
    rows = _rows(run, responses, methods)
    with locked(no_link(folder), "labels"):
        before = _key(run, folder, responses)
        if before and read_record(folder / RECORD)["seed"] != seed:
            raise InputError(
                f"{folder} was planned with --seed {read_record(folder / RECORD)['seed']}; give that one again"
            )
        known = {pairing.item for pairing in before}
        possible = [*_possible(rows, responses, seed)]
        served = sum(not pairing.identical for pairing in possible)
        if not served:
            raise InputError(
                f"{run.path}: all responses of its rows are the same texts, so people have nothing to compare"
            )
        if pairs is not None and pairs > served:
            raise InputError(
                f"{run.path} has {served} pairs of different responses, and --pairs asks for {pairs}; give {served} or "
                f"fewer"
            )
        chosen = _first(possible, min(pairs or DEFAULT, served))
        new = [pairing for pairing in chosen if pairing.item not in known]
        key = [*before, *sorted(new, key=lambda pairing: digest([seed, "order", pairing.item]))]
        write_json(folder / RECORD, {"run_id": run.record["run_id"], "seed": seed})
        write_jsonl(folder / KEY, key)
        write_jsonl(folder / ITEMS, [_item(pairing, responses) for pairing in key if not pairing.identical])
    return folder


@dataclass(frozen=True)
class PeopleScores:
    """People's labels of a run as scores, and what there is to say of the labelling."""

    scores: pandas.DataFrame
    """Columns method, seed, metric, prompt_id, value, as the scores of all cells."""
    about: dict[str, Any]
    """For summary.json: see `labelling`."""


def read_people(run: Run) -> PeopleScores | None:
    """People's labels of a run; None where there are none. InputError if they are of other responses than the run's.

    `win_rate.people`: 1 where people prefer the row's response to SFT's, 0.5 for a tie, the mean over the labellers of
    a pair; `versus.people:ROW`: the same against another row's response. A pair of equal responses counts one half as
    soon as the pair before it in the plan has a label, so that it weighs what it weighs in the plan.
    """
    folder = run.path / PEOPLE
    if not (folder / KEY).exists():
        return None
    key = _key(run, folder, _responses(run))
    given: dict[str, dict[str, str]] = {pairing.item: {} for pairing in key}
    for label in read_labels(folder / LABELS / "people.jsonl"):
        if label.item in given:
            given[label.item][label.labeler_id] = label.answer
    units = {item: [OUTCOME[a] for a in answers.values() if a in OUTCOME] for item, answers in given.items()}
    served = [pairing for pairing in key if not pairing.identical]
    if not any(units.values()):
        return None
    order = {name: place for place, name in enumerate([*run.record["methods"], SFT])}
    reached = bool(units[served[-1].item])  # the pair before the first is the last
    rows = []
    for pairing in key:
        if not pairing.identical:
            reached = bool(units[pairing.item])
        if not reached:
            continue
        values = units[pairing.item] or [0.5]
        value, (a, b) = sum(values) / len(values), (pairing.a, pairing.b)
        if order[a] > order[b]:
            value, (a, b) = 1 - value, (b, a)
        metric = BY_PEOPLE if b == SFT else versus(BY_PEOPLE, b)
        rows.append((a, pairing.seed, metric, pairing.prompt_id, value))
    half = {(SFT, seed, metric, prompt, 0.5) for _, seed, metric, prompt, _ in rows if metric == BY_PEOPLE}
    import pandas

    frame = pandas.DataFrame([*sorted(half), *rows], columns=["method", "seed", "metric", "prompt_id", "value"])
    return PeopleScores(frame, labelling(served=[given[pairing.item] for pairing in served]))


def _responses(run: Run) -> Responses:
    return {(cell.method, cell.seed): {g.prompt_id: g for g in cell.generations()} for cell in run.cells()}


def _rows(run: Run, responses: Responses, methods: Sequence[str]) -> list[str]:
    """The rows to compare; InputError for one that the run does not have."""
    there = list(dict.fromkeys(method for method, _ in responses if method != SFT))
    if not there:
        raise InputError(f"{run.path} has no row beside SFT to compare; give bench run with a method first")
    for name in methods:
        if name not in there:
            raise InputError(f"--method {name} is not a row of {run.path}; {nearest(name, there)}")
    return [name for name in there if not methods or name in methods]


def _possible(rows: Sequence[str], responses: Responses, seed: int) -> Iterator[Pairing]:
    """Every pair of the run: prompt by prompt in a random order, of each all comparisons with all their seeds."""
    comparisons = [*((row, SFT) for row in rows), *combinations(rows, 2)]
    seeds = sorted({number for _, number in responses})
    prompts = {prompt for texts in responses.values() for prompt in texts}
    for prompt in sorted(prompts, key=lambda prompt: digest([seed, "prompt", prompt])):
        for number in seeds:
            for pair in comparisons:
                if all(prompt in responses.get((name, number), {}) for name in pair):
                    yield _pairing(prompt, number, pair, responses, seed)


def _pairing(prompt: str, number: int, pair: tuple[str, str], responses: Responses, seed: int) -> Pairing:
    item = digest([seed, "item", prompt, number, *pair])[:16]
    a, b = pair if int(digest([seed, "side", item]), 16) % 2 else pair[::-1]
    texts = [responses[name, number][prompt].response for name in (a, b)]
    return Pairing(item, prompt, number, a, b, _texts(prompt, number, (a, b), responses), texts[0] == texts[1])


def _texts(prompt: str, number: int, pair: tuple[str, str], responses: Responses) -> str | None:
    """The hash of a pair's prompt and texts; None where the run does not have them."""
    found = [responses.get((name, number), {}).get(prompt) for name in pair]
    return digest([[list(g.prompt), g.response] for g in found if g]) if all(found) else None


def _first(possible: Sequence[Pairing], count: int) -> list[Pairing]:
    """The first pairs with `count` that are served among them."""
    left = iter(range(count))
    return [*takewhile(lambda pairing: pairing.identical or next(left, None) is not None, possible)]


def _key(run: Run, folder: Path, responses: Responses) -> list[Pairing]:
    """The plan on disk; InputError if it belongs to another run or its pairs are not this run's responses any more."""
    if not (folder / KEY).exists():
        return []
    mine, theirs = run.record["run_id"], read_record(folder / RECORD)["run_id"]
    if mine != theirs:
        raise InputError(
            f"{folder} holds labels of run {theirs}, and this is run {mine}; move it back into the folder of that run"
        )
    key = [Pairing(**row) for _, row in read_rows(folder / KEY)]
    changed = [p for p in key if _texts(p.prompt_id, p.seed, (p.a, p.b), responses) != p.texts]
    if changed:
        raise InputError(
            f"{folder}: {len(changed)} of {len(key)} pairs are of responses that this run no longer has (the first of "
            f"seed {changed[0].seed}), and labels say nothing of other texts; move the folder away and label anew"
        )
    return key


def _item(pairing: Pairing, responses: Responses) -> Item:
    a, b = (responses[name, pairing.seed][pairing.prompt_id] for name in (pairing.a, pairing.b))
    left, right = (g.response if g.response.strip() else EMPTY for g in (a, b))
    return Item(pairing.item, a.prompt, left, right, a_cut=not a.finished, b_cut=not b.finished)
