"""Model folders in Hugging Face layout, and how their weights come back into memory.

A `Network` is one set of weights under a name: a model of its own (full fine-tuning), or a LoRA adapter on a frozen
model that lies in memory once and is shared by policy, reference (adapters off), critic and reward models.
"""

import contextlib
import gc
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.modeling_layers import GenericForSequenceClassification

from ..errors import InputError
from ..results.adapters import base_of, is_adapter
from ..runtime import memory
from ..runtime.sharding import Frozen, divides_frozen
from .chat import Template, load_tokenizer
from .four_bits import settings, take_over
from .logit_rule import LogitRule
from .lora import Host, backbone_of, base_layers, check_no_experts, linear_kinds, round_products
from .model_files import remote_code_allowed
from .network import Kind, Network
from .tuning import Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel


SCORE = "score.weight"  # of a scorer


@dataclass(frozen=True)
class Checkpoint:
    """A model folder (weights, config, tokenizer) and the key of the stage that made it."""

    path: Path
    key: str
    template: Template = field(default="chat", kw_only=True)
    """Its tokenizer's own template, or bare text in its place."""

    def tokenizer(self):
        return load_tokenizer(self.path, self.template)

    @property
    def config(self) -> Any:
        """transformers' configuration of the model, of an adapter's base."""
        folder = base_of(self.path) if is_adapter(self.path) else self.path
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=remote_code_allowed())

    @property
    def width(self) -> int | None:
        """Its hidden size; None where its files do not tell, or are not here."""
        with contextlib.suppress(InputError, OSError, ValueError, KeyError):
            if not is_adapter(self.path) or Path(base_of(self.path)).is_dir():
                return getattr(self.config.get_text_config(), "hidden_size", None)
        return None


def open_network(
    folder: str | Path, kind: Kind, tuning: Tuning, *, trainable: bool, head_std: float | None = None
) -> Network:
    """Bring the weights of a folder back as a network.

    A frozen `lm` is the shared model itself with adapters off. A trainable network is a fresh LoRA adapter on the
    shared model, or with rank 0 a copy of its own. A folder that holds an adapter is put on its shared base.
    head_std: standard deviation of a new scalar head; 0 starts every score at 0; None keeps the head on disk.
    """
    folder = Path(folder)
    if is_adapter(folder):
        host = _host(Path(base_of(folder)), tuning)
        network = Network(host.model, kind, tuning, host, host.add(tuning, folder))
        if network.score is not None:
            host.load_score(folder, network.score)
    elif not trainable and kind == "lm":
        host = _host(folder, tuning)
        network = Network(host.model, kind, tuning, host, None)
    elif trainable and tuning.lora_rank:
        host = _host(folder, tuning)
        network = Network(host.model, kind, tuning, host, host.add(tuning))
    elif trainable:
        network = Network(load_model(folder, kind, tuning), kind, tuning, None, None)
    else:
        model, frozen = _load_frozen(folder, kind, tuning)
        network = Network(model, kind, tuning, None, None, frozen)
    if head_std is not None:
        assert network.score is not None  # kind: score
        nn.init.normal_(network.score.weight, std=head_std) if head_std else nn.init.zeros_(network.score.weight)
    return network


def load_model(
    folder: Path, kind: Kind, tuning: Tuning, *, frozen: bool = False, base: bool = False
) -> "PreTrainedModel":
    """Load a model with dropout off and weights in fp32, each read straight to its place on the device.

    frozen: see `round_products`, which changes no number. base: of adapters, in as many bits as the tuning says.
    """
    given: dict[str, Any] = {"dtype": torch.float32}
    rounds = frozen and tuning.precision == "bf16"
    if tuning.device != "cpu":
        given["device_map"] = {"": tuning.device}
    try:
        if kind == "score":
            model = _load_scorer(folder, rounds, **given)
        elif base and tuning.base_bits:
            model = _load_in_four_bits(folder, rounds, **given)
        else:
            model = read_model(AutoModelForCausalLM, folder, rounds, **given)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"{folder} holds no model that can be loaded ({first}); give a folder in Hugging Face layout"
        ) from None
    if kind == "lm":
        _check_head(model, folder, tuning.device)
    if rounds:
        round_products(model)
    return model.to(tuning.device).eval()


def read_model(auto: Any, folder: Path, rounds: bool = False, **given: Any) -> Any:
    """A model by one of transformers' Auto classes; rounds: what `round_products` rounds is so already as it is read.

    The whole in fp32 would take twice the memory meanwhile. transformers reads each weight in the numbers that it has
    in the model as it is made; where it does not, all is fp32, and rounded later.
    """
    trust = remote_code_allowed()
    if not rounds:
        return auto.from_pretrained(str(folder), trust_remote_code=trust, **given)
    kind = type(_without_numbers(auto, folder))

    def made(self: Any, *values: Any, **more: Any) -> None:
        kind.__init__(self, *values, **more)
        round_products(self)

    rounded: Any = type(kind.__name__, (kind,), {"__init__": made, "__module__": kind.__module__})
    model = rounded.from_pretrained(str(folder), trust_remote_code=trust, **given)
    model.__class__ = kind
    return model


