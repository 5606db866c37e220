"""Kinds of faults, each tried many times with a seed, and counted: "tried N, survived N".

A kind is a function that tries its fault and yields, for each time, what went wrong, or an empty text where the fault
was survived as the kind says. JSON is the outcome; the page is made from it.
"""

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from alignment_bench.benchmarks import harness
from alignment_bench.benchmarks.definition.spec import BenchmarkSpec, load_spec
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.results.integrity import write_json

TINY = Path(__file__).parents[1] / "benchmarks" / "tiny.yaml"
PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "faults.json"


class World:
    """What the kinds share: a folder, a tiny model, and a finished tiny run that each may copy."""

    def __init__(self, folder: Path, model: Path):
        self.folder = folder
        self.tiny = Checkpoint(model, key="tiny")
        self._places = 0

    def place(self) -> Path:
        """A new folder."""
        self._places += 1
        (path := self.folder / str(self._places)).mkdir(parents=True)
        return path

    def spec(self, **changes: Any) -> BenchmarkSpec:
        """A benchmark of seconds; evaluators are replaced, not merged."""
        fields = {"model": str(self.tiny.path), "rows": 60, "evaluation": {"prompts": 4}, **changes}
        return load_spec(str(TINY), fields)

    def run(self, root: Path, methods: tuple[str, ...] = ("dpo",), **changes: Any) -> harness.Outcome:
        """A run of that benchmark below a root, in this process, which is a fork; without the report, which is slow."""
        harness.render = lambda runs: []
        return harness.run(
            harness.Request(self.spec(**changes), methods, 1, root, gate="ignore", say=lambda line: None)
        )

    @cached_property
    def finished(self) -> Path:
        """The root of a finished run of DPO."""
        from forks import in_child  # which silences packages, and a test reads this module alone

        root = self.place()
        in_child(lambda: self.run(root))
        return root

    def copy(self) -> Path:
        """A copy of the finished run's root."""
        return shutil.copytree(self.finished, self.place() / "results")


Tries = Callable[[World, Random, int], Iterator[str]]


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    name: str
    survived: str
    """What counts as survived."""
    tries: Tries
    needs: str = ""
    """A package without which it is not tried."""


KINDS: dict[str, Kind] = {}


def kind(name: str, survived: str, needs: str = "") -> Callable[[Tries], Tries]:
    """Add a function to the kinds."""

    def add(tries: Tries) -> Tries:
        KINDS[name] = Kind(name, survived, tries, needs)
        return tries

    return add


def carry_out(world: World, each: Kind, times: int, seed: int) -> dict[str, Any]:
    """Try one kind at least so many times; its row."""
    started, what = time.monotonic(), [*each.tries(world, Random(f"{each.name} {seed}"), times)]
    failures = [text for text in what if text]
    return {
        "kind": each.name,
        "survived_means": each.survived,
        "tried": len(what),
        "survived": len(what) - len(failures),
        "failures": list(dict.fromkeys(failures))[:5],
        "seconds": round(time.monotonic() - started, 1),
    }


def publish(rows: list[dict[str, Any]], seed: int, out: Path) -> None:
    """Put these rows over those that the file has of the same kinds, and write the page beside it."""
    old = json.loads(out.read_text()) if out.exists() else {"kinds": []}
    versions = {name: version(name) for name in ("torch", "transformers", "alignment-bench")}
    stamp = {"machine": platform.platform(), "packages": versions, "date": datetime.now(UTC).date().isoformat()}
    new = {row["kind"]: {**row, "seed": seed, **stamp} for row in rows}
    kinds = {row["kind"]: row for row in old["kinds"]} | new
    write_json(out, found := {"kinds": [kinds[name] for name in sorted(kinds)]})
    out.with_suffix(".md").write_text(page(found), encoding="utf-8")


def page(found: dict[str, Any]) -> str:
    """faults.md: a row per kind."""
    lines = [
        "# Faults, tried",
        "",
        "Made from faults.json by `python tests/faults --times N --out results/published/faults.json`. Each kind is",
        "tried with a seed; what went wrong, where anything did, is in the JSON.",
        "",
        "| Fault | Tried | Survived | What counts as survived |",
        "| --- | ---: | ---: | --- |",
    ]
    rows = sorted(found["kinds"], key=lambda row: row["kind"])
    lines += [f"| {row['kind']} | {row['tried']} | {row['survived']} | {row['survived_means']} |" for row in rows]
    return "\n".join([*lines, ""])
