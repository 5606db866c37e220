"""Adam's moments divided among the processes of a run, and in stage 2 gradients too: DeepSpeed's ZeRO.

Rajbhandari et al. (2020, arXiv:1910.02054), section 5. accelerate's configuration asks for it (`zero_stage: 1` or `2`).
Every process holds all weights, and all work without gradients goes on as if nothing were divided. An update is ours:
DeepSpeed lays the weights out in one piece, adds each gradient up where its shard lies, and hands the new weights
round; norm, clipping and AdamW on the shards are the loop's. As ever with ZeRO, a weight without gradient counts as
one whose gradient is 0 as long as another of its group has one.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import processes

BUCKET = 500_000_000  # numbers that are sent at once, as DeepSpeed's own default has it
ALWAYS = ("contiguous_gradients", "reduce_scatter", "allgather_partitions")  # on by default, and so they stay
SIZES = ("reduce_bucket_size", "allgather_bucket_size")
OURS = {
    "gradient_clipping": "leave it out, for the benchmark's max_grad_norm holds",
    "gradient_accumulation_steps": "set 1, for the benchmark's batch sizes hold",
    "train_batch_size": "set auto, for the benchmark's batch sizes hold",
    "train_micro_batch_size_per_gpu": "set auto, for the benchmark's micro_tokens hold",
    "optimizer": "leave it out, for the benchmark's methods say how they learn",
    "scheduler": "leave it out, for the benchmark's methods say how they learn",
    "mixed_precision": "set no, for the benchmark's precision holds",
    "bf16": "leave it out, for the benchmark's precision holds",
    "fp16": "leave it out, for the benchmark's precision holds",
}
"""Settings of DeepSpeed that a benchmark makes, and what to do where its configuration names one of them."""


@dataclass(frozen=True)
class Settings:
    """The settings of ZeRO in accelerate's configuration."""

    stage: int
    reduce_bucket_size: int = BUCKET
    allgather_bucket_size: int = BUCKET


def check() -> Settings:
    """The configuration; InputError where it is not supported or DeepSpeed is not installed."""
    found = _settings()
    if find_spec("deepspeed") is None:
        raise InputError(
            "accelerate is configured for DeepSpeed, which is not installed; pip install 'alignment-bench[deepspeed]'"
        )
    return found


def load(cpu: bool) -> None:
    """Import DeepSpeed, which writes to stdout as it is imported; before the processes join.

    On a CPU it would compile an extension, which takes minutes and serves inference alone.
    """
    if cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    with contextlib.redirect_stdout(sys.stderr):
        from deepspeed.ops import __compatible_ops__ as compiled
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    compiled["deepspeed_shm_comm"] = False
    if not hasattr(DeepSpeedZeroOptimizer, "finalize_gradient_accumulation_boundary"):
        raise InputError("this DeepSpeed is too old; pip install 'alignment-bench[deepspeed]'")