def _without_numbers(auto: Any, folder: Path) -> Any:
    """The model that an Auto class makes of a folder's configuration, on the device meta."""
    trust = remote_code_allowed()
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust)
    with torch.device("meta"):
        return auto.from_config(config, trust_remote_code=trust)


def _load_in_four_bits(folder: Path, rounds: bool, **given: Any) -> "PreTrainedModel":
    """A causal language model whose layers under adapters are brought to 4 bits one after another as they are read."""
    empty, linear = _without_numbers(AutoModelForCausalLM, folder), linear_kinds()
    check_no_experts(empty.config, "tuning.base_bits")
    divided = base_layers(empty)
    whole = [name for name, layer in empty.named_modules() if isinstance(layer, linear) and name not in divided]
    model = read_model(AutoModelForCausalLM, folder, rounds, quantization_config=settings(whole), **given)
    take_over(model, torch.bfloat16 if rounds else torch.float32)
    return model


class _InFp32(TorchFunctionMode):
    """Meanwhile weights in bf16 are used in fp32, one at a time."""

    def __torch_function__(self, function: Any, types: Any, values: Any = (), more: Any = None) -> Any:
        wide = lambda value: value.float() if value.dtype == torch.bfloat16 else value  # noqa: E731
        with torch._C.DisableTorchFunction():
            values, more = tree_map_only(torch.Tensor, wide, (values, more or {}))
        return function(*values, **more)


def _load_scorer(folder: Path, rounds: bool, **given: Any) -> "PreTrainedModel":
    """transformers' sequence classifier with one output; where it has none, one made of its parts.

    That takes the layers of the language model: from_pretrained would leave some architectures' buffers without values.
    """
    given["num_labels"] = 1
    kind = type(AutoConfig.from_pretrained(str(folder), trust_remote_code=remote_code_allowed()))
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return read_model(AutoModelForSequenceClassification, folder, rounds, **given)
    lm = read_model(AutoModelForCausalLM, folder, rounds, **given)
    base = next(each for each in type(lm).__mro__ if each.__name__.endswith("PreTrainedModel"))
    name = type(lm).__name__.replace("ForCausalLM", "") + "ForSequenceClassification"
    like = {"base_model_prefix": lm.base_model_prefix, "__module__": type(lm).__module__}
    made = type(name, (GenericForSequenceClassification, base), like)
    with torch.device("meta"):
        model = made(lm.config)
    setattr(model, lm.base_model_prefix, backbone_of(lm))
    model.score = nn.Linear(lm.config.get_text_config().hidden_size, 1, bias=False)
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), "pt") as weights:
            if SCORE in weights.keys():  # noqa: SIM118  (it is no mapping)
                model.score.load_state_dict({"weight": weights.get_tensor(SCORE)})
    return model


@torch.no_grad()
def _check_head(model: "PreTrainedModel", folder: Path, device: str) -> None:
    """Refuse architectures that change the logits by another `LogitRule`: only scored positions reach the head here."""
    ids = torch.tensor([[0, 1]], device=device)
    with _InFp32():
        states = backbone_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        ours, theirs = LogitRule.of(model.config)(model.get_output_embeddings()(states)), model(input_ids=ids).logits
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise InputError(
            f"{folder}: {type(model).__name__} changes its logits after the output layer in a way that is not known; "
            f"use a model of another architecture"
        )


def _load_frozen(
    folder: Path, kind: Kind, tuning: Tuning, *, base: bool = False
) -> "tuple[PreTrainedModel, Frozen | None]":
    """A model that stays frozen, and where weights are divided its backbone, whose layers are.

    base: see `load_model`.
    """
    divides = divides_frozen()
    here = replace(tuning, device="cpu") if divides else tuning
    model = load_model(folder, kind, here, frozen=True, base=base)
    model.requires_grad_(False)
    if not divides:
        return model, None
    packs = Network(model, kind, here, None, None).packs
    name, bf16 = f"{kind} {tuning.precision} {folder}", tuning.precision == "bf16"
    return model, Frozen(model, backbone_of(model), name, tuning.device, bf16=bf16, packs=packs)


_HOSTS: dict[tuple[Path, Tuning, bool], Host] = {}


def let_go_of_models() -> None:
    """Give the memory of models that nobody uses any more back to the device and the system, for other processes."""
    _HOSTS.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    memory.give_back()


def _host(folder: Path, tuning: Tuning) -> Host:
    """The shared frozen model of a folder: loaded once, the last one kept, which is let go before another is read."""
    key = folder.resolve(), tuning, divides_frozen()
    if key not in _HOSTS:
        _HOSTS.clear()
        _HOSTS[key] = Host(key[0], *_load_frozen(key[0], "lm", tuning, base=True))
    return _HOSTS[key]
