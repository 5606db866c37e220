"""Kill trainings at random moments, let them go on, and compare the end with that of one that was never stopped.

python kill_and_resume.py MODEL FOLDER KILLS STAGE ... [--out FILE] prints a line of JSON a stage; the stage `run` is a
whole `bench run` of DPO and PPO, with responses, scores, summary and report, and `tune` a whole `bench tune` of DPO.
FILE then says on what machine and when, as results/published/kills.json does. This process forks those that are killed
and never trains itself, for a fork of a process with threads may hang.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import sys
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where tasks.py is

import optuna  # noqa: F401  (imported here once, or every fork would do it)
import peft  # noqa: F401
import scipy.stats.qmc  # noqa: F401
import torch
import torch._dynamo  # noqa: F401
from tasks import METHODS, PAIRS, PROMPTS, TUNING
from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from alignment_bench.benchmarks import harness
from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.definition.spec import Supervised, SupervisedFineTuning, load_spec
from alignment_bench.benchmarks.stages.trained import pair_dataset, train_cell, train_reward_model, train_sft
from alignment_bench.benchmarks.studies import tune
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.reward_model import RewardModel
from alignment_bench.results.integrity import write_json
from alignment_bench.results.store import COST, METRICS, Store, read_jsonl
from alignment_bench.runtime.quiet import quiet
from alignment_bench.training.task import PromptDataset

quiet()  # stdout is for JSON alone
with contextlib.suppress(ImportError):
    import deepspeed  # noqa: F401  (accelerate imports it, where it is installed, as a model is saved)

COMPARED = {
    "run": "bytes of weights, responses, scores, scores along training; names of the report's files; summary but for "
    "times, memory and where it lies",
    "others": "bytes of weights; log and costs but for times and memory",
}
VARIES = {"seconds", "looking_seconds", "peak_memory_mb"}  # from one making to the next


def run(tiny: Checkpoint, root: Path, every: float) -> None:
    """A whole tiny run."""
    changes = {"model": str(tiny.path), "rows": 60, "evaluation": {"prompts": 4, "along": 1}}
    spec = load_spec(str(Path(__file__).parent / "tiny.yaml"), changes)
    harness.run(harness.Request(spec, ("dpo", "ppo"), 1, root, gate="ignore", checkpoint_every=every))


def run_tuning(tiny: Checkpoint, root: Path, every: float) -> None:
    """A whole tiny tuning."""
    changes = {"model": str(tiny.path), "rows": 100, "splits": {"selection": 0.2, "tuning": 0.2}}
    changes |= {"evaluation": {"prompts": 4}, "select": {"beside": ["gold"]}}
    spec = load_spec(str(Path(__file__).parent / "tiny.yaml"), changes)
    request = harness.Request(spec, ("dpo",), 1, root, gate="ignore", checkpoint_every=every)
    tune.tune(tune.Tuning(request, trials=2))


def scorer(tiny: Checkpoint) -> RewardModel:
    """A reward model with a fixed random head, whose scores have the rounding of whole passes, as real ones."""
    torch.manual_seed(5)
    network = open_network(tiny.path, "score", TUNING, trainable=False, head_std=0.5)
    torch.manual_seed(0)
    return RewardModel(network, tiny.tokenizer())


def train(name: str, tiny: Checkpoint, root: Path, every: float) -> None:
    """Train one stage in this process, 10 steps or 5 rounds, a checkpoint every so many seconds."""
    if name == "run":
        run(tiny, root, every)
        return
    if name == "tune":
        run_tuning(tiny, root, every)
        return
    shop = Workshop(Store(root), TUNING, {}, checkpoint_every=every)
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
    reports = sorted(p.name for p in (path.parent / "report").iterdir())
    return files, reports, summary


def without_times(value: Any) -> Any:
    """A study's record without times, memory, places, and its check, which is over them too."""
    gone = ("created", "seconds", "looking_seconds", "peak_memory_mb", "trials_run", "run", "sha256")
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in gone}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def in_child(work, kill_at: int | None = None) -> int | None:
    """Do the work in a fork, which kills itself at a call of any function; returns the calls, None if it was killed."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as stream:
            said = stream.read()
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed; see its output"
        return int(said) if said else None
    code, calls = 1, 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        torch.set_num_threads(1)
        sys.setprofile(count)
        work()
        sys.setprofile(None)
        os.write(writing, str(calls).encode())
        code = 0
    except BaseException:
        sys.setprofile(None)
        traceback.print_exc()
    finally:
        os._exit(code)


def kill_and_resume(name: str, tiny: Checkpoint, folder: Path, kills: int) -> dict:
    """Kill trainings of one stage so many times, each going on where the last one was killed."""
    rng = random.Random(name)
    calls = in_child(lambda: train(name, tiny, folder / "whole", every=1e9))
    killed, same, ended = 0, True, 0
    while killed < kills:
        again = folder / f"ended {ended}"
        while in_child(lambda root=again: train(name, tiny, root, every=0.0), rng.randrange(calls)) is None:
            killed += 1
        same, ended = same and result(again) == result(folder / "whole"), ended + 1
    return {"stage": name, "killed": killed, "ended": ended, "same": same, "files": len(result(again)[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("model", Path), ("folder", Path), ("kills", int)):
        parser.add_argument(name, type=kind)
    parser.add_argument("stages", nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    get_checkpoint_conversion_mapping("llama")  # fills transformers' cache
    rows = []
    for name in given.stages:
        rows.append(kill_and_resume(name, Checkpoint(given.model, key="tiny"), given.folder / name, given.kills))
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        versions = {name: version(name) for name in ("torch", "transformers", "alignment-bench")}
        about = {"machine": platform.platform(), "packages": versions, "date": datetime.now(UTC).date().isoformat()}
        write_json(given.out, {"compared": COMPARED, **about, "stages": rows})


if __name__ == "__main__":
    main()
