"""Kills in trainings, whole runs and tunings, at random calls: the end is that of one that was never stopped.

What is compared: of a run the bytes of weights, responses, scores and scores along training, the names of the report's
files, and the summary but for times, memory and places; of a training the bytes of weights, its log and costs.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from forks import in_child, killed_until_it_ends
from harness import TINY, World, kind
from tasks import METHODS, PAIRS, PROMPTS, TUNING

from alignment_bench.benchmarks import harness
from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.definition.spec import Supervised, SupervisedFineTuning, load_spec
from alignment_bench.benchmarks.stages.trained import pair_dataset, train_cell, train_reward_model, train_sft
from alignment_bench.benchmarks.studies import tune
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.reward_model import RewardModel
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.store import COST, METRICS, Store, read_jsonl
from alignment_bench.training.task import PromptDataset

SAME = "the end, when the same command was given again, is that of one that was never stopped"
STAGES = ("sft", "reward_model", *METHODS, "run", "tune")

VARIES = {"seconds", "looking_seconds", "peak_memory_mb"}  # from one making to the next


def run(tiny: Checkpoint, root: Path, every: float) -> None:
    """A whole tiny run."""
    changes = {"model": str(tiny.path), "rows": 60, "evaluation": {"prompts": 4, "along": 1}}
    spec = load_spec(str(TINY), changes)
    harness.run(harness.Request(spec, ("dpo", "ppo"), 1, root, gate="ignore", checkpoint_every=every))


def run_tuning(tiny: Checkpoint, root: Path, every: float) -> None:
    """A whole tiny tuning."""
    changes = {"model": str(tiny.path), "rows": 100, "splits": {"selection": 0.2, "tuning": 0.2}}
    changes |= {"evaluation": {"prompts": 4}, "select": {"beside": ["gold"]}}
    spec = load_spec(str(TINY), changes)
    request = harness.Request(spec, ("dpo",), 1, root, gate="ignore", checkpoint_every=every)
    tune.tune(tune.Tuning(request, trials=2))


def scorer(tiny: Checkpoint) -> RewardModel:
    """A reward model with a fixed random head, whose scores have the rounding of whole passes, as real ones."""
    torch.manual_seed(5)
    network = open_network(tiny.path, "score", TUNING, trainable=False, head_std=0.5)
    torch.manual_seed(0)
    return RewardModel(network, tiny.tokenizer())


def train(name: str, tiny: Checkpoint, root: Path, every: float, tuning: Tuning = TUNING) -> None:
    """Train one stage in this process, 10 steps or 5 rounds, a checkpoint every so many seconds."""
    if name == "run":
        run(tiny, root, every)
        return
    if name == "tune":
        run_tuning(tiny, root, every)
        return
    shop = Workshop(Store(root), tuning, {}, checkpoint_every=every)
    if name == "sft":
        train_sft(shop, tiny, SupervisedFineTuning(examples=40, lr=1e-3, batch_size=4), PAIRS, PAIRS[:2])
    elif name == "reward_model":
        train_reward_model(shop, tiny, Supervised(examples=40, lr=1e-3, batch_size=4), PAIRS, PAIRS[:2], 1)
    else:
        train_cell(
            shop,
            name,
            METHODS[name],
            base=tiny,
            sft=tiny,
            pairs=pair_dataset(shop, tiny, PAIRS),
            unpaired=(),
            prompts=PromptDataset(PROMPTS, 5),
            reward=lambda: scorer(tiny),
            reward_model=tiny,
            budget=40,
            seed=0,
            along=2,
        )


def result(root: Path) -> tuple[dict[str, bytes], list, dict]:
    """All that a training leaves but for times and memory."""
    if summaries := list(root.glob("runs/*/*/summary.json")):
        files, reports, summary = run_result(summaries[0])
        studies = [without_times(json.loads(p.read_text())) for p in root.glob("studies/*/*/tune.json")]
        return files, reports, {"summary": summary, "studies": studies}
    (cost_path,) = (p for p in root.glob(f"cache/*/[!.]*/{COST}") if p.parts[-3] != "reference")
    folder = cost_path.parent
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.safetensors")}
    log = [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(folder / METRICS)]
    cost = json.loads(cost_path.read_text())
    return files, log, {k: v for k, v in cost.items() if k not in VARIES}


def run_result(path: Path) -> tuple[dict[str, bytes], list, dict]:
    """All that a run leaves but for times and memory, and its responses and scores as they are."""
    summary = json.loads(path.read_text())
    rows = [row[part] for row in summary["methods"].values() for part in ("cost", "inference", "looking")]
    for spent in [*rows, *(stage["cost"] for stage in summary["shared"].values())]:
        for name in VARIES & set(spent):
            del spent[name]
    for name in ("run_dir", "sha256"):
        summary.pop(name)
    kinds = ("*.safetensors", "generations.jsonl", "scores.parquet", "along.parquet")
    files = {p.relative_to(path.parent).as_posix(): p.read_bytes() for kind in kinds for p in path.parent.rglob(kind)}
    reports = sorted(p.name for p in path.parent.glob("report/*"))
    return files, reports, summary


def without_times(value: Any) -> Any:
    """A study's record without times, memory, places, and its check, which is over them too."""
    gone = ("created", "seconds", "looking_seconds", "peak_memory_mb", "trials_run", "run", "sha256")
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in gone}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def killed(
    work: Callable[[Path], object],
    result: Callable[[Path], Any],
    rng: Random,
    times: int,
    place: Callable[[], Path],
) -> Iterator[str]:
    """Kill work(root) at least so many times, each time going on until it ends, and compare its ends with a quiet one.

    place: a root to begin with. Yields an empty text for each kill whose end was the same.
    """
    calls = in_child(partial(work, whole := place()))
    expected, kills = result(whole), 0
    while kills < times:
        here = killed_until_it_ends(partial(work, root := place()), calls, rng)
        found, kills = result(root), kills + here
        yield from ["" if found == expected else difference(expected, found)] * here


def difference(expected: Any, found: Any) -> str:
    """Where two results first differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in {**expected, **found}:
            if expected.get(name) != found.get(name):
                return f"{name}: {difference(expected.get(name), found.get(name))}"
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        return "; ".join(difference(a, b) for a, b in zip(expected, found, strict=True) if a != b)
    return f"{str(expected)[:100]} became {str(found)[:100]}"


def add(name: str) -> None:
    """The kind of one stage."""

    @kind(f"killed in {name}", SAME)
    def tries(world: World, rng: Random, times: int) -> Iterator[str]:
        work = partial(train, name, world.tiny, every=0.0)
        yield from killed(lambda root: work(root=root), result, rng, times, world.place)


for stage in STAGES:
    add(stage)
