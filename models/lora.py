"""LoRA adapters on a frozen model that lies in memory once (Hu et al. 2021, arXiv:2106.09685), through peft."""

import copy
import warnings
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .four_bits import weights_of

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

    from ..runtime.sharding import Frozen
    from .tuning import Tuning

ADAPTER = "adapter_model.safetensors"
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")  # names in the configurations of mixtures
# In a mixture peft takes a layer of these names for an expert of old, and leaves out dense and shared ones.
EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
# By architecture: layers whose weights its code, or a fused kernel, reads itself and so passes adapters by.
BYPASSED = {
    "falcon_h1": ("out_proj",),
    "falcon_mamba": ("dt_proj", "out_proj"),
    "jamba": ("dt_proj",),
    "mamba": ("dt_proj", "out_proj"),
    "mamba2": ("out_proj",),
    "nemotron_h": ("out_proj",),
}


class Host:
    """A frozen model that is in memory once, and the LoRA adapters on it."""

    def __init__(self, folder: Path, model: "PreTrainedModel", frozen: "Frozen | None" = None):
        """folder: where the model lies, for adapters name their base; frozen: its backbone where it is divided."""
        self.folder, self.frozen = folder, frozen
        self.model = model.requires_grad_(False)
        self.size = weights_of(model)
        self._targets = lora_targets(self.model)
        self._names = (f"adapter{i}" for i in count())
        self._configs: dict[str, LoraConfig] = {}
        self._parameters: dict[str, list[nn.Parameter]] = {}
        self._active: str | None = None

    def add(self, tuning: "Tuning", saved: Path | None = None) -> str:
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
        from safetensors.torch import load_file

        name = next(self._names)
        if saved:
            config = LoraConfig.from_pretrained(str(saved))
        else:
            config = LoraConfig(
                r=tuning.lora_rank,
                lora_alpha=tuning.lora_alpha,  # type: ignore[arg-type]  # peft says int and divides it by the rank
                lora_dropout=0.0,
                **self._targets,
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # several adapters on one model are what we want
            inject_adapter_in_model(config, self.model, adapter_name=name)
        self._configs[name] = config
        self._parameters[name] = [p for n, p in self.model.named_parameters() if f".{name}." in n]
        for parameter in self._parameters[name]:  # before they are read: peft makes them in the type of the model's
            parameter.data = parameter.data.float()
        if saved:
            weights = load_file(saved / ADAPTER)
            weights = {k.removeprefix("base_model.model."): v for k, v in weights.items() if ".score." not in k}
            outcome: Any = set_peft_model_state_dict(self.model, weights, adapter_name=name)  # peft's type is too vague
            if outcome.unexpected_keys:
                raise InputError(f"{saved / ADAPTER} does not fit its base {self.folder}: {outcome.unexpected_keys[0]}")
        self._active = name
        self.use(None)
        return name

    def parameters(self, name: str | None) -> list[nn.Parameter]:
        return self._parameters[name] if name else []

    def use(self, name: str | None) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        if name == self._active:
            return
        for layer in self.model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.enable_adapters(name is not None)
                if name is not None:
                    layer.set_adapter(name)
        # peft freezes adapters that are not active, and autograd then drops gradients that are still on their way
        for parameters in self._parameters.values():
            for parameter in parameters:
                parameter.requires_grad_(True)
        self._active = name

    def remove(self, name: str) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.use(None)
        for layer in self.model.modules():
            if isinstance(layer, BaseTunerLayer) and name in layer._all_available_adapter_names():
                layer.delete_adapter(name)
        self.model.peft_config.pop(name, None)
        del self._parameters[name], self._configs[name]

    def save(self, name: str, folder: Path, score: nn.Linear | None) -> None:
        """Write the adapter in peft's layout: AutoModelForCausalLM or ...SequenceClassification load it."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        config = copy.copy(self._configs[name])
        config.base_model_name_or_path = str(self.folder.resolve())
        config.task_type = "SEQ_CLS" if score is not None else "CAUSAL_LM"
        config.modules_to_save = ["score"] if score is not None else None
        config.inference_mode = True
        weights = {
            f"base_model.model.{k}": v for k, v in get_peft_model_state_dict(self.model, adapter_name=name).items()
        }
        if score is not None:
            weights["base_model.model.score.weight"] = score.weight
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / ADAPTER)
        config.save_pretrained(str(folder))

    def load_score(self, folder: Path, score: nn.Linear) -> None:
        from safetensors.torch import load_file

        weights = load_file(folder / ADAPTER)
        score.load_state_dict({"weight": weights["base_model.model.score.weight"]})


def backbone_of(model: "PreTrainedModel") -> nn.Module:
    """The layers before the head; an architecture without a name for them is its own."""
    names = (model.base_model_prefix, "model")
    return next((part for name in names if (part := getattr(model, name, None)) is not None), model)


def linear_kinds() -> tuple[type[nn.Module], ...]:
    """The classes of linear layers: torch's, and that of transformers whose weight lies the other way round."""
    from transformers.pytorch_utils import Conv1D

    return (nn.Linear, Conv1D)


def adapted_name(path: str, layer: "LoraLayer") -> str:
    """The name, in the plain model, of the weight that an adapter's layer adds to; path: where that layer stands."""
    return f"{plain_name(path)}.{getattr(layer, 'parameter_name', 'weight')}"


def plain_name(name: str) -> str:
    """The name that a module or weight has in the model without adapters."""
    return name.replace(".base_layer", "")


def added_weight(layer: "LoraLayer", name: str) -> Tensor:
    """The matrix that an adapter adds to the weight of its layer."""
    return layer.get_delta_weight(name)  # type: ignore[attr-defined]  # all kinds of it have it, their base does not


def round_products(model: nn.Module) -> None:
    """Hold the weights of the linear layers in bf16; no pass under autocast in bf16 changes by a bit.

    Autocast rounds these weights before each product anyway. What it leaves in fp32 stays so; see `rounded_weights`.
    """
    for parameter in rounded_weights(model):
        parameter.data = parameter.data.to(torch.bfloat16)


def rounded_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights that autocast in bf16 rounds before each use, and nothing else uses: those of the linear layers.

    So not those of norms and embeddings, of an output layer that shares its weight with them, and of the scalar head of
    a scorer.
    """
    linear = linear_kinds()
    used = {id(p) for m in model.modules() if type(m) not in linear for p in m.parameters(recurse=False)}
    layers = [module for name, module in model.named_modules() if type(module) in linear and name != "score"]
    return [p for layer in layers for p in layer.parameters(recurse=False) if id(p) not in used]


def lora_targets(model: "PreTrainedModel") -> dict[str, Any]:
    """peft's target_modules and target_parameters: the linear layers and stacked experts of the backbone, no head."""
    names, stacked, config = _linear_names(model), stacked_names(model), model.config.get_text_config()
    if not any(getattr(config, name, None) for name in EXPERT_COUNTS):
        return {"target_modules": names}
    taken = [name for name in names if name in EXPERTS]
    return {
        "target_modules": [name for name in names if name not in EXPERTS],
        "target_parameters": [*stacked, *(f"{name}.weight" for name in taken)],  # each layer of its own, by its weight
    }


def base_layers(model: "PreTrainedModel") -> set[str]:
    """Names of the linear layers that adapters go on, experts aside: those that may lie in 4 bits."""
    names, within = _linear_names(model), {id(module) for module in backbone_of(model).modules()}
    linear = linear_kinds()
    return {
        path
        for path, module in model.named_modules()
        if type(module) in linear and id(module) in within and path.rpartition(".")[2] in names
    }


def check_no_experts(config: Any, field: str) -> None:
    """InputError for a mixture, whose weights lie in stacks for the most part; field: by which 4 bits were asked."""
    if any(getattr(config.get_text_config(), name, None) for name in EXPERT_COUNTS):
        raise InputError(
            f"{field}: the experts of a mixture ({config.model_type}) are not brought to 4 bits here; leave it out, or "
            f"use a model without experts"
        )


def _linear_names(model: "PreTrainedModel") -> list[str]:
    """Last name parts of the linear layers of the backbone."""
    kinds = linear_kinds()
    linear = [n for n, m in backbone_of(model).named_modules() if isinstance(m, kinds) and not _routes(m)]
    names = {name.rpartition(".")[2] for name in linear}
    return sorted(names.difference(BYPASSED.get(model.config.model_type, ())))


def _routes(module: nn.Module) -> bool:
    """True for a linear layer that chooses experts, and may return more than a product."""
    return "Router" in type(module).__name__


def stacked_names(model: "PreTrainedModel") -> list[str]:
    """Last two name parts of the weights [experts, ..., ...] in which transformers stacks the experts of a mixture."""
    known = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
    found = {
        ".".join([path.rpartition(".")[2], name])
        for path, module in backbone_of(model).named_modules()
        if not isinstance(module, known)
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3 and min(weight.shape) > 1
    }
    return sorted(found)