class Zero:
    """Parameters of an AdamW whose moments lie divided among the processes, each group of them in one piece."""

    def __init__(self, adam: torch.optim.AdamW):
        """adam: has not made a step; from now on its parameters are this process's shards, one for each group."""
        import deepspeed
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
        from deepspeed.utils.timer import NoopTimer

        settings = check()
        self.adam, self.stage = adam, settings.stage
        self.groups: list[list[nn.Parameter]] = [group["params"] for group in adam.param_groups]
        everything = [p for group in self.groups for p in group]
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())
        self._zero = DeepSpeedZeroOptimizer(
            adam,
            {p: str(i) for i, p in enumerate(everything)},
            NoopTimer(),
            {},
            reduce_bucket_size=min(settings.reduce_bucket_size, sum(p.numel() for p in everything)),
            allgather_bucket_size=settings.allgather_bucket_size,
            dp_process_group=deepspeed.comm.get_world_group(),
            communication_data_type=torch.float32,
            gradient_average=False,  # losses are shares of a sum already
            partition_grads=self.stage == 2,
        )
        for hook in self._zero._grad_acc_hooks:  # these send gradients in the order in which they come
            hook.remove()
        for shard, parts in zip(self.shards, self._zero.parallel_partitioned_bit16_groups, strict=True):
            shard.data = parts[processes.rank()].data  # of the weights themselves, where DeepSpeed has a copy
        # about the order in which a backward pass is done with them, and the same in every process
        self._order = [(p, i) for i, group in reversed([*enumerate(self.groups)]) for p in reversed(group)]
        self._group_of = dict(self._order)
        self._hooks = []
        if self.stage == 2:
            self._hooks = [p.register_post_accumulate_grad_hook(self._arrived) for p in everything]
        self.clear()

    @property
    def shards(self) -> list[nn.Parameter]:
        """This process's part of each group's weights, what AdamW updates."""
        return [group["params"][0] for group in self.adam.param_groups]

    def clear(self) -> None:
        """Forget all gradients."""
        self._zero.zero_grad()
        self._zero.averaged_gradients.clear()
        self._zero.all_grad_tensors.clear()
        self._zero.set_gradient_accumulation_boundary(self.stage == 1)
        self._given = [False] * len(self.groups)
        self._ready: set[nn.Parameter] = set()
        self._sent = 0

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient up: in stage 1 here, in stage 2 over all processes, which make this pass together."""
        if self.stage == 2:
            processes.all_gather(True)  # the others make this pass as well
        loss.backward()
        if self.stage == 2:
            self._end_pass()

    def join_passes(self) -> None:
        """In stage 2, take part in the passes that other processes still make, with a gradient of 0."""
        while self.stage == 2 and any(processes.all_gather(False)):
            self._end_pass()

    def reduce_scatter(self) -> None:
        """After the last pass: give each shard its gradient, summed over all passes and processes.

        A group without any gradient, in all processes, has none afterwards.
        """
        if self.stage == 1:
            self._given = [any(p.grad is not None for p in group) for group in self.groups]
        self._given = [any(given) for given in zip(*processes.all_gather(self._given), strict=True)]
        if self.stage == 1:
            for group, given in zip(self.groups, self._given, strict=True):
                for parameter in group if given else ():
                    self._or_nothing(parameter)
            self._zero.setup_buckets()
            self._zero.reduce_gradients()
        else:
            self._zero.finalize_gradient_accumulation_boundary()
        for i, (shard, given) in enumerate(zip(self.shards, self._given, strict=True)):
            shard.grad = self._zero.flatten(self._zero.averaged_gradients[i]) if given else None
        self._zero.averaged_gradients.clear()

    def norm(self, own: Tensor) -> Tensor:
        """Norm of the whole gradient, from that of the shards in this process."""
        return torch.linalg.vector_norm(own.new_tensor(processes.all_gather(float(own))))

    def all_gather(self) -> None:
        """After an update: every process gets all weights."""
        self._zero.update_lp_params()

    def finish(self) -> None:
        """Let go of the parameters, which no longer lie in one piece afterwards."""
        for hook in self._hooks:
            hook.remove()
        self._zero.destroy()
        for parameter, _ in self._order:
            parameter.data = parameter.data.clone()

    def state_dict(self) -> dict[str, Any]:
        """Adam's state by parameter, in the first process; all call this, and the others get its shapes alone."""
        whole: dict[str, Any] = {}
        for first, group, shard in self._numbered():
            for name, value in self.adam.state.get(shard, {}).items():
                parts = self._whole(value, group) if value.dim() else [value.clone() for _ in group]
                whole |= {f"{first + i} {name}": part for i, part in enumerate(parts)}
        return whole

    def load_state_dict(self, state: dict[int, dict[str, Tensor]]) -> None:
        """state: Adam's of each parameter, whole, by number."""
        for first, group, shard in self._numbered():
            self.adam.state[shard] = {}
            for name, value in state.get(first, {}).items():
                if value.dim():
                    flat = torch.cat([state[first + i][name].flatten() for i in range(len(group))])
                    start = processes.rank() * shard.numel()
                    value = torch.zeros_like(shard.data)
                    own = flat[start : start + shard.numel()]  # the last shard is filled up with zeros
                    value[: len(own)] = own
                self.adam.state[shard][name] = value.to(shard.device)

    def _arrived(self, parameter: nn.Parameter) -> None:
        """Send a gradient once all before it in the order are sent, so that all processes send the same ones."""
        self._ready.add(parameter)
        self._given[self._group_of[parameter]] = True
        while self._sent < len(self._order) and self._order[self._sent][0] in self._ready:
            self._send()

    def _end_pass(self) -> None:
        while self._sent < len(self._order):
            self._or_nothing(self._order[self._sent][0])
            self._send()
        self._zero.overlapping_partition_gradients_reduce_epilogue()
        self._ready.clear()
        self._sent = 0

    def _send(self) -> None:
        self._zero.process_gradients(*self._order[self._sent])
        self._sent += 1

    def _or_nothing(self, parameter: nn.Parameter) -> None:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)

    def _numbered(self) -> Iterator[tuple[int, list[nn.Parameter], nn.Parameter]]:
        """Number of each group's first parameter, the group, and this process's shard of it."""
        first = 0
        for group, shard in zip(self.groups, self.shards, strict=True):
            yield first, group, shard
            first += len(group)

    def _whole(self, shard: Tensor, group: list[nn.Parameter]) -> list[Tensor]:
        """In the first process, shards brought together on the CPU and cut as the parameters are; elsewhere shapes.

        They come a bucket at a time, for the device may have no room for all.
        """
        flat = torch.empty(0, device="meta")
        if not processes.rank():
            flat = torch.empty((processes.size(), shard.numel()), dtype=shard.dtype)
        for start in range(0, shard.numel(), BUCKET):
            own = shard[start : start + BUCKET].contiguous()
            parts = [torch.empty_like(own) for _ in range(processes.size())] if not processes.rank() else None
            torch.distributed.gather(own, parts)
            for row, part in zip(flat, parts or (), strict=False):
                row[start : start + len(own)] = part
        if processes.rank():
            return [torch.empty_like(p, dtype=shard.dtype, device="meta") for p in group]
        sizes = [p.numel() for p in group]
        cut = flat.flatten()[: sum(sizes)].split(sizes)
        return [part.view_as(p) for part, p in zip(cut, group, strict=True)]


