"""What a run cannot be, told before anything trains."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..models.checkpoint import Checkpoint
from ..models.model_files import remote_code_allowed
from ..models.sampler_vllm import check_temperatures
from ..models.tuning import Tuning
from ..runtime import processes
from .definition.spec import BenchmarkSpec
from .request import Request


def check_processes(request: Request, methods: Mapping[str, Any]) -> None:
    """With several processes only our own training loops know how to divide their rows."""
    if processes.size() == 1:
        return
    if request.engine != "local" or request.cell_timeout:
        raise InputError(
            "several processes train each cell here; omit --engine and --cell-timeout, or launch one process"
        )
    for label, method in methods.items():
        if not is_ours(method) or "trl" in getattr(method, "libraries", ()):
            raise InputError(
                f"{label} has a training loop of its own, which several processes cannot share; launch one process"
            )
        divided = processes.is_sharding() and not request.spec.tuning.lora_rank
        if divided and getattr(method, "critic_start", None) == "policy":
            raise InputError(
                f"{label} with critic_start: policy cannot train where weights are divided among processes (FSDP); "
                f"set critic_start to sft, train LoRA adapters, or launch with --multi_gpu"
            )


def check_start(spec: BenchmarkSpec, methods: Mapping[str, Any]) -> None:
    """What SFT imitates, and from where a critic starts, must be there."""
    field = spec.place("demonstrations")
    if spec.demonstrations and spec.sft is None:
        raise InputError(
            f"{field}: demonstrations are for SFT, and none is trained (sft: null); leave one of the two out"
        )
    if spec.demonstrations and spec.sft and spec.sft.replies == "both":
        raise InputError(f"{field}: demonstrations have one reply each, and sft.replies says both; set it to chosen")
    if spec.sft and not spec.demonstrations and not spec.splits.sft:
        raise InputError(
            f"{spec.place('splits', 'sft')}: SFT has no pairs to imitate (splits.sft: 0); give it a share, "
            f"`demonstrations: FILE`, or train none with --no-sft"
        )
    for label, method in methods.items():
        if spec.training_reward and getattr(method, "needs_reward_model", False):
            raise InputError(
                f"{label} with critic_start: reward_model starts from a reward model that is trained here, and "
                f"training_reward takes its place; set critic_start to sft"
            )


def check_sampler(spec: BenchmarkSpec, tuning: Tuning, methods: Mapping[str, Any]) -> None:
    """vLLM samples at some temperatures only."""
    if tuning.sampler == "vllm":
        field = f"{spec.place('evaluation', 'temperature')}, evaluation.temperature"
        own = {label: m.temperature for label, m in methods.items() if hasattr(m, "temperature")}
        check_temperatures({field: spec.evaluation.temperature, **own})


def check_context(spec: BenchmarkSpec, base: Checkpoint) -> None:
    """A prompt and its response must fit into what the model reads."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(base.path), trust_remote_code=remote_code_allowed()).get_text_config()
    window = getattr(config, "max_position_embeddings", None)
    longest = spec.max_prompt_tokens + spec.max_response_tokens
    if window and longest > window:
        raise InputError(
            f"benchmark {spec.name}: max_prompt_tokens + max_response_tokens is {longest}, but "
            f"{spec.model} reads at most {window} tokens; lower them"
        )


def is_ours(method: Any) -> bool:
    """True for a method of this package."""
    return type(method).__module__.startswith(f"{__package__.partition('.')[0]}.")
