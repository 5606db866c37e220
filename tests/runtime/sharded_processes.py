"""One of two processes that divide weights between them: sharded_processes.py MODEL FOLDER, under FSDP's variables.

Prints a line of JSON, what each holds and what each training came to; then fails in the middle of a step.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where tasks.py is

import torch
from failing_processes import at_call, fail, stop_at_call, train
from tasks import PAIRS, PROMPTS, TUNING

from alignment_bench.benchmarks.stages.open_policy import Limits, PolicyInMemory
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.layout import Batch
from alignment_bench.models.network import Network
from alignment_bench.models.policy import Policy
from alignment_bench.models.reward_model import RewardModel
from alignment_bench.models.sampling import sample
from alignment_bench.models.shared_work import by_all
from alignment_bench.runtime import launch, processes
from alignment_bench.runtime.sharding import is_divided
from alignment_bench.training.loop import Optimizer
from alignment_bench.training.task import sides_of

ROWS = [side for pair in PAIRS for side in sides_of(pair)]


def batches(network: Network, parts: list) -> Iterator[Batch]:
    return (Batch(part, 0, network.lay_out(part)) for part in parts)


def shards(tiny: Checkpoint) -> dict[str, float]:
    """Numbers that this process holds after a step in which the first has three passes and the second has one."""
    alone = Policy.open(tiny, TUNING, trainable=True)
    loss_alone = -float(alone.total_logps(ROWS).sum())
    policy = Policy.open(tiny, TUNING, trainable=True)
    optimizer = Optimizer(policy.network, lr=1e-3, total_steps=1)
    parts = [[ROWS[:2], ROWS[2:5], ROWS[5:9]], [ROWS[9:]]][processes.rank()]
    policy.total_logps(ROWS)  # brings the plain weights together
    outcome = optimizer.step(
        lambda: batches(policy.network, parts), lambda batch: (-policy.logps(batch.layout).sum().sum(), dict)
    )
    plain = policy.network._sharded.plain
    held = {
        "loss": outcome.loss,
        "loss_alone": loss_alone,
        "weights": sum(p.to_local().numel() for p in optimizer.parameters),
        "gradients": sum(p.grad.to_local().numel() for p in optimizer.parameters),
        "moments": sum(
            value.to_local().numel()
            for state in optimizer.adam.state.values()
            for name, value in state.items()
            if name != "step"
        ),
        "let_go": sum(p.numel() for p in plain.parameters()),
    }
    optimizer.finish()
    return held | {"together": sum(p.numel() for p in policy.network.model.parameters())}


def steps_in_bf16(tiny: Checkpoint) -> dict[str, object]:
    """Two steps of two passes, alone and divided: losses, how far weights are apart, how often they came together.

    With each of accelerate's settings of fsdp_reshard_after_forward; and what a pass without gradients has in memory.
    """
    found: dict[str, object] = {}
    tuning = replace(TUNING, precision="bf16")
    alone, losses = Policy.open(tiny, tuning, trainable=True), []
    adam = torch.optim.AdamW(alone.network.parameters, lr=1e-3, weight_decay=0.0)
    for _ in range(2):
        adam.zero_grad()
        parts = [ROWS[:3], ROWS[3:6], ROWS[6:9], ROWS[9:]]
        values = [-alone.logps(part).sum().sum() for part in parts]
        for value in values:
            value.backward()
        torch.nn.utils.clip_grad_norm_(alone.network.parameters, 1.0)
        losses.append(sum(float(value.detach()) for value in values))
        adam.step()
    found["alone"] = losses
    gather = torch.distributed.all_gather_single
    for reshards in ("true", "false"):
        os.environ["FSDP_RESHARD_AFTER_FORWARD"] = reshards
        policy, gathered = Policy.open(tiny, tuning, trainable=True), []
        optimizer = Optimizer(policy.network, lr=1e-3, total_steps=2, warmup=0.0)
        parts = [[ROWS[:3], ROWS[3:6]], [ROWS[6:9], ROWS[9:]]][processes.rank()]

        def counted(output, part, *, gathered=gathered, **how):
            gathered.append(str(part.dtype))
            return gather(output, part, **how)

        torch.distributed.all_gather_single = counted
        outcomes = [
            optimizer.step(
                lambda policy=policy, parts=parts: batches(policy.network, parts),
                lambda batch, policy=policy: (-policy.logps(batch.layout).sum().sum(), dict),
            )
            for _ in range(2)
        ]
        torch.distributed.all_gather_single = gather
        plain = policy.network._sharded.whole()
        held = {str(p.dtype) for p in plain.parameters()}
        optimizer.finish()
        found[reshards] = {
            "losses": [outcome.loss for outcome in outcomes],
            "gathered": {kind: gathered.count(kind) for kind in set(gathered)},
            "held": sorted(held),
            "at_the_end": sorted({str(p.dtype) for p in policy.network.parameters}),
            "apart": sum(
                float((a - b).detach().square().sum())
                for a, b in zip(alone.network.parameters, policy.network.parameters, strict=True)
            ),
        }
    del os.environ["FSDP_RESHARD_AFTER_FORWARD"]
    return found


def scores(tiny: Checkpoint) -> dict[str, list[float]]:
    """A reward model's scores of rows before a step, after it, and when its weights are whole again.

    And the numbers that another model, which said something before the step, still has together after it.
    """
    torch.manual_seed(0)
    other = Policy.open(tiny, TUNING, trainable=True)
    others = Optimizer(other.network, lr=1e-3, total_steps=1)
    network = open_network(tiny.path, "score", TUNING, trainable=True, head_std=0.3)
    model, optimizer = RewardModel(network, tiny.tokenizer()), Optimizer(network, lr=1e-2, total_steps=2)
    found = {"before": model.score_all(ROWS)}
    other.total_logps(ROWS[:2])
    part = processes.shard(ROWS)
    optimizer.step(lambda: batches(network, [part]), lambda batch: (model.scores(batch.layout).sum(), dict))
    found["others"] = [p.numel() for p in other.network._sharded.plain.parameters() if p.numel()]
    found["after"] = model.score_all(ROWS)
    optimizer.finish()
    others.finish()
    return found | {"at_the_end": model.score_all(ROWS)}


def frozen(tiny: Checkpoint, precision: str) -> dict[str, dict]:
    """What comes of LoRA on a base that is divided, by accelerate's setting, and on one that is whole.

    Losses of two steps in which the processes have three passes and one, each behind one without gradients; then what
    models say of texts that are dealt out unevenly, and responses.
    """
    found = {}
    for reshards in ("true", "false"):
        os.environ["FSDP_RESHARD_AFTER_FORWARD"] = reshards
        tuning = replace(TUNING, precision=precision, lora_rank=4, lora_alpha=8.0)
        torch.manual_seed(0)
        policy, reference = (Policy.open(tiny, tuning, trainable=trains) for trains in (True, False))
        optimizer = Optimizer(policy.network, lr=1e-2, total_steps=3, warmup=0.0)
        parts = [[ROWS[:2], ROWS[2:5], ROWS[5:9]], [ROWS[9:]]][processes.rank()]

        def loss(batch, policy=policy):
            with torch.no_grad():
                policy.logps(batch.layout)
            return -policy.logps(batch.layout).sum().sum(), dict

        outcomes = [
            optimizer.step(lambda policy=policy, parts=parts: batches(policy.network, parts), loss) for _ in range(2)
        ]
        scorer = RewardModel.open(tiny.path, replace(TUNING, precision=precision))  # a whole model of its own
        torch.nn.init.normal_(scorer.network.score.weight, std=0.3, generator=torch.Generator().manual_seed(0))
        weights = [p for p in policy.network.model.parameters() if not p.requires_grad]
        shards = [p.to_local() for p in weights if is_divided(p)]
        found[reshards] = {
            "losses": [(outcome.loss, outcome.grad_norm) for outcome in outcomes],
            "said": policy.entropy_kl_logps(ROWS[:7], reference, together=True),
            "scores": by_all(ROWS[:3], [[0, 1, 2], []], scorer.score_all),
            "responses": [s.ids for s in sample(policy, [*PROMPTS] * 2, max_new_tokens=5, seed=0, together=True)],
            "shards": sum(p.numel() for p in shards),
            "types": sorted({str(p.dtype) for p in shards}),
            "whole": sum(p.numel() for p in weights if not is_divided(p)),
            "weights": [float(p.double().norm()) for p in policy.network.parameters],
        }
        if processes.rank() == 0:  # an evaluator of another package calls the model by itself
            model, _ = PolicyInMemory(reference, Limits(9, 9, 1.0)).network()
            with torch.no_grad():
                found[reshards]["logits"] = model(torch.tensor([[5, 6, 7]])).logits[0, -1, :9].tolist()
        policy.network.close()
    del os.environ["FSDP_RESHARD_AFTER_FORWARD"]
    return found


def main(model: str, folder: str) -> None:
    out = sys.stdout
    launch.start("cpu")
    torch.manual_seed(0)
    tiny, root = Checkpoint(Path(model), key="tiny"), Path(folder)
    found = shards(tiny) | {"scores": scores(tiny), "bf16": steps_in_bf16(tiny)}
    found["frozen"] = {precision: frozen(tiny, precision) for precision in ("fp32", "bf16")}
    found["whole"] = train(root / "a", tiny)
    with stop_at_call(4):
        found["stopped"] = train(root / "b", tiny)
    found["continued"] = train(root / "b", tiny)
    print(json.dumps(found), file=out, flush=True)
    at_call(3, fail)
    train(root / "c", tiny)


if __name__ == "__main__":
    main(*sys.argv[1:])