def _settings() -> Settings:
    """The settings in the environment, or in the file that it names; InputError for what is not supported."""
    said: dict[str, Any] = {
        "zero_stage": os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"),
        "offload_optimizer_device": os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"),
        "offload_param_device": os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"),
        "gradient_clipping": os.environ.get("ACCELERATE_GRADIENT_CLIPPING"),
        "gradient_accumulation_steps": os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS"),
        "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION"),
    }
    stage: Any = said.pop("zero_stage")
    sizes: dict[str, int] = {}
    if path := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        try:
            of_file = json.loads(Path(path).read_text(encoding="utf-8"))
            zero = of_file.pop("zero_optimization")
            stage = zero.pop("stage")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(
                f"{path}, which accelerate's deepspeed_config_file names, is not JSON with a zero_optimization and its "
                f"stage ({type(error).__name__}: {error})"
            ) from None
        of_file.pop("steps_per_print", None)
        sizes = {name: int(zero.pop(name)) for name in SIZES if name in zero and not _is_off(zero[name])}
        off = [name for name in ALWAYS if zero.pop(name, True) not in (True, "auto")]
        if off:
            raise InputError(f"{path}: zero_optimization.{off[0]} is always on here; leave it out")
        said |= of_file | {f"zero_optimization.{name}": value for name, value in zero.items()}
    if str(stage) not in ("1", "2"):
        more = (
            "use FSDP, which divides the weights too (distributed_type: FSDP, fsdp_version: 2)"
            if str(stage) == "3"
            else "launch with --multi_gpu, where nothing is divided"
        )
        raise InputError(f"ZeRO's stage {stage} is not supported here; set zero_stage to 1 or 2, or {more}")
    for name, value in said.items():
        if not _is_off(value) and not (name == "gradient_accumulation_steps" and str(value) == "1"):
            value = json.dumps(value) if isinstance(value, dict | list) else value
            raise InputError(
                f"DeepSpeed's {name} {value} is not supported here; {OURS.get(name, 'leave it out or turn it off')}"
            )
    return Settings(int(stage), **sizes)


def _is_off(value: Any) -> bool:
    """True if a setting asks for nothing."""
    if isinstance(value, dict):
        return _is_off(value["enabled"] if "enabled" in value else value.get("device", bool(value)))
    return value in (None, False, "auto", "none", "no")
