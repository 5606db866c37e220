"""One of two processes in which trainings fail and are stopped: failing_processes.py MODEL FOLDER.

Prints a line of JSON: what each of its trainings came to.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where tasks.py is

from tasks import METHODS, PAIRS, PROMPTS, TUNING

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.stages.trained import pair_dataset, train_cell
from alignment_bench.errors import Stopped
from alignment_bench.methods import dpo
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.results.store import Store
from alignment_bench.runtime import launch, processes
from alignment_bench.runtime.quiet import quiet
from alignment_bench.training.resume import StepCheckpoints
from alignment_bench.training.task import PromptDataset

quiet()  # stdout is for JSON alone
LOSS = dpo.DPO.loss
calls = 0


def train(root: Path, tiny: Checkpoint, every: float = 1e9) -> str:
    """Ten steps of DPO, a checkpoint every so many seconds; returns how it ended."""
    shop = Workshop(Store(root), TUNING, {}, checkpoint_every=every)
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
    calls = 0

    def counted(self, logps):
        global calls
        calls += 1
        if processes.rank() == 1 and calls == number:
            act()
        return LOSS(self, logps)

    dpo.DPO.loss = counted


@contextlib.contextmanager
def stop_at_call(number: int) -> Iterator[None]:
    """Ask the second process to stop, in its losses at their call of this number."""
    steps = StepCheckpoints.steps

    def listening(self, first, label, unit="step"):
        at_call(number, lambda: setattr(self, "asked", signal.SIGTERM))
        return steps(self, first, label, unit)

    StepCheckpoints.steps = listening
    yield
    dpo.DPO.loss, StepCheckpoints.steps = LOSS, steps


def fail() -> None:
    raise KeyError("no such row")


def main(model: str, folder: str) -> None:
    out = sys.stdout
    launch.start("cpu")
    tiny, root, ended = Checkpoint(Path(model), key="tiny"), Path(folder), {}
    at_call(3, fail)
    ended["failed"] = train(root / "a", tiny)
    dpo.DPO.loss = LOSS
    ended["again"] = train(root / "a", tiny)
    ended["found"] = train(root / "a", tiny)

    with stop_at_call(4):
        ended["stopped"] = train(root / "b", tiny)
    ended["continued"] = train(root / "b", tiny)
    print(json.dumps({"rank": int(os.environ["RANK"]), **ended}), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
