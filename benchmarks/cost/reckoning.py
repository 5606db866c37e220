"""Memory, time and dollars of trainings on GPUs that are not at hand: reckoned from counts, measured nowhere."""

from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError, nearest
from ...methods.dpo import DPO
from ...methods.orpo import ORPO
from ...methods.ppo import PPO
from ...models.four_bits import RESTORED
from ...models.model_files import remote_code_allowed
from ...models.network import packed_tokens
from ...models.tuning import Tuning
from ...runtime.device import constants
from .step_cost import GIB, Step, StepCost, StepKind, step_cost

# what is counted of each training: the kind of its steps, and a method whose loss they have
KINDS: dict[str, tuple[StepKind, Any]] = {
    "SFT": ("sft", None),
    "reward model": ("reward_model", None),
    "DPO": ("pairs", DPO()),
    "ORPO": ("pairs", ORPO()),
    "PPO": ("online with critic", None),
}

UTILIZATION = 0.4  # of a GPU's bf16 rate; 0.38 to 0.43 in the training of Llama 3 (2024, arXiv:2407.21783, table 4)
LAUNCH = 5e-6  # seconds a kernel takes at least, however little it computes; assumed
ROWS = 64  # responses that are sampled at once


@dataclass(frozen=True)
class GPU:
    """A GPU as its vendor's data sheet has it."""

    memory: int
    """GiB"""
    flops: float
    """bf16 products a second, dense, with fp32 sums."""
    bandwidth: float
    """Bytes of memory a second."""


# NVIDIA's data sheets: A100 80GB SXM, H100 SXM, H200 SXM, L40S; for the RTX 4090 the Ada architecture's white paper.
GPUS = {
    "rtx4090": GPU(24, 165.2e12, 1.008e12),
    "l40s": GPU(48, 362e12, 0.864e12),
    "a100": GPU(80, 312e12, 2.039e12),
    "h100": GPU(80, 989e12, 3.35e12),
    "h200": GPU(141, 989e12, 4.8e12),
}


@dataclass(frozen=True)
class Amounts:
    """The rows of a training: so many examples, each a prompt and a reply or two of so many tokens."""

    examples: int
    prompt: int
    reply: int


@dataclass(frozen=True)
class Reckoned:
    """A method's training on some GPUs."""

    method: str
    memory: float
    """Bytes on each GPU at the peak of a step."""
    fits: bool
    checkpointing: bool
    """Layers are computed again in the backward pass."""
    hours: float
    """At least, of all GPUs together at once; not of one after another."""
    dollars: float | None
    """For all GPUs, where a price was given."""


def gpu_of(name: str) -> GPU:
    """InputError for one that is not in the table."""
    if name not in GPUS:
        raise InputError(f"the GPU {name!r} is not known; {nearest(name, GPUS)}")
    return GPUS[name]


def reckon(
    config: Any, tuning: Tuning, amounts: Amounts, gpu: GPU, gpus: int, price: float | None = None
) -> list[Reckoned]:
    """SFT, a reward model, DPO, ORPO and PPO; price: dollars an hour and GPU.

    On several GPUs weights are divided (FSDP2, see `StepCost.on_each`). What they send each other takes no time here.
    Passes are as large as a network makes them: larger ones than `packed_tokens` gain nothing.
    """
    weights = weights_of(config)
    tokens = min(tuning.micro_tokens, packed_tokens(weights, "cuda"))
    steps = {name: Step(kind, tokens, amounts.prompt, amounts.reply, method) for name, (kind, method) in KINDS.items()}
    sampling = _rollout(weights, RESTORED if tuning.base_bits else 2, amounts, gpu)
    return [
        _reckon(config, tuning, step, amounts, gpu, gpus, price, name, sampling if name == "PPO" else 0.0)
        for name, step in steps.items()
    ]


def _reckon(
    config: Any,
    tuning: Tuning,
    step: Step,
    amounts: Amounts,
    gpu: GPU,
    gpus: int,
    price: float | None,
    name: str,
    sampling: float,
) -> Reckoned:
    """sampling: seconds of one GPU that go into what is learnt from."""
    room = constants("cuda").training_share * gpu.memory * GIB
    found: list[tuple[bool, StepCost, float]] = []
    for again in (False, True):
        cost = step_cost(config, replace(tuning, gradient_checkpointing=again), step)
        found.append((again, cost, cost.on_each(gpus, step.kind)))
        if found[-1][2] <= room:
            break
    again, cost, memory = found[-1]
    passes = amounts.examples / step.rows * (PPO().epochs if name == "PPO" else 1)
    seconds = passes * max(cost.flop / (UTILIZATION * gpu.flops), cost.launches * LAUNCH) + sampling
    hours = seconds / gpus / 3600
    dollars = None if price is None else hours * gpus * price
    return Reckoned(name, memory, memory <= room, again, hours, dollars)


def _rollout(weights: int, moved: float, amounts: Amounts, gpu: GPU) -> float:
    """Seconds of one GPU to sample each response, and to read it by reference, reward model and critic.

    moved: bytes a weight for one token of all rows.
    """
    sampled = amounts.examples * amounts.reply / ROWS * moved * weights / gpu.bandwidth
    read = 3 * 2 * weights * amounts.examples * (amounts.prompt + amounts.reply) / (UTILIZATION * gpu.flops)
    return sampled + read


def without_numbers(config: Any) -> Any:
    """A model of this configuration on tensors without data."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code_allowed())


def weights_of(config: Any) -> int:
    """Weights of a model of this configuration."""
    return sum(p.numel() for p in without_numbers(config).parameters())
