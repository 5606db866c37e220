"""The weights that our own sampler multiplies by: adapters merged, and in the products' numbers, once for all."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime.sharding import is_divided
from .lora import added_weight, linear_kinds
from .network import Network

Swapped = list[tuple[nn.Module, str, nn.Parameter]]


@contextlib.contextmanager
def sampling_weights(network: Network) -> Iterator[None]:
    """Meanwhile an adapter is part of the weights it adds to, and those of linear layers are in the products' numbers.

    Afterwards every weight is the tensor that it was. Numbers are those of passes as they are, but for the rounding of
    an adapter's sum. Where the memory does not hold merged weights beside the others, and where these are quantized or
    divided among processes, the adapter stays apart.
    """
    _ = network.packs  # found out by passes with the adapter as it is
    model = network.activate()
    swapped: Swapped = []
    try:
        with torch.no_grad():
            apart = not _merge(network, model, swapped)
            if network.tuning.precision == "bf16":
                _cast(model, {id(parameter) for parameter in network.parameters if apart}, swapped)
        yield
    finally:
        _restore(swapped)
        network.activate()


def merged(weight: Tensor, layer: Any, adapters: list[str]) -> Tensor:
    """A weight with what a layer's adapters add to it, in the weight's own numbers.

    In bf16 the sum is rounded up or down by chance, with the same chances each time: the nearest number would be the
    weight itself wherever less than half a step is added to it, and the policy that is sampled would not move.
    """
    total = weight.float()
    for adapter in adapters:
        total = total + added_weight(layer, adapter)
    return to_bf16_by_chance(total) if weight.dtype == torch.bfloat16 else total.to(weight.dtype)


def to_bf16_by_chance(values: Tensor) -> Tensor:
    """Numbers [..., columns] in fp32 rounded to one of their two neighbours in bf16, so that the mean stays.

    Stochastic rounding, Gupta et al. (2015, arXiv:1502.02551), section 3. The chances are the same in each call and on
    each device: those of a row are independent, those of two rows pairwise.
    """
    rows = values.reshape(-1, values.shape[-1])
    chances = np.random.default_rng(0).integers(0, 1 << 16, sum(rows.shape), dtype=np.int32)
    of_rows, of_columns = torch.from_numpy(chances).to(values.device).split(list(rows.shape))
    below = (of_rows[:, None] + of_columns[None]) & 0xFFFF  # what is added to the 16 bits that bf16 leaves out
    bits = (rows.contiguous().view(torch.int32) + below) & ~0xFFFF
    return bits.view(torch.float32).to(torch.bfloat16).view(values.shape)


def _merge(network: Network, model: nn.Module, swapped: Swapped) -> bool:
    """Put merged weights into the layers; False where there is nothing to merge, or no way to."""
    from peft.tuners.lora import LoraLayer

    host = network._host
    if not host or not network.is_adapter or host.frozen:
        return False
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    try:
        for layer in layers:
            base, name = layer.get_base_layer(), getattr(layer, "parameter_name", "weight")
            if not getattr(base, name).is_floating_point():
                _restore(swapped)
                return False
            adapters = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
            if adapters:
                _swap(base, name, merged(getattr(base, name).detach(), layer, adapters), swapped)
    except torch.OutOfMemoryError:
        _restore(swapped)
        torch.cuda.empty_cache()
        return False
    host.use(None)
    return True


def _cast(model: nn.Module, adapter: set[int], swapped: Swapped) -> None:
    """What autocast would do to linear layers' weights before each product; adapter: parameters of one to cast too."""
    linear = linear_kinds()
    for path, module in model.named_modules():
        if type(module) not in linear:
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            own = not is_divided(parameter) and (".lora_" not in path or id(parameter) in adapter)
            if parameter.dtype == torch.float32 and own:
                _swap(module, name, parameter.detach().to(torch.bfloat16), swapped)


def _swap(module: nn.Module, name: str, value: Tensor, swapped: Swapped) -> None:
    swapped.append((module, name, getattr(module, name)))
    setattr(module, name, nn.Parameter(value, requires_grad=False))


def _restore(swapped: Swapped) -> None:
    while swapped:
        module, name, parameter = swapped.pop()
        setattr(module, name, parameter)
