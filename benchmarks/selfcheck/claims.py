"""The share of simulated runs in which each sentence of a verdict is printed and false, collected over subjects.

python -m alignment_bench.benchmarks.selfcheck.claims [--runs 1000] [--only verdict,people]

Each module `claims_SUBJECT.py` beside this one simulates its sentences: `rates(runs, seed)` gives a row per sentence
and design. Writes results/published/claims.json, subject by subject, and the page claims.md from it.
"""

import argparse
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from ...results.integrity import write_json
from ...results.store import read_json

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "claims.json"
PREFIX = "claims_"
MOST = 0.05  # share of runs in which a sentence may be false


def subjects() -> list[str]:
    """The subjects that have a simulation."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


def rate_row(sentence: str, design: str, false: int, runs: int) -> dict[str, Any]:
    """A row of claims.json: the share of runs in which a sentence was printed and false, with 95% limits (exact)."""
    limits = binomtest(false, runs).proportion_ci(method="exact")
    share = {"false": false / runs, "low": float(limits.low), "high": float(limits.high)}
    return {"sentence": sentence, "design": design, "runs": runs, **share}


def collect(names: Sequence[str], runs: int, seed: int, out: Path) -> None:
    """Simulate subjects and write what they give over what the file has of them."""
    found = read_json(out) if out.exists() else {}
    for name in names:
        module = importlib.import_module(f"{__package__}.{PREFIX}{name}")
        rows = module.rates(runs, seed)
        found = {**found, name: {"runs": runs, "seed": seed, "rows": rows}}
        write_json(out, found)
        out.with_suffix(".md").write_text(page(found), encoding="utf-8")


def page(found: dict[str, Any]) -> str:
    """claims.md: a row per sentence, its highest share over all designs, and where that was."""
    lines = [
        "# False claims, simulated",
        "",
        "Made from claims.json by `python -m alignment_bench.benchmarks.selfcheck.claims`. For each sentence the share",
        f"of simulated runs in which it is printed and false, at most {MOST:.0%}: the mean over its designs, and the",
        "highest of them with its 95% interval. The highest of many shares lies above their common value by chance.",
        "",
    ]
    for subject, part in sorted(found.items()):
        lines += [f"## {subject}", "", f"Runs per design: {part['runs']:,}.", ""]
        lines += [
            "| Sentence | Designs | Mean | Highest | 95% interval | Where |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
        ]
        sentences = dict.fromkeys(row["sentence"] for row in part["rows"])
        for sentence in sentences:
            rows = [row for row in part["rows"] if row["sentence"] == sentence]
            worst = max(rows, key=lambda row: row["false"])
            mean = sum(row["false"] for row in rows) / len(rows)
            where = worst["design"] if worst["false"] else "nowhere"
            lines.append(
                f"| {sentence} | {len(rows)} | {mean:.1%} | {worst['false']:.1%} | "
                f"{worst['low']:.1%} to {worst['high']:.1%} | {where} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs per design")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="subjects, by comma")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    args = parser.parse_args()
    collect(args.only.split(",") if args.only else subjects(), args.runs, args.seed, args.out)


if __name__ == "__main__":
    main()
