"""The known-optimum results of many methods over seeds.

python -m alignment_bench.benchmarks.selfcheck.optimum_table [ppo,dpo]

Writes results/published/optimum.json and the page derived from it, optimum.md, after each method and seed; what is
there already with the same settings in the same world is kept, so a long run goes on where it was stopped. Without
names: all methods of this package.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from ...errors import InputError, TrainingError
from ...results.integrity import write_json
from ..definition.plugins import available, is_ours
from ..definition.proof import OPTIMUM, PUBLISHED
from .check import TARGET, Report, check, settings_of
from .optimum import BETA, COMPARISONS, PROMPTS, RESPONSES

SEEDS = 3
WORLD = {"responses": len(RESPONSES), "prompts": len(PROMPTS), "comparisons": COMPARISONS, "beta": BETA}


def main() -> None:
    names = [name for name, entry in available("methods").items() if is_ours(entry.module)]
    names = sys.argv[1].split(",") if sys.argv[1:] else names
    path = PUBLISHED / OPTIMUM
    for seed in range(SEEDS):  # all methods once, then all again
        for name in names:
            rows = read(path)
            if has(rows.get(name), seed, settings_of(name)):
                continue
            try:
                found = check(name, seed=seed, shares=(1,), conformance=seed == 0)
            except (InputError, TrainingError) as error:  # of TRL's, say, where that is not installed
                print(name, seed, error, flush=True)
                continue
            rows = read(path)  # again: another process may have added other methods meanwhile
            rows[name] = joined(rows.get(name), found)
            write_json(path, rows)
            path.with_suffix(".md").write_text(page(rows), encoding="utf-8")
            print(name, seed, rows[name]["seeds"][-1], flush=True)


def read(path: Path) -> dict[str, Any]:
    """The rows so far that are of this world; of another they say nothing here."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows.pop("sha256", None)
    return {name: row for name, row in rows.items() if row.get("world") == WORLD}


def has(row: dict[str, Any] | None, seed: int, settings: dict[str, Any]) -> bool:
    return row is not None and row["settings"] == settings and any(one["seed"] == seed for one in row["seeds"])


def joined(row: dict[str, Any] | None, found: Report) -> dict[str, Any]:
    """A method's row with one more seed; begun anew where its settings or what it is measured from are others."""
    same = {
        "world": WORLD,
        "settings": found.settings,
        "required": found.target,
        "measured_from": found.objective,
        "examples": found.curve[-1][0],
        "start": found.start.kl_to_optimum,
    }
    kept = row if row and {name: row[name] for name in same} == json.loads(json.dumps(same)) else {**same, "seeds": []}
    end = {"seed": found.seed, **dataclasses.asdict(found.curve[-1][1]), "seconds": round(found.seconds, 1)}
    promises = (
        {"promises_kept": sum(f.passed for f in found.findings), "promises": len(found.findings)}
        if found.findings
        else {}
    )
    return {**kept, **promises, "seeds": [*kept["seeds"], end]}


def page(rows: dict[str, Any]) -> str:
    """The table in Markdown, required methods first."""
    lines = [
        "# Distance to the known optimum",
        "",
        f"KL from the policy to its optimum in nats, mean and range over seeds, in the world of `bench check`: "
        f"{len(RESPONSES)} responses to each of {len(PROMPTS)} prompts. Derived from optimum.json by "
        "`benchmarks/selfcheck/optimum_table.py`.",
        "",
        "| method | KL | range | seeds | began at | wanted | examples | promises kept | measured from |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: (item[1]["required"] is None, item[0])):
        kls = [seed["kl_to_optimum"] for seed in row["seeds"]]
        wanted = f"at most {row['required']}" if row["required"] else "reported"
        if row["required"] and max(kls) > row["required"]:
            wanted += ", missed"
        promises = f"{row['promises_kept']} of {row['promises']}" if "promises" in row else "not asked"
        lines.append(
            f"| {name} | {statistics.mean(kls):.4f} | {min(kls):.4f} to {max(kls):.4f} | {len(kls)} "
            f"| {row['start']:.2f} | {wanted} | {row['examples']:,} | {promises} | {row['measured_from']} |"
        )
    lines += [
        "",
        f"- **Wanted**: the method declares a goal whose optimum is known, so it must come within {TARGET} nats of it; "
        "the rest is noise of the optimization. Missed: at least one seed did not.",
        f"- **Reported**: none is known, as the last column says. Such a row is measured from pi_ref exp(r / {BETA}), "
        "which is not what it aims at: that tells how far it ended, not how well it was trained.",
        "- **Began at**: the distance of the reference, where all begin.",
        "- Methods that are not in the table were not measured in this world.",
        "- Promises: those of the interface, the same for every method: seeds, budget, costs, files.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
