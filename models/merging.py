"""A policy without its adapter: what that adds goes into the weights, a tensor at a time as the files are written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from .checkpoint import read_model
from .four_bits import FourBits
from .lora import adapted_name, added_weight, plain_name
from .network import Network

FILE = 10**9  # bytes of a file of weights; as many are in memory at once
NUMBERS = {"BF16": torch.bfloat16, "F16": torch.float16}  # that fp32 holds as they are


class _Pieces(dict[str, Tensor]):
    """A state dict whose tensors are made as transformers takes them out, those of one file after those of another."""

    def __init__(self, shapes: dict[str, Tensor], make: Callable[[str], Tensor]):
        """shapes: tensors without data, from which transformers tells which go into one file."""
        super().__init__(shapes)
        self.make = make

    def pop(self, name: str, *default: Any) -> Tensor:
        super().pop(name, *default)
        return self.make(name)


@torch.no_grad()
def save_merged(network: Network, folder: Path) -> None:
    """Write a plain model with the network's adapter added into its weights, fp32; a full network's as it is.

    The weights are those on disk; of a base in 4 bits those that it stands for, for which the adapter was trained.
    """
    from peft.tuners.lora import LoraLayer

    host, adapter = network._host, network._adapter
    if not host or not adapter:
        network.model.save_pretrained(folder)
        return
    rounded, adapted = dict[str, FourBits](), dict[str, LoraLayer]()
    for path, layer in host.model.named_modules():
        if isinstance(layer, FourBits):
            rounded[f"{plain_name(path)}.weight"] = layer
        elif isinstance(layer, LoraLayer):
            adapted[adapted_name(path, layer)] = layer

    def merged(name: str, weight: Tensor) -> Tensor:
        layer = rounded.get(name)
        if layer:
            weight = layer.restored().to(weight.device)
        if weight.is_floating_point():
            weight = weight.float()
        if name in adapted:
            weight = weight + added_weight(adapted[name], adapter).to(weight.device)
        return weight.T if layer and layer.lies_across else weight

    files = _files(host.folder)
    whole = read_model(AutoModelForCausalLM, host.folder, dtype=_numbers(files))
    if whole._weight_conversions:  # names or parts in the files are others, which transformers makes of the whole
        whole.float()
        for name, weight in whole.named_parameters():
            weight.copy_(merged(name, weight))
        whole.save_pretrained(folder)
        return

    def piece(name: str) -> Tensor:
        with safe_open(str(files[name]), "pt") as weights:
            return merged(name, weights.get_tensor(name))

    whole.to("meta", torch.float32).tie_weights()
    pieces = _Pieces(whole.state_dict(), piece)
    whole.save_pretrained(folder, state_dict=pieces, max_shard_size=FILE, save_original_format=False)


def _files(folder: Path) -> dict[str, Path]:
    """The file of each weight of a model."""
    found = dict[str, Path]()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), "pt") as weights:
            found |= dict.fromkeys(weights.keys(), file)
    return found


def _numbers(files: dict[str, Path]) -> torch.dtype:
    """The numbers of a model's weights where all are alike, for then they are mapped and not read; else fp32."""
    found = set()
    for name, file in files.items():
        with safe_open(str(file), "pt") as weights:
            found.add(weights.get_slice(name).get_dtype())
    return NUMBERS.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32
