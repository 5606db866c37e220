"""One of two processes in which trainings fail and are stopped: failing_processes.py MODEL FOLDER.

Prints a line of JSON: what each of its trainings came to.
"""

import json
import os
import sys
from pathlib import Path

from kill_and_resume import METHODS, PAIRS, PROMPTS, TUNING

from alignment_bench.benchmarks.stages import pair_dataset, train_cell
from alignment_bench.benchmarks.workshop import Workshop
from alignment_bench.methods import dpo
from alignment_bench.methods.base import PromptDataset
from alignment_bench.methods.resume import StepCheckpoints
from alignment_bench.results import processes
from alignment_bench.results.checkpoint import Checkpoint
from alignment_bench.results.records import Stopped
from alignment_bench.results.store import Store

calls = 0


def train(root: Path, tiny: Checkpoint) -> str:
    """Ten steps of DPO; returns how it ended."""
    shop = Workshop(Store(root), TUNING, {}, checkpoint_every=1e9)
    try:
        made = train_cell(
            shop,
            "dpo",
            METHODS["dpo"],
            base=tiny,
            sft=tiny,
            pairs=pair_dataset(shop, tiny, PAIRS),
            unpaired=(),
            prompts=PromptDataset(PROMPTS, 5),
            reward=lambda: None,
            reward_model=tiny,
            budget=40,
            seed=0,
        )
        return f"made in {made.path.name}, fresh: {made.fresh}"
    except (Exception, Stopped) as error:
        return f"{type(error).__name__}: {error}"


def at_call(number: int, act) -> None:
    """Do something in the losses of the second process, at their call of this number."""
    global calls
    calls, loss = 0, dpo.DPO.loss

    def counted(self, logps):
        global calls
        calls += 1
        if processes.rank() == 1 and calls == number:
            act()
        return loss(self, logps)

    dpo.DPO.loss = counted


def fail() -> None:
    raise KeyError("no such row")


def main(model: str, folder: str) -> None:
    out = sys.stdout
    processes.start("cpu")
    tiny, root, ended = Checkpoint(Path(model), key="tiny"), Path(folder), {}
    original, steps = dpo.DPO.loss, StepCheckpoints.steps
    at_call(3, fail)
    ended["failed"] = train(root / "a", tiny)
    dpo.DPO.loss = original
    ended["again"] = train(root / "a", tiny)
    ended["found"] = train(root / "a", tiny)

    def listening(self, first, label, unit="step"):
        at_call(4, lambda: setattr(self, "stop", True))
        return steps(self, first, label, unit)

    StepCheckpoints.steps = listening
    ended["stopped"] = train(root / "b", tiny)
    dpo.DPO.loss, StepCheckpoints.steps = original, steps
    ended["continued"] = train(root / "b", tiny)
    print(json.dumps({"rank": int(os.environ["RANK"]), **ended}), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
