"""The known-optimum results of many methods over seeds.

python -m alignment_bench.benchmarks.selfcheck.optimum_table ppo,dpo

Writes results/published/optimum.json and the page derived from it, optimum.md; methods that are not named keep what
they have there.
"""

import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from ...results.integrity import write_json
from .check import TARGET, check
from .optimum import BETA

SEEDS = 3
PUBLISHED = Path(__file__).parents[2] / "results" / "published"


def measure(name: str) -> dict[str, Any]:
    """One method over seeds; the promises of the interface with the first."""
    started = time.monotonic()
    reports = [check(name, seed=seed, shares=(1,), conformance=seed == 0) for seed in range(SEEDS)]
    return {
        "settings": reports[0].settings,
        "required": reports[0].target,
        "measured_from": reports[0].objective,
        "examples": reports[0].curve[-1][0],
        "start": reports[0].start.kl_to_optimum,
        "seeds": [dataclasses.asdict(r.curve[-1][1]) for r in reports],
        "promises_kept": sum(f.passed for f in reports[0].findings),
        "promises": len(reports[0].findings),
        "seconds": round(time.monotonic() - started, 1),
    }


def page(rows: dict[str, Any]) -> str:
    """The table in Markdown, required methods first."""
    lines = [
        "# Distance to the known optimum",
        "",
        f"KL(pi || pi*) in nats, mean and range over {SEEDS} seeds, in the world of `bench check`: 57 responses to "
        "each of 4 prompts, beta 0.5. Derived from optimum.json by `benchmarks/selfcheck/optimum_table.py`.",
        "",
        "| method | KL | range | regret | wanted | examples | promises kept | measured from |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: (item[1]["required"] is None, item[0])):
        kls = [seed["kl_to_optimum"] for seed in row["seeds"]]
        regret = statistics.mean(seed["regret"] for seed in row["seeds"])
        wanted = f"at most {TARGET}" if row["required"] else "reported"
        lines.append(
            f"| {name} | {statistics.mean(kls):.4f} | {min(kls):.4f} to {max(kls):.4f} | {regret:.4f} | {wanted} "
            f"| {row['examples']:,} | {row['promises_kept']} of {row['promises']} | {row['measured_from']} |"
        )
    start = next(row["start"] for row in rows.values() if row["required"])
    lines += [
        "",
        f"- **Measured from `pi*`**: what the method aims at, so it must come within {TARGET} nats; the rest is "
        "noise of the optimization.",
        "- **ipo** is measured from an optimum of its own, which is known too. Its regret is that of the objective of "
        "`pi*`, which is another, so it would not be 0 even there.",
        "- **All others** aim elsewhere, as the last column says. Their KL tells how far from `pi*` they ended, not "
        "how well they were trained, and it changes with settings and length of the training: do not rank them by it.",
        f"- Regret: what the policy lacks of `pi*` in reward - {BETA} KL to the reference, which is {BETA} times its "
        f"KL to `pi*`. The reference, where all begin, is {start:.2f} nats from `pi*`.",
        "- Promises: those of the interface, the same for every method: seeds, budget, costs, files.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    path = PUBLISHED / "optimum.json"
    for name in sys.argv[1].split(","):
        found = measure(name)
        rows = (json.loads(path.read_text()) if path.exists() else {}) | {name: found}
        write_json(path, rows)
        (PUBLISHED / "optimum.md").write_text(page(rows))
        print(name, [round(seed["kl_to_optimum"], 4) for seed in found["seeds"]], found["seconds"], "s", flush=True)


if __name__ == "__main__":
    main()
