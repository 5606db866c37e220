"""What a run cannot be, told before anything trains."""

import contextlib
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..models.checkpoint import Checkpoint
from ..models.limits import check_vocabulary, context_window
from ..models.model_files import check_whole, remote_code_allowed
from ..models.sampler_vllm import check_temperatures
from ..models.trial import try_model
from ..models.tuning import Tuning
from ..results.integrity import write_json
from ..results.store import NotMade
from ..runtime import processes
from .context import MODEL_CODE, Workshop
from .definition.spec import BenchmarkSpec
from .request import Request

TRIAL = "trial.json"


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


def check_sampler(spec: BenchmarkSpec, tuning: Tuning, methods: Mapping[str, Any]) -> None:
    """vLLM samples at some temperatures only."""
    if tuning.sampler == "vllm":
        field = f"{spec.place('evaluation', 'temperature')}, evaluation.temperature"
        own = {label: m.temperature for label, m in methods.items() if hasattr(m, "temperature")}
        check_temperatures({field: spec.evaluation.temperature, **own})


def check_model(spec: BenchmarkSpec, base: Checkpoint) -> Any:
    """The model must be a whole one in full precision, and read what the benchmark may give it; its tokenizer."""
    from transformers import AutoConfig

    where = f"--model {spec.model}"
    check_whole(base.path, where)
    config = AutoConfig.from_pretrained(str(base.path), trust_remote_code=remote_code_allowed())
    window, longest = context_window(config), spec.max_prompt_tokens + spec.max_response_tokens
    if window and longest > window:
        raise InputError(
            f"benchmark {spec.name}: max_prompt_tokens + max_response_tokens is {longest}, but "
            f"{spec.model} reads at most {window} tokens{_why(config, window)}; lower them"
        )
    tokenizer = base.tokenizer()
    check_vocabulary(tokenizer, config, where)
    return tokenizer


def check_sampling(spec: BenchmarkSpec, base: Checkpoint, shop: Workshop) -> None:
    """The model must sample by the log-probs that it is trained by: tried once, as a stage.

    A store that only looks leaves it out. The first of several processes tries it, and tells the others of an error.
    """
    if processes.rank():
        return
    where, inputs = f"--model {spec.model}", shop.inputs(MODEL_CODE, base=base.key)
    with contextlib.suppress(NotMade):
        shop.store.stage("trial", inputs, lambda out: write_json(out / TRIAL, try_model(base, shop.tuning, where)))


def _why(config: Any, window: int) -> str:
    """The reason of a window that is shorter than the one that the model names."""
    named = getattr(config.get_text_config(), "max_position_embeddings", None)
    return " (beyond, it scales positions by the sequence's length, which is not supported)" if named != window else ""


def is_ours(method: Any) -> bool:
    """True for a method of this package."""
    return type(method).__module__.startswith(f"{__package__.partition('.')[0]}.")
