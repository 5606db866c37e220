"""`bench audit-judge`: judges beside people, on pairs that people labelled."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import InputError, nearest
from .training import Columns, Device

COLUMN = "column:"


def audit_judge(
    judge: Annotated[
        list[str],
        typer.Option(help="A local causal LM, openai:MODEL, or column:NAME for labels in the file; may be repeated."),
    ],
    labels: Annotated[
        Path, typer.Option(help="Pairs: id, prompt, response_a, response_b, human or label (a, b, tie or a list).")
    ],
    columns: Columns = None,
    pairs: Annotated[Path | None, typer.Option(help="Texts by id, where the label file holds only ids.")] = None,
    subset: Annotated[str, typer.Option(help="Column of the subset.")] = "subset",
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint; the key: OPENAI_API_KEY.")] = None,
    judge_prompt: Annotated[
        str,
        typer.Option(help="Prompt file in evaluators/prompts: pairwise, compact, graded, score, rubric"),
    ] = "pairwise",
    judge_limit: Annotated[int | None, typer.Option(help="At most this many pairs, the first ones.", min=1)] = None,
    judge_price: Annotated[str | None, typer.Option(help="Dollars per million tokens, IN,OUT.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A judge's setting, as in a benchmark: max_tokens=4000."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Pairs asked a second time, for self-consistency.", min=0)] = 30,
    device: Device = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model; never run without this.")
    ] = False,
    root: Annotated[Path, typer.Option("--root", help="Folder of the cache: verdicts are kept.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON alone on stdout.")] = False,
) -> None:
    """Compare judges with people: accuracy, kappa, Krippendorff's alpha, flips, taste for length.

    Example: bench audit-judge --judge openai:gpt-4.1-mini --labels people.jsonl
    """
    from ...models.model_files import allow_remote_code
    from ...preferences.columns import parse_columns
    from ..judging.labels import read_labels

    allow_remote_code(trust_remote_code)
    rows = read_labels(labels, pairs, subset, parse_columns(columns))[:judge_limit]
    given = {"prompt": judge_prompt, "url": judge_url, "price": read_price(judge_price), "repeats": repeats}
    given |= read_settings(settings or ())
    found = audit(list(judge), rows, given, device, root, lambda line: print(line, file=sys.stderr))
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


def audit(names: list[str], rows: list, settings: dict[str, Any], device: str, root: Path, say) -> dict[str, Any]:
    """The judges beside people and beside each other; see `judge_people.compare`."""
    from ..judging.labels import published_labels
    from ..judging.people import compare

    labels: dict[str, tuple[list, dict[str, Any]]] = {}
    for name in dict.fromkeys(names):
        if name.startswith(COLUMN):
            labels[name] = published_labels(rows, name.removeprefix(COLUMN)), {}
        else:
            labels[name] = _ask(name, rows, settings, device, root, say)
    return compare(rows, labels)


def _ask(name: str, rows: list, settings: dict[str, Any], device: str, root: Path, say) -> tuple[list, dict[str, Any]]:
    """A judge's labels, and what it shows of itself: flips, taste for the first place, self-consistency, its bill."""
    from ...evaluators.judge import OPENAI, Judge
    from ...models.find import find_model
    from ..definition.plugins import checked
    from ..judging.bill import bill, usage_of
    from ..judging.people import label
    from ..stages.scorers import given_models

    endpoint = name.startswith(OPENAI)
    given = {k: v for k, v in settings.items() if endpoint or k not in ("url", "price")}
    local = {} if endpoint else {name: find_model(name, "--judge")}
    given |= given_models({"model": name}, local, device, root)
    judge = checked(Judge, given, "bench audit-judge")
    labels, own = label(judge, judge.models[0], rows, say)
    [used] = (usage := judge.usage()).values()
    say(f"judge {name}: {bill(judge, used)}")
    return labels, {**own, "usage": next(iter(usage_of(judge, usage).values()))}


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
    """A judge's settings by field, of FIELD=VALUE; the values are read as YAML. InputError for a field that is none."""
    from dataclasses import fields

    from ...evaluators.judge import Judge
    from ..definition.plugins import read_value

    known = {field.name for field in fields(Judge)} - {"model", "cache", "device", "labels"}
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise InputError(f"--set {text}: {name!r} is no setting of a judge; {nearest(name, known)}")
        found[name] = read_value(value)
    return found


def read_price(text: str | None) -> tuple[float, float] | None:
    """Dollars per million tokens in and out of "IN,OUT"; InputError for anything else."""
    if text is None:
        return None
    try:
        into, out = (float(part) for part in text.split(","))
        if not (0 <= into < float("inf") and 0 <= out < float("inf")):
            raise ValueError
    except ValueError:
        raise InputError(
            f"--judge-price {text} is not a price; give dollars per million tokens, for example 0.15,0.60"
        ) from None
    return into, out


ROWS = {
    "coverage": "pairs with a valid verdict",
    "accuracy": "agrees with the majority",
    "over_subsets": "the same, mean over subsets",
    "decided_accuracy": "and where both decide",
    "kappa": "Cohen's kappa, majority",
    "kappa_person": "Cohen's kappa, one person",
    "ties": "ties (or contradicts itself)",
    "flip": "flips when swapped",
    "chose_first": "chooses the first",
    "self_consistency": "same verdict when asked twice",
    "prefers_longer": "prefers the longer",
}


def lines(found: dict[str, Any]) -> list[str]:
    """The findings as text for a terminal."""
    people = found["people"]
    said = [
        f"{people['pairs']} pairs, {people['labels']} labels of people, "
        f"{people['without_majority']} pairs without a majority (left out of accuracy)",
        f"people among themselves: agreement {_text(people['agreement'])}, Cohen's kappa {_measure(people, 'kappa')}, "
        f"Krippendorff's alpha {_text(people['alpha'])} (the ceiling)",
    ]
    for name, judge in found["judges"].items():
        said += ["", name]
        said += [f"  {words:<30} {_measure(judge, key)}" for key, words in ROWS.items() if key in judge]
        said.append(f"  {'(people prefer the longer)':<30} {_text(judge['people_prefer_longer'])}")
        other = judge["another_person"]
        beside = {"mean": other["difference"], **{k: other[k] for k in ("low", "high", "n")}}
        said.append(f"  {'agrees with one person':<30} {_text(other['agreement'])} (people {_text(other['people'])})")
        said.append(f"  {'the difference':<30} {_text(beside)}")
        for part, row in judge["subsets"].items():
            said.append(
                f"  {part}: {row['pairs']} pairs, accuracy {_text(row['accuracy'])}, kappa {_measure(row, 'kappa')}, "
                f"people's alpha {_text(row['alpha'])}"
            )
    if "panel" in found:
        said += ["", f"judges among themselves: Krippendorff's alpha {_text(found['panel']['alpha'])}"]
    return said


def _measure(row: dict[str, Any], name: str) -> str:
    limits = row.get(f"{name}_limits")
    return _text(row[name]) + (f" [{limits[0]:.3f}, {limits[1]:.3f}]" if limits else "")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        span = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
        return f"{_text(value['mean'])}{span}" + (f" (n={value['n']})" if value["n"] else "")
    return "–" if value is None else f"{value:.3f}"
