"""vLLM as the sampler: an engine in this process that is given the policy's weights before it answers.

Of several processes each has an engine of its own on its own device, with the whole model, and answers its shard of the
prompts. An engine starts in all of them at once, for vLLM makes its groups of torch's processes then.

Kwon et al. (2023, arXiv:2309.06180). Written for and tried with vLLM 0.32.
"""

import atexit
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..results.records import Prompt
from ..runtime import processes
from ..runtime.sharding import full
from .limits import context_window
from .lora import adapted_name, plain_name
from .network import Network
from .policy import Policy
from .sampler import Sample
from .sampler_cache import token_bytes
from .sampler_weights import merged
from .tuning import Tuning

COLDEST = 0.01  # below, vLLM would take this temperature instead
STEP = 1024  # an engine's longest sequence is a multiple of it, so that few calls need another engine

# vLLM reads these when it is imported, which is below
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, where the policy's weights are
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # training uses the same threads
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output may be JSON

# at most one, by what it was started with: the model's configuration, its longest sequence, and the tuning
_engines: dict[tuple[str, int, Tuning], Any] = {}


def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    rows: Sequence[int],
    *,
    streams: Sequence[int],
    max_new_tokens: int,
    seed: int,
    temperature: float,
    top_p: float,
    progress: str | None,
    together: bool = False,
) -> list[Sample]:
    """A `Sampler`, see models/sampling.py. A policy that is an adapter is handed over merged.

    together: all processes of the run are here, also one without rows.
    """
    from vllm import SamplingParams

    check_temperatures({"this sampling": temperature})
    if processes.size() > 1 and not together:  # it would wait for the others' engines for ever
        raise InputError("vLLM samples in all processes at once, and this sampling is of one; use the sampler torch")
    if not rows and not together:
        return []
    stops = policy.stops
    settings = [
        SamplingParams(
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_new_tokens,
            seed=_seed(seed, streams[i]),
            logprobs=0,  # of the drawn token alone
            stop_token_ids=sorted(stops),
            detokenize=False,
        )
        for i in rows
    ]
    asked = [{"prompt_token_ids": list(prompts[i].ids)} for i in rows]
    with torch.random.fork_rng():  # vLLM seeds torch's own generator and draws from it
        longest = max((len(prompt["prompt_token_ids"]) for prompt in asked), default=0) + max_new_tokens
        engine = _engine(policy, max(processes.all_gather(longest)))  # the same in all, or some would start alone
        with awake(engine, partial(plain_weights, policy.network)):
            bar = partial(_bar, progress) if progress is not None and sys.stderr.isatty() else False
            outcomes = engine.generate(asked, settings, use_tqdm=bar) if asked else []
    samples = []
    for i, outcome in zip(rows, outcomes, strict=True):
        [response] = outcome.outputs
        ids = tuple(response.token_ids)
        logps = tuple(step[token].logprob for token, step in zip(ids, response.logprobs, strict=True))
        samples.append(Sample(prompts[i], ids, ids[-1] in stops, logps))
    return samples


@contextlib.contextmanager
def awake(engine: Any, weights: Callable[[], Iterator[tuple[str, Tensor]]]) -> Iterator[None]:
    """Meanwhile the engine holds these weights, put in place from memory; afterwards, where it can, it holds none.

    On a GPU it sleeps between two samplings: its weights and its key-value cache are given up, and training has the
    memory. The cache is taken after the weights are in place, for these take more while they are handed over.
    """
    can_sleep = engine.llm_engine.vllm_config.model_config.enable_sleep_mode
    if can_sleep:
        torch.cuda.empty_cache()  # what torch holds for training would be missing
        engine.wake_up(tags=["weights"])  # it does nothing to one that is awake
    engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights()})
    if can_sleep:
        engine.wake_up(tags=["kv_cache"])
    engine.reset_prefix_cache()  # its keys and values are those of the weights before
    try:
        yield
    finally:
        if can_sleep:
            engine.sleep(level=2)  # weights are not kept elsewhere either


def check_temperatures(asked: Mapping[str, float]) -> None:
    """InputError for a temperature that vLLM would change; asked: by what it was given to."""
    for where, temperature in asked.items():
        if temperature < COLDEST:
            raise InputError(
                f"{where}: vLLM samples at temperatures from {COLDEST}; {temperature} needs the sampler torch"
            )


