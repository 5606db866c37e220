"""The sizes of a benchmark, `--size`: the optimizer steps and prompts of each, and the difference that it can show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...analysis.power import plan_sentences, smallest_difference
from .spec import BenchmarkSpec, suites
from .yaml_file import read_benchmark, sizes_of

METHODS, SEEDS = 3, (1, 3, 5, 8)  # for which a size's differences are told before it is known what is compared


@dataclass(frozen=True)
class Size:
    """One size. steps: optimizer steps of a method that learns from pairs; None where the batch is the method's own."""

    name: str
    description: str
    steps: int | None
    prompts: int
    shown: dict[int, float]
    """Number of seeds -> the smallest difference of win rates between three methods that is shown; inf for none."""


def sizes(benchmark: str) -> list[Size]:
    """The sizes of a benchmark by name or path, in the order of its file; empty where it has none."""
    found = []
    for name in sizes_of(benchmark, suites()):
        fields = read_benchmark(benchmark, suites(), size=name).fields
        prompts = fields["evaluation"]["prompts"]
        shown = {seeds: smallest_difference(prompts, seeds, METHODS) for seeds in SEEDS}
        found.append(Size(name, fields.get("description", ""), _steps(fields), prompts, shown))
    return found


def sentence(spec: BenchmarkSpec, size: str, seeds: int, rows: int) -> str:
    """What a run of this size is and can show; rows: of different methods."""
    steps = _steps(spec.model_dump())
    said = f"{spec.name}, size {size}: " + (
        f"{steps:,} optimizer steps of a method that learns from pairs; " if steps else ""
    )
    return said + plan_sentences(spec.evaluation.prompts, seeds, rows, spec.margin)[0]


def _steps(fields: Mapping[str, Any]) -> int | None:
    batch = (fields.get("method_defaults") or {}).get("batch_size")
    return -(-fields["budget"] // batch) if batch else None
