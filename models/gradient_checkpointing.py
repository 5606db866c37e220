"""Gradient checkpointing: a layer keeps its input alone, and is computed once more in the backward pass.

Chen et al. (2016), arXiv:1604.06174. The numbers are those of a pass without it: dropout is off, so the second time
gives what the first one gave.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError

Again = Callable[[], AbstractContextManager[None]]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers lets be computed again; none where an architecture has no such."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def check_layers(model: nn.Module, field: str) -> None:
    """InputError where the model has no such layers; field: by which it was asked to have them computed again."""
    if not layers_of(model):
        raise InputError(
            f"{field}: {type(model).__name__} has no layers that transformers can compute again; set it to false, and "
            f"micro_tokens lower if memory runs out"
        )


@contextmanager
def checkpointed(model: nn.Module, again: Again) -> Iterator[None]:
    """Meanwhile the model's layers keep their inputs alone; again() holds while one is computed once more."""
    layers: list[Any] = layers_of(model)
    for layer in layers:
        layer._gradient_checkpointing_func = partial(_run, layer, again)
        layer.gradient_checkpointing = layer.training = True  # transformers asks for both; its parts stay in eval
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


def _run(layer: nn.Module, again: Again, function: Callable[..., Any], *inputs: Any) -> Any:
    """A layer's pass, which transformers gives as a function of its inputs."""

    def forward(*inputs: Any) -> Any:
        before, layer.training = layer.training, False  # some layers would turn their own dropout on
        try:
            return function(*inputs)
        finally:
            layer.training = before

    contexts = lambda: (nullcontext(), again())  # noqa: E731
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def bytes_kept(work: Callable[[], Any], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of some work for its backward pass, each storage once, these weights left out."""
    own = {weight.untyped_storage()._cdata for weight in weights}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = work()  # held until all is counted, for storages that are let go may come again
    del kept
    return sum(sizes.values())