def plain_weights(network: Network) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the plain model with this network's function; adapters are added in, one layer at a time.

    What is divided among processes comes together a tensor at a time, so all of them walk through it at once.
    """
    from peft.tuners.lora import LoraLayer

    model = network.activate()
    adapted = {
        adapted_name(path, layer): layer
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and not layer.disable_adapters
    }
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        name, tensor = plain_name(name), full(tensor)
        if name in adapted:
            layer = adapted[name]
            tensor = merged(tensor, layer, layer.active_adapters)
        yield name, tensor


def _engine(policy: Policy, length: int) -> Any:
    """The engine for this policy's architecture and sequences of so many tokens; one that is there is used again."""
    config, tuning = policy.network.model.config, policy.network.tuning
    window = context_window(config)
    length = -(-length // STEP) * STEP
    key = (config.to_json_string(), min(length, window or length), tuning)
    if key not in _engines:
        _end_engine()  # two would not fit
        _engines[key] = _start(*key, config)
    return _engines[key]


def _end_engine() -> None:
    """End the engine that is there, if there is one."""
    while _engines:
        with _joined():
            _engines.popitem()[1].llm_engine.engine_core.shutdown()


@contextlib.contextmanager
def _joined() -> Iterator[None]:
    """Several processes stay joined: an engine that ends would end torch's process group too, which is the run's."""
    end = torch.distributed.destroy_process_group
    if processes.size() > 1:
        torch.distributed.destroy_process_group = lambda group=None: end(group) if group is not None else None
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = end


def _start(config: str, length: int, tuning: Tuning, model: Any) -> Any:
    """An engine with weights that mean nothing yet."""
    from vllm import LLM
    from vllm.platforms import current_platform

    kind, device = current_platform.device_type, tuning.device
    if several := processes.size() > 1:
        atexit.unregister(_end_engine)
        atexit.register(_end_engine)  # before the run's group ends, in which its own groups are
    if device not in (kind, f"{kind}:0"):
        raise InputError(
            f"this vLLM samples on {kind} and the device is {device}; give --device {kind}, or use the sampler torch"
        )
    if kind == "cuda":
        torch.cuda.empty_cache()  # vLLM looks at what is free
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(config, encoding="utf-8")
        try:
            return LLM(
                model=folder,
                skip_tokenizer_init=True,
                load_format="dummy",
                generation_config="vllm",  # a model's own defaults would change the distribution
                dtype="bfloat16" if tuning.precision == "bf16" else "float32",
                max_model_len=length,
                max_num_seqs=tuning.vllm_sequences,
                logprobs_mode="processed_logprobs",  # at the temperature
                enforce_eager=kind == "cpu",  # compiling takes longer there than it saves
                enable_sleep_mode=current_platform.is_sleep_mode_available(),
                distributed_executor_backend="external_launcher" if several else None,  # on this process's own device
                **engine_memory(kind, tuning, model, length),
            )
        except Exception as error:
            told = _said(error, tuning)
            if several:  # the others may wait for it in what vLLM does in all at once
                processes.end_all(told)
            if told is error:
                raise
            raise told from None


def _said(error: Exception, tuning: Tuning) -> Exception:
    """An InputError for memory, of the engine's share or of the device, that is not there; else the error itself."""
    if not isinstance(error, ValueError) or "memory" not in str(error).lower():
        return error
    return InputError(
        f"vLLM does not start with the memory it is given (tuning.vllm_memory is {tuning.vllm_memory}): "
        f"{' '.join(str(error).split())}"
    )


def engine_memory(kind: str, tuning: Tuning, model: Any, length: int) -> dict[str, Any]:
    """vLLM's settings of memory; model: the configuration, length: tokens of the longest sequence.

    On a GPU a share of all that there is, for weights and a key-value cache of what they leave. On a CPU a cache for
    `vllm_sequences` of that length.
    """
    if kind != "cpu":
        return {"gpu_memory_utilization": tuning.vllm_memory}
    token = token_bytes(model, bf16=tuning.precision == "bf16")
    return {"kv_cache_memory_bytes": tuning.vllm_sequences * length * token}


def _seed(seed: int, stream: int) -> int:
    """A row's seed in 63 bits, of the seed and its stream: neither batch nor other rows change its response."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _bar(label: str, work: Iterable | None = None, **given: Any) -> tqdm:
    """vLLM's progress bars, with our label and unit; it computes with them, so they cannot be silent ones."""
    return tqdm(work, **{**given, "desc": label, "unit": "response", "leave": False})
