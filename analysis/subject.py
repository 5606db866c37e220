"""The subject of a run in a line: which model on which data, trained how long, asked how much, from summary.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .costs import costs_of
from .elsewhere import is_elsewhere
from .metric_names import FAMILIES

# What a file of pairs may end in; the data set's name is what stands before.
ENDINGS = re.compile(r"(\.(jsonl?|ndjson|parquet|csv|tsv|arrow|txt|gz|zst|bz2|xz))+$", re.IGNORECASE)
ANY_DATA = {
    "train",
    "training",
    "test",
    "data",
    "pairs",
    "preferences",
}  # names that tell nothing without their folder's
HUB_CACHE = re.compile(r"(?:^|/)(?:models|datasets)--([^/]+)/snapshots/[^/]+")


def data_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What summary.json says of a run's pairs: `source`, and the rows `read` and `used`; record: run.json."""
    data = record.get("data") or {}
    return {name: data[name] for name in ("source", "read", "used") if name in data}


def subject(summary: Mapping[str, Any]) -> str:
    """Model, data, optimizer steps and prompts: "SmolLM2-135M-Instruct on alpacaeval: 8 optimizer steps, 23 prompts".

    What a summary does not tell is left out; of an older one, which names no data, the benchmark stands for it.
    """
    asked = prompts(summary)
    kind = "question" if "questions" in contract(summary) else "prompt"
    size = [steps_of(summary), f"{asked:,} {kind}{'s' * (asked != 1)}" if asked else ""]
    return ": ".join(filter(None, [where(summary), ", ".join(filter(None, size))]))


def where(summary: Mapping[str, Any]) -> str:
    """The model and the data."""
    source, model = (summary.get("data") or {}).get("source"), contract(summary).get("model")
    benchmark = f"enchmark {summary.get('benchmark') or 'without a name'}"
    if not model:
        return short(str(source)) if source else f"B{benchmark}"
    return f"{short(str(model))} on {short(str(source)) if source else f'b{benchmark}'}"


def rows_used(summary: Mapping[str, Any]) -> str:
    """How many rows of how many are used as pairs; "" where that is not known."""
    data = summary.get("data") or {}
    if not isinstance(data.get("used"), int) or not isinstance(data.get("read"), int):
        return ""
    return f"{data['used']:,} of {data['read']:,} rows"


def contract(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The run's contract; an older summary has its hash alone."""
    found = summary.get("contract")
    return found if isinstance(found, Mapping) else {}


def steps_of(summary: Mapping[str, Any]) -> str:
    """The optimizer steps of one training; from the fewest to the most where methods differ, "" where none trained."""
    trained = {"methods": {name: {"cost": {}, **row} for name, row in (summary.get("methods") or {}).items()}}
    counts = sorted(round(count) for count in costs_of(trained, "optimizer_steps").values())
    if not counts:
        return ""
    span = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if counts[-1] > counts[0] else "")
    return f"{span} optimizer step{'s' * (span != '1')}"


def prompts(summary: Mapping[str, Any]) -> int:
    """The prompts that policies answered, from how many values a seed has; 0 where nothing was scored."""
    counts = [
        cell["n"] / cell.get("coverage", 1.0) / row["seeds"]
        for row in (summary.get("methods") or {}).values()
        for metric, cell in row.get("metrics", {}).items()
        if row.get("seeds") and not is_elsewhere(row) and cell.get("n") and metric.partition(".")[0] in FAMILIES
    ]
    return round(max(counts, default=0))


def short(name: str) -> str:
    """The name of a model or data set within its path or hub id; builtin/NAME stays whole."""
    name = name.rstrip("/")
    if name.startswith("builtin/"):
        return name
    if cached := HUB_CACHE.search(name):
        return cached[1].rpartition("--")[2]
    *above, last = re.split(r"[/\\]", name)
    stem = ENDINGS.sub("", last) or last or name
    return f"{above[-1]}/{stem}" if stem in ANY_DATA and above and above[-1] else stem
