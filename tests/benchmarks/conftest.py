"""A tiny benchmark that really runs, and a made-up run for the commands that only read."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

from alignment_bench.analysis.summary import summarize
from alignment_bench.results.records import Generation
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import COST, GENERATIONS, METRICS, SCORES, Store, write_jsonl

PROMPTS = [f"p{i:02}" for i in range(16)]
BETTER = {"sft": 0.0, "ppo": 1.5, "dpo": 0.5}  # how much longer than SFT's each method's responses are
TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="session")
def write_tiny():
    """write_tiny(folder, **changes): tiny.yaml with changes, merged field by field, None leaving out; its path."""

    def write(folder: Path, **changes) -> Path:
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump({"extends": str(TINY), **changes}, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def make_run():
    """make_run(folder, budget=16): write a run there of two methods, two seeds and sixteen prompts, cache and all, as
    if models had made it; a `Run`."""
    return _make_run


def _make_run(folder, budget: int = 16, noise: int = 0) -> Run:
    store, run = Store(folder / "results"), Run(folder / "results" / "runs" / "made-up" / f"budget{budget}")
    contract = {"benchmark": "made-up", "budget": budget, "sft": {"content": "s"}, "data": "d"}
    methods = {name: {"name": name, "params": {"lr": 0.1}, "description": ""} for name in ("ppo", "dpo")}
    run.open(
        {
            "run_id": f"made-up-{budget}",
            "benchmark": "made-up",
            "created": "2026-01-02T03:04:05+00:00",
            "commands": ["bench run -m ppo,dpo -b made-up"],
            "contract": contract,
            "environment": {"device": "cpu"},
            "data": {"source": "nowhere", "notes": []},
            "methods": methods,
        }
    )
    frames, costs = [], {}
    for name, shift in BETTER.items():
        for seed in (0, 1):
            cell = _cell(store, run, name, seed, shift, np.random.default_rng([seed, noise, len(name), name == "ppo"]))
            frames.append(cell.scores().assign(method=name, seed=seed))
            if cell.cost():
                costs.setdefault(name, []).append(cell.cost())
    run.write_summary(
        summarize(
            run_id=f"made-up-{budget}",
            run_dir=str(run.path),
            benchmark="made-up",
            contract=contract,
            scores=pandas.concat(frames, ignore_index=True),
            costs=costs,
            gates=[],
            warnings=[],
        )
    )
    return run


def _cell(store, run, name, seed, shift, rng):
    length = 10 + shift + rng.normal(0, 0.5, len(PROMPTS))
    wins = np.where(length > 10, 1.0, 0.0) if name != "sft" else np.full(len(PROMPTS), 0.5)
    scores = pandas.concat(
        pandas.DataFrame({"metric": metric, "prompt_id": PROMPTS, "value": values})
        for metric, values in (("win_rate.gold", wins), ("length", length), ("kl", np.zeros(len(PROMPTS))))
    )

    def build(out):
        scores.to_parquet(out / SCORES, index=False)
        asked = {p: ({"role": "user", "content": f"Why {p}?"},) for p in PROMPTS}
        write_jsonl(out / GENERATIONS, [Generation(p, asked[p], f"{name} says {p}", 4, True, 0.0) for p in PROMPTS])
        if name != "sft":
            (out / COST).write_text(json.dumps({"seconds": 2.0 + seed, "examples": 16, "flops": 1e9}))
            rows = [
                {"step": s, "examples": 4 * s, "seconds": s / 2, "loss": 1.0 / s, "kl": 0.1 * s} for s in range(1, 5)
            ]
            write_jsonl(out / METRICS, rows)

    return run.place(name, seed, [store.stage("all_scores", {"name": name, "seed": seed, "run": run.path.name}, build)])
