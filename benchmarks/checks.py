"""What a run cannot be, told before anything trains."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.checkpoint import Checkpoint
from ..models.find import find_model
from ..models.gradient_checkpointing import check_layers
from ..models.limits import check_vocabulary, context_window
from ..models.lora import check_no_experts
from ..models.model_files import check_whole, remote_code_allowed
from ..models.sampler_vllm import check_temperatures
from ..models.trial import try_model
from ..models.tuning import Tuning
from ..results.integrity import write_json
from ..results.store import NotMade
from ..runtime import processes
from .context import MODEL_CODE, Workshop
from .definition.plugins import is_ours
from .definition.spec import BY_REWARD_MODEL, LAST, BenchmarkSpec
from .request import Request
from .stages.pipeline import SELECTION, more_reward_models

TRIAL = "trial.json"


def check_processes(request: Request, methods: Mapping[str, Any]) -> None:
    """With several processes only our own training loops know how to divide their rows."""
    if request.cell_gpus > 1 and request.engine != "ray":
        raise InputError("--cell-gpus goes with --engine ray; here launch several processes by accelerate launch")
    if processes.size() == 1 and request.cell_gpus == 1:
        return
    if processes.size() > 1 and (request.engine != "local" or request.cell_timeout):
        raise InputError(
            "several processes train each cell here; omit --engine and --cell-timeout, or launch one process"
        )
    if request.cell_gpus > 1 and ":" in request.device:
        raise InputError(f"--device {request.device} names one device, and --cell-gpus gives a cell several; omit it")
    for label, method in methods.items():
        if not is_ours(type(method).__module__) or "trl" in getattr(method, "libraries", ()):
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
    """What SFT imitates, and from where methods and critics start, must be there."""
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
        if spec.tuning.base_bits and "trl" in getattr(method, "libraries", ()):
            raise InputError(
                f"{spec.place('tuning', 'base_bits')}, tuning.base_bits: {label} would start from the whole weights, "
                f"for TRL's trainers load the model themselves; leave one of the two out"
            )
        if spec.training_reward and getattr(method, "needs_reward_model", False):
            raise InputError(
                f"{label} with critic_start: reward_model starts from a reward model that is trained here, and "
                f"training_reward takes its place; set critic_start to sft"
            )
        if spec.training_reward and more_reward_models(method):
            raise InputError(
                f"{label} asks several reward models that are trained here, and training_reward takes their place; "
                f"leave one of the two out"
            )


def check_sampler(spec: BenchmarkSpec, tuning: Tuning, methods: Mapping[str, Any]) -> None:
    """vLLM samples at some temperatures only."""
    if tuning.sampler == "vllm":
        field = f"{spec.place('evaluation', 'temperature')}, evaluation.temperature"
        own = {label: m.temperature for label, m in methods.items() if hasattr(m, "temperature")}
        check_temperatures({field: spec.evaluation.temperature, **own})


def check_model(spec: BenchmarkSpec, base: Checkpoint) -> Any:
    """The model must be a whole one in full precision, and read what the benchmark may give it; its tokenizer."""
    where = f"--model {spec.model}"
    check_whole(base.path, where)
    config, tokenizer = _check_config(spec, spec.model, base), base.tokenizer()
    check_vocabulary(tokenizer, config, where)
    return tokenizer


def _check_config(spec: BenchmarkSpec, name: str, model: Checkpoint) -> Any:
    """The configuration of a model: it must read a prompt with its response, and compute layers again if asked to."""
    config = model.config
    if spec.tuning.gradient_checkpointing is True:
        _check_layers(config, f"{spec.place('tuning', 'gradient_checkpointing')}, tuning.gradient_checkpointing")
    if spec.tuning.base_bits:
        check_no_experts(config, f"{spec.place('tuning', 'base_bits')}, tuning.base_bits, {name}")
    window, longest = context_window(config), spec.max_prompt_tokens + spec.max_response_tokens
    if window and longest > window:
        raise InputError(
            f"benchmark {spec.name}: max_prompt_tokens + max_response_tokens is {longest}, but "
            f"{name} reads at most {window} tokens{_why(config, window)}; lower them"
        )
    return config


def _check_layers(config: Any, field: str) -> None:
    """A model of this configuration must have layers that can be computed again: looked at without its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code_allowed())
        except ValueError:  # it is no causal language model, which is told with its folder when it is loaded
            return
    check_layers(model, field)


def reward_model_starts(spec: BenchmarkSpec, tokenizer: Any, roles: Iterable[str]) -> dict[str, Checkpoint]:
    """The models that reward models start from, by role, where that is not the SFT checkpoint.

    tokenizer: the benchmark's. InputError for a model of another vocabulary, and for one that reads too little.
    """
    found = {}
    for role in roles:
        settings = spec.reward_model
        if (name := settings.model_of(role)) is None:
            continue
        field = "training_model" if role == "training" and settings.training_model else "model"
        place = f"{spec.place('reward_model', field)}, reward_model.{field}"
        found[role] = find_model(name, place)
        if found[role].tokenizer().get_vocab() != tokenizer.get_vocab():
            raise InputError(
                f"{place}: {name} has another vocabulary than {spec.model}, whose token ids reward models learn from; "
                f"give a model of the same family, or evaluate with a reward model of your own by --reward-model"
            )
        _check_config(spec, name, found[role])
    return found


def check_checkpoints(spec: BenchmarkSpec) -> None:
    """A rule that picks among checkpoints needs such, and prompts (and a reward model) that no evaluation sees."""
    rule, place = spec.evaluation.checkpoint, spec.place("evaluation", "checkpoint")
    if rule.by == LAST:
        return
    if not spec.evaluation.along:
        raise InputError(
            f"{place}: evaluation.checkpoint goes by {rule.by}, and no checkpoints are saved along training; give for "
            f"example --set evaluation.along=6"
        )
    needed = (*([SELECTION.scorer] if rule.by == BY_REWARD_MODEL else []), SELECTION.prompts)
    if missing := [name for name in needed if name not in spec.shares]:
        raise InputError(
            f"{place}: evaluation.checkpoint goes by {rule.by}, and the splits give {' and '.join(missing)} no share; "
            f"give for example --set splits.selection=0.2 --set splits.tuning=0.1"
        )


def check_sampling(spec: BenchmarkSpec, base: Checkpoint, shop: Workshop) -> None:
    """The model must sample by the log-probs that it is trained by: tried once, as a stage.

    A store that only looks leaves it out. All processes try it, for among them its weights may be divided.
    """
    where, inputs = f"--model {spec.model}", shop.inputs(MODEL_CODE, base=base.key)

    def build(out: Path) -> None:
        write_json(out / TRIAL, try_model(base, shop.tuning, where))

    with contextlib.suppress(NotMade):
        shop.store.stage("trial", inputs, build, together=True)


def _why(config: Any, window: int) -> str:
    """The reason of a window that is shorter than the one that the model names."""
    named = getattr(config.get_text_config(), "max_position_embeddings", None)
    return " (beyond, it scales positions by the sequence's length, which is not supported)" if named != window else ""
