"""One of two processes that divide Adam's moments: zero_processes.py MODEL FOLDER kill|continue, under accelerate's
variable for DeepSpeed.

Prints a line of JSON: for each stage what updates came to beside plain AdamW and what each process holds; how a
training in stage 1 ended in which the second one fails; what one in stage 2 made. Then both are killed in such a
training, which `continue` goes on with, and then the second one fails.
"""

import copy
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where tasks.py is

import torch
from failing_processes import LOSS, at_call, fail, train
from tasks import PAIRS, TUNING
from torch import Tensor, nn

from alignment_bench.errors import TrainingError
from alignment_bench.methods import dpo
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.layout import Batch, Layout
from alignment_bench.models.policy import Policy
from alignment_bench.runtime import launch, processes
from alignment_bench.training.loop import Optimizer, Watched, rise_and_fall
from alignment_bench.training.task import sides_of

ROWS = [side for pair in PAIRS for side in sides_of(pair)]
PARTS = [[ROWS[:2], ROWS[2:5], ROWS[5:9]], [ROWS[9:]]]  # the first process has three passes, the second has one
LR, HEAD_LR, STEPS = 1e-3, 1e-2, 4
STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
OTHERS = {"weight_decay": 0.1, "eps": 1e-6, "betas": (0.9, 0.999)}


def loss(policy: Policy, head: nn.Module, layout: Layout, *, head_alone: bool) -> Tensor:
    """A sum over rows for policy and head, or for the head alone, as in PPO's first rounds."""
    with torch.set_grad_enabled(not head_alone):
        states = policy.network.hidden(layout, layout.before)
    error = head(states.float()).square().sum() / 100
    return error if head_alone else error - policy.logps_of(states, layout, 1.0).values.sum() / 10


def opened(tiny: Checkpoint, lora_rank: int) -> Policy:
    torch.manual_seed(1)
    return Policy.open(tiny, replace(TUNING, lora_rank=lora_rank), trainable=True)


def plain(tiny: Checkpoint, lora_rank: int, head: nn.Module) -> tuple[list[float], list[float], list[Tensor]]:
    """Losses, gradient norms and weights after the steps in one process, without ours."""
    policy = opened(tiny, lora_rank)
    own = policy.network.parameters
    adam = torch.optim.AdamW([{"params": own}, {"params": head.parameters(), "lr": HEAD_LR}], lr=LR, **OTHERS)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, rise_and_fall(STEPS, 0.0))
    losses, norms = [], []
    for step in range(STEPS):
        adam.zero_grad()
        value = loss(policy, head, policy.network.lay_out(ROWS), head_alone=step < 1)
        value.backward()
        norms.append(float(nn.utils.clip_grad_norm_([*own, *head.parameters()], 1.0)))
        losses.append(float(value))
        adam.step()
        schedule.step()
    return losses, norms, [p.detach().clone() for p in (*own, *head.parameters())]


def divided(tiny: Checkpoint, lora_rank: int, head: nn.Module) -> dict[str, object]:
    """The same steps by both processes, the last ones after all was saved and loaded into another optimizer."""

    def beginning(head: nn.Module) -> tuple[Policy, Optimizer]:
        policy = opened(tiny, lora_rank)
        given = {"lr": LR, "total_steps": STEPS, "warmup": 0.0, "weight_decay": 0.1, "epsilon": 1e-6}
        return policy, Optimizer(policy.network, head=head, head_lr=HEAD_LR, **given)

    policy, optimizer = beginning(head)
    kept = []

    def batches() -> Iterator[Batch]:
        for rows in PARTS[processes.rank()]:
            yield Batch(rows, 0, policy.network.lay_out(rows))
            held = [p.grad for p in optimizer.parameters if p.grad is not None]
            kept.append(sum(g.numel() for g in [*held, *sum(optimizer.zero._zero.all_grad_tensors.values(), [])]))

    def loss_of(step: int, factor: float = 1.0) -> Callable[[Batch], Watched]:
        return lambda batch: (factor * loss(policy, head, batch.layout, head_alone=step < 1), dict)

    outcomes = []
    for step in range(STEPS):
        if step == 2:
            state = processes.broadcast(optimizer.state_dict())  # the first process has all of it
            weights = [p.detach().clone() for p in optimizer.parameters]
            head = copy.deepcopy(head)
            policy, optimizer = beginning(head)
            with torch.no_grad():
                for parameter, weight in zip(optimizer.parameters, weights, strict=True):
                    parameter.copy_(weight)
            optimizer.load_state_dict(state)
        outcomes.append(optimizer.step(batches, loss_of(step)))
    before = [p.detach().clone() for p in optimizer.parameters]
    try:
        factor = float("nan") if processes.rank() else 1.0
        optimizer.step(batches, loss_of(3, factor))
        failed = ""
    except TrainingError as error:
        failed = str(error)
    moments = [v.numel() for state in optimizer.adam.state.values() for n, v in state.items() if n != "step"]
    found = {
        "untouched": all(torch.equal(a, b) for a, b in zip(before, optimizer.parameters, strict=True)),
        "failed": failed,
        "moments": sum(moments),
        "gradients": max(kept),
        "losses": [outcome.loss for outcome in outcomes],
        "norms": [outcome.grad_norm for outcome in outcomes],
    }
    optimizer.finish()
    storages = {p.untyped_storage().data_ptr() for p in optimizer.parameters}
    return found | {
        "apart": len(storages) == len(optimizer.parameters),
        "weights": [p.detach() for p in optimizer.parameters],
    }


def kill_at_call(number: int) -> None:
    """Kill this process in its losses at their call of this number."""
    calls = itertools.count(1)

    def counted(self, logps):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return LOSS(self, logps)

    dpo.DPO.loss = counted


def main(model: str, folder: str, act: str) -> None:
    out = sys.stdout
    launch.start("cpu")
    tiny, root, found = Checkpoint(Path(model), key="tiny"), Path(folder), {}
    if act == "kill":
        for stage, lora_rank in (("1", 4), ("2", 0)):
            os.environ[STAGE] = stage
            torch.manual_seed(0)
            head = nn.Linear(32, 1, bias=False)
            losses, norms, weights = plain(tiny, lora_rank, copy.deepcopy(head))
            each = divided(tiny, lora_rank, head) | {"plain_losses": losses, "plain_norms": norms}
            each["off"] = max(float((a - b).abs().max()) for a, b in zip(weights, each.pop("weights"), strict=True))
            found[stage] = each
        os.environ[STAGE] = "1"
        at_call(3, fail)
        found["ended"] = train(root / "c", tiny)
        dpo.DPO.loss = LOSS
    os.environ[STAGE] = "2"
    found["made"] = train(root / ("a" if act == "kill" else "b"), tiny)
    print(json.dumps(found), file=out, flush=True)
    if act == "kill":
        kill_at_call(4)
        train(root / "b", tiny, every=0.0)
    at_call(3, fail)
    train(root / "c", tiny)


if __name__ == "__main__":
    main(*sys.argv[1:])
