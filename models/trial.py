"""A model tried before anything trains: what it says token by token must be what it says in one pass.

Sampling goes through caches that some architectures keep in their own way, and a wrong one raises nothing.
"""

from typing import Any

import torch

from ..errors import InputError
from ..results.records import Prompt
from .checkpoint import Checkpoint
from .lora import plain_name, stacked_names
from .micro_batches import OutOfMemory
from .policy import Policy
from .sampler_torch import sample_rows
from .tuning import Tuning

LENGTHS, COPIES, NEW_TOKENS = (2, 5, 11), 2, 8  # of the prompts: padded on the left, and some asked twice
APART = {"fp32": 1e-3, "bf16": 0.2}  # nats a token, on average, that rounding may explain


def try_model(checkpoint: Checkpoint, tuning: Tuning, where: str, *, trainable: bool = True) -> dict[str, Any]:
    """The mean distance in nats between a sampled token's log-prob and the one of a pass over the whole sequence.

    where: how the user named the model. trainable: see `open_network`. InputError, with its architecture, for a model
    that cannot be sampled, whose distance is beyond rounding, or whose code passes adapters by.
    """
    policy = Policy.open(checkpoint, tuning, trainable=trainable)
    try:
        name = f"{where}: {type(policy.network.model).__name__}"
        by_vllm = tuning.sampler == "vllm"
        if by_vllm and stacked_names(policy.network.model):
            raise InputError(
                f"{name} holds its experts in stacks, by names that vLLM does not know; use the sampler torch"
            )
        apart = 0.0 if by_vllm else try_sampling(policy, name)
        if policy.network.is_adapter and trainable:
            _check_adapters(policy, name)
    finally:
        policy.network.close()
    return {"apart": apart}


def try_sampling(policy: Policy, name: str) -> float:
    """The distance of `try_model` for a policy that is open. InputError, which begins with the name, as there."""
    apart = _distance(policy, name)
    if not apart <= APART[policy.network.tuning.precision]:
        raise InputError(
            f"{name} says other log-probabilities token by token than in one pass ({apart:.2g} nats apart), so what is "
            f"sampled would not be what is trained; use a model of another architecture"
        )
    return apart


@torch.no_grad()
def _distance(policy: Policy, name: str) -> float:
    words = [i for i in range(3, policy.network.model.get_input_embeddings().num_embeddings) if i not in policy.stops]
    ids = [tuple(words[(7 * length + 5 * i) % len(words)] for i in range(length)) for length in LENGTHS]
    prompts = [Prompt(str(i), (), row) for i, row in enumerate(ids * COPIES)]
    rows = range(len(prompts))
    settings: dict[str, Any] = {"seed": 0, "temperature": 1.0, "top_p": 1.0, "progress": None, "streams": rows}
    try:
        drawn = sample_rows(policy, prompts, rows, max_new_tokens=NEW_TOKENS, **settings)
        whole = policy.logps([(s.prompt.ids, s.ids) for s in drawn]).rows()
    except (OutOfMemory, InputError):
        raise
    except Exception as error:  # what an architecture raises whose cache is of another kind is its own affair
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"{name} cannot be sampled here ({first}); use a model of another architecture, with a cache of keys and "
            f"values or states that transformers' DynamicCache holds"
        ) from None
    gaps = [abs(a - b) for s, row in zip(drawn, whole, strict=True) for a, b in zip(s.logps, row, strict=True)]
    return sum(gaps) / len(gaps)


def _check_adapters(policy: Policy, name: str) -> None:
    """InputError where no adapter on layers of one name gets a gradient; of a mixture's experts some may rest."""
    policy.logps([((5, 6, 7), (8, 9, 10, 11))]).sum().sum().backward()
    learns: dict[str, bool] = {}
    for path, parameter in policy.network.model.named_parameters():
        layer, is_second, _ = path.partition(".lora_B.")  # the first is at its start multiplied by 0
        if is_second:
            kind = plain_name(layer).rpartition(".")[2]
            gradient, parameter.grad = parameter.grad, None
            learns[kind] = learns.get(kind, False) or gradient is not None and bool(gradient.any())
    if idle := sorted(kind for kind, learned in learns.items() if not learned):
        raise InputError(
            f"{name} does not use LoRA adapters on {', '.join(idle)}; train every weight (tuning.lora_rank 0), or use "
            f"a model of another architecture"
        )
