"""One of two processes in which trainings fail and are stopped: failing_processes.py MODEL FOLDER.

Prints a line of JSON: what each of its trainings came to, and what the second process did for the first one.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where tasks.py is

import torch
from tasks import METHODS, PAIRS, PROMPTS, TUNING

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.stages.trained import pair_dataset, train_cell
from alignment_bench.errors import Stopped
from alignment_bench.evaluators.judge_local import LocalAsker
from alignment_bench.methods import dpo
from alignment_bench.models import shared_work
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.elsewhere import open_copy
from alignment_bench.models.network import Network
from alignment_bench.models.policy import Policy
from alignment_bench.models.reward_model import RewardModel
from alignment_bench.models.sampling import sample
from alignment_bench.results.store import Store
from alignment_bench.runtime import launch, processes
from alignment_bench.runtime.device import CONSTANTS
from alignment_bench.runtime.quiet import quiet
from alignment_bench.training.resume import StepCheckpoints
from alignment_bench.training.task import PromptDataset, sides_of

quiet()  # stdout is for JSON alone
LOSS = dpo.DPO.loss
ROWS = [side for pair in PAIRS for side in sides_of(pair)]
JUDGE = Path(shared_work.__file__).parent / "builtin/judge_model"
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


def said(tiny: Checkpoint, scorer: Path) -> dict[str, list]:
    """What models say of rows, and a judge of questions; policy and reference are one."""
    policy, reference = open_copy(tiny, TUNING), Policy.open(tiny, TUNING, trainable=False)
    entropies, kls, logps = policy.entropy_kl_logps(ROWS, reference)
    return {
        "entropies": entropies,
        "kls": kls,
        "logps": logps,
        "totals": policy.total_logps(ROWS).tolist(),
        "scores": RewardModel.open(scorer, TUNING).score_all(ROWS),
        "responses": [s.ids for s in sample(policy, [*PROMPTS, *PROMPTS], max_new_tokens=5, seed=0)],
        "margins": LocalAsker(str(JUDGE)).margins([f"Is it {'so ' * i}? Answer A or B." for i in range(4)]),
    }


def helped(tiny: Checkpoint, folder: Path) -> dict[str, object]:
    """What models say where the second process helps the first, beside what each says alone; and the texts of each."""
    scorer, texts, fails = folder / "scorer", [0], []
    torch.manual_seed(0)
    open_network(tiny.path, "score", TUNING, trainable=True, head_std=0.3).save(scorer, tiny.tokenizer())
    processes.all_gather(None)
    batches = Network.batches

    def counted(self, rows, *more, **how):
        texts[0] += len(rows)
        if fails:
            raise fails.pop()
        return batches(self, rows, *more, **how)

    Network.batches = counted
    found = {"alone": said(tiny, scorer), "texts_alone": texts.pop()}
    texts.append(0)
    if processes.rank():
        processes.help_first({"fail": lambda: fails.append(KeyError("no such text"))})
        found["left"] = len(shared_work._opened)
        shared_work.let_go()
    else:
        with processes.waiting():
            found["helped"] = said(tiny, scorer)
            found["texts"] = texts[0]
            with processes.helped("fail"):
                pass
            policy = open_copy(tiny, TUNING)
            try:
                policy.total_logps(ROWS)
            except Exception as error:
                found["raised"], found["told"] = f"{type(error).__name__}: {error}", hasattr(error, "told")
            found["after"] = policy.total_logps(ROWS).tolist()
    found["texts_in_all"] = texts[0]
    Network.batches = batches
    return found


def summed() -> dict[str, object]:
    """Sums of tensors over both processes, small ones together: three of 12 bytes, one larger, one of another kind."""
    rank, calls = processes.rank(), []
    CONSTANTS["cpu"] = replace(CONSTANTS["cpu"], bucket=30)
    tensors = [torch.full((3,), float(i + rank)) for i in range(3)]
    tensors += [torch.full((4, 5), 1.0 + rank), torch.full((2,), 5 + rank)]
    once = torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda tensor: (calls.append(tensor.numel()), once(tensor))
    processes.all_reduce(tensors)
    torch.distributed.all_reduce = once
    return {"sums": [tensor.flatten().tolist() for tensor in tensors], "calls": calls}


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
    ended |= {"shared": helped(tiny, root), "summed": summed()}
    print(json.dumps({"rank": int(os.environ["RANK"]), **ended}), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
