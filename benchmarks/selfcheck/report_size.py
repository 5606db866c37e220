"""The cost of a large run's report: `python -m alignment_bench.benchmarks.selfcheck.report_size`.

Makes up runs of several shapes, their summary by our own code, and measures of each command in a process of its own CPU
seconds (user and system), peak resident memory, and the bytes that it writes. Writes report_size.json.
"""

import argparse
import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...results.integrity import write_json
from ...results.records import Generation
from ...results.run_folder import Run
from ...results.store import COST, GENERATIONS, METRICS, SCORES, Stage, Store, write_jsonl

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "report_size.json"
SHAPES = {"few": (4, 5, 100), "many cells": (40, 5, 100), "many prompts": (4, 1, 20_000)}
SHAPES["many rows"] = (200, 1, 100)  # rows, seeds, prompts: 200 cells, 20,100 comparisons on each scorer
WIN_RATES = ("win_rate.gold", "win_rate.reward_model")
STEPS = 120  # lines of a training's log
WORDS = "six hours of sun and a deep pot then water when the soil feels dry".split()
EVERY = "html,md,latex,csv,parquet,json,svg"
COMMANDS = {
    "summary": None,  # as a run makes it when it ends
    "bench report": ("report",),
    f"bench report --format {EVERY}": ("report", "--format", EVERY),
    "bench show": ("show",),
}


def cell_files(method: str, seed: int, prompts: int, gain: float, out: Path) -> None:
    """A cell's files, as a run leaves them: two scorers, KL, length, and a training log where it was trained."""
    import pandas

    rng = random.Random(f"{method} {seed}")
    responses, scores = [], list[tuple[str, str, float]]()
    for number in range(prompts):
        name = f"prompt-{number}"
        text = " ".join(rng.choices(WORDS, k=rng.randint(20, 60)))
        asked = ({"role": "user", "content": f"How do I grow tomatoes in pot {number}?"},)
        kl = 0.0 if method == "sft" else rng.gauss(10 * gain, 1)
        responses.append(Generation(name, asked, text, len(text.split()), rng.random() < 0.95, kl))
        row = {"reward.gold": rng.gauss(gain, 1), "reward.reward_model": rng.gauss(2 * gain, 1), "kl": kl}
        row |= {"length": float(len(text.split())), "eos_rate": float(rng.random() < 0.95)}
        if method != "sft":
            row |= {metric: float(rng.random() < 0.5 + gain / 2) for metric in WIN_RATES}
        scores += [(metric, name, value) for metric, value in row.items()]
    write_jsonl(out / GENERATIONS, responses)
    pandas.DataFrame(scores, columns=["metric", "prompt_id", "value"]).to_parquet(out / SCORES)
    if method != "sft":
        write_jsonl(out / METRICS, (_step(rng, step, gain) for step in range(1, STEPS + 1)))
        write_json(out / COST, {"seconds": 60.0 + rng.random(), "trained_tokens": 100_000, "peak_memory_mb": 900.0})


def _step(rng: random.Random, step: int, gain: float) -> dict[str, float]:
    row = {"step": step, "examples": 8 * step, "seconds": step / 2, "lr": 1e-4, "grad_norm": rng.uniform(0.5, 2)}
    row |= {"loss": 0.69 - gain * step / 500 + rng.gauss(0, 0.03), "accuracy": rng.uniform(0.5, 0.8)}
    return row | {"margin": gain * step / 100, "chosen_logps": -20 - step / 40, "rejected_logps": -22 - step / 15}


def make_run(root: Path, rows: int, seeds: int, prompts: int) -> Run:
    """A run of so many rows, seeds of each, and prompts, without a summary."""
    names = [f"dpo_beta={i}" for i in range(rows)]
    run, store = Run(root / "runs" / "made-up" / "run"), Store(root)
    settings = {name: {"name": "dpo", "params": {"beta": float(i)}, "description": ""} for i, name in enumerate(names)}
    record = {"run_id": "made-up", "benchmark": "made-up", "created": "2026-01-01T00:00:00+00:00", "commands": []}
    data = {"source": "made up", "read": prompts, "splits": {"held_out": {"pairs": prompts, "prompts": prompts}}}
    contract = {"budget": {"examples": 8 * STEPS}}
    run.open({**record, "contract": contract, "environment": {}, "data": data, "methods": settings, "shared": {}})
    for place, name in enumerate(("sft", *names)):
        for seed in range(seeds):
            gain = place / (rows + 1)
            made: Stage = store.stage(
                "all_scores", {"cell": [name, seed]}, partial(cell_files, name, seed, prompts, gain)
            )
            run.place(name, seed, [made])
    return run


def sum_up(run: Path) -> None:
    """The run's summary, as when it ends."""
    from .. import summing_up

    found = Run(run)
    found.write_summary(summing_up.sum_up(found, found.scores(), gates=[], notes=[]))


def measured(run: Path, arguments: Sequence[str] | None) -> dict[str, float]:
    """CPU seconds and the peak of memory of one command, in a fork that becomes it; the bytes below `report/` after."""
    report = Run(run).report_path
    shutil.rmtree(report, ignore_errors=True)
    ours = ("alignment_bench", *arguments) if arguments else (__spec__.name, "--sum-up")
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    command = [sys.executable, "-m", *ours, str(run)]
    child = os.posix_spawn(command[0], command, os.environ | {"OMP_NUM_THREADS": "1"}, file_actions=silent)
    _, status, used = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    sizes = {p.relative_to(report).as_posix(): p.stat().st_size for p in report.rglob("*") if p.is_file()}
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 1024),
        "written_bytes": sum(sizes.values()),
        **({"page_bytes": sizes["index.html"], "files": len(sizes)} if sizes else {}),
    }


def shape(rows: int, seeds: int, prompts: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Of one shape of run, what each command takes."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), rows, seeds, prompts).path
        for name, arguments in COMMANDS.items():
            yield name, measured(run, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a large run's report costs.")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--sum-up", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.sum_up:
        sum_up(asked.sum_up)
        return
    found: dict[str, Any] = {"shapes": {}}
    for name in asked.only:
        commands: dict[str, Any] = {}
        for command, spent in shape(*SHAPES[name]):
            commands[command] = spent
            print(f"{name}: {command}: {spent}", flush=True)
        sizes = zip(("rows", "seeds", "prompts"), SHAPES[name], strict=True)
        load = f"{os.getloadavg()[1]:.1f} processes at work over the last five minutes"
        found["shapes"][name] = {**dict(sizes), "commands": commands, "load": load}
    found |= {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "packages": {name: version(name) for name in ("pandas", "matplotlib", "jinja2", "pyarrow")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_json(asked.out, found)


if __name__ == "__main__":
    main()
