"""Weights divided among the processes of a run: FSDP2, `torch.distributed.fsdp.fully_shard`.

accelerate's configuration asks for it (`fsdp_version: 2`). Divided are, so that each process holds its shard of them:

- a model that is trained (`Sharded`), with gradients and Adam's moments. A pass with gradients brings a layer's weights
  together when it gets to it. Passes without gradients (sampling, log-probs, values) and saving go through the plain
  model, whose weights are brought together once after an update and let go at the next pass with gradients, of
  whichever model, so that the processes need not be in step there.
- the layers of a model that stays frozen (`Frozen`): the reference, a reward model, the base under LoRA adapters. All
  passes bring them together a layer at a time, and all processes make each pass at once (`turns.py`).

Whole in every process are LoRA adapters, a frozen model's embeddings and head, judges and what was trained elsewhere, a
trained model when it is opened to be looked at, and on the CPU a model while it is loaded.

With precision bf16 the weights of the linear layers travel and lie there in bf16, half as large: autocast would round
them anyway, so no number changes. Where accelerate says `fsdp_reshard_after_forward: false` a layer's weights stay from
its first pass of a step to the last, and are brought together once a step in place of twice a micro-batch; all weights
are whole in every process meanwhile, and frozen models are not divided at all.
"""

import copy
import os
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeGuard
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import processes
from .turns import Divided, agreed_name

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

REFUSED = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing",
}
"""Variables that accelerate sets, and the name of the setting; those that are true are not supported."""


def check() -> None:
    """InputError for a configuration of FSDP that is not supported. Called before the first model is loaded."""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("accelerate is configured for FSDP 1; set fsdp_version: 2, or launch with --multi_gpu")
    for variable, name in REFUSED.items():
        if processes.is_true(variable):
            raise InputError(f"accelerate's {name} is not supported here; set it to false")
    if os.environ.get("FSDP_IGNORED_MODULES"):
        raise InputError("accelerate's fsdp_ignored_modules is not supported here; leave it out")
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    if policy.upper() != "TRANSFORMER_BASED_WRAP":
        raise InputError(
            f"accelerate's fsdp_auto_wrap_policy {policy} is not supported here; set TRANSFORMER_BASED_WRAP"
        )
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise InputError(f"torch {torch.__version__} is too old to add up divided gradients here; install torch 2.13")
    # accelerate's default, by which transformers loads weights in the first process alone
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def divides_frozen() -> bool:
    """True if models that stay frozen are divided too."""
    return processes.is_sharding() and _reshards()


class Frozen(Divided):
    """A frozen model's backbone, whose layers are divided among all processes; called as the backbone is."""

    def __init__(self, model: nn.Module, backbone: nn.Module, name: str, device: str, *, bf16: bool, packs: bool):
        """model: on the CPU, whole; it goes to the device a layer at a time. InputError if it has none to be divided.

        bf16: passes are made under autocast; packs: see `Network.packs`, which a pass of one process cannot find out.
        """
        from torch.distributed.fsdp import fully_shard

        super().__init__(name)
        self.backbone: Any = backbone  # FSDP gives it methods
        self.device, self.bf16, self.packs = device, bf16, packs
        layers, mesh = decoder_layers(model), _mesh(torch.device(device).type)
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        of_layers = {parameter for layer in layers for parameter in layer.parameters()}
        fully_shard(backbone, mesh=mesh, ignored_params={*backbone.parameters()} - of_layers)
        model.to(device)

    def __call__(self, **inputs: Any) -> Any:
        found = self.go(self.backbone, **inputs)
        if not torch.is_grad_enabled():
            self.backbone.reset_iter_state()  # else FSDP remembers all passes for a backward pass to come
        return found

    def nothing(self) -> None:
        """Adapters get no gradient of it."""
        ids = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        embedded = self.backbone.get_input_embeddings()(ids).detach()
        embedded.requires_grad_(torch.is_grad_enabled())
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            states = self(inputs_embeds=embedded, use_cache=False).last_hidden_state
        if torch.is_grad_enabled():
            torch.autograd.grad(states.sum(), embedded)


class Sharded(Divided):
    """A model whose weights are divided among all processes, and its plain form for work without gradients."""

    def __init__(self, model: nn.Module, rounded: Sequence[nn.Parameter] = (), *, nothing: Callable[[], None]):
        """model: whole in every process; it is changed in place. InputError if no layer of it is to be divided.

        rounded: those of its weights that are used in bf16 alone. nothing: a pass with a loss of 0, and its backward
        pass.
        """
        super().__init__(agreed_name())
        self._nothing = nothing
        in_bf16 = {id(parameter) for parameter in rounded}
        self.rounded = [id(parameter) in in_bf16 for parameter in model.parameters()]
        # a plain form without weights; what two modules share they share here too
        empty = {id(p): nn.Parameter(p.new_empty(0), requires_grad=False) for p in model.parameters()}
        self.plain = copy.deepcopy(model, empty)
        self.model: Any = _divide(model, in_bf16)  # nn.Module's type knows no `pass_backbone`
        self.parameters = [*model.parameters()]
        self.is_whole = self.is_exact = False  # is_exact: in fp32 throughout
        _sharded.add(self)

    def nothing(self) -> None:
        self._nothing()

    def backbone(self, **inputs: Any) -> Any:
        """The divided model's backbone; FSDP takes it for the model's forward pass."""
        return self.go(self.model.pass_backbone, **inputs)

    def divided(self) -> nn.Module:
        """The divided model; all plain ones let go of their weights."""
        for each in _sharded:
            each.let_go()
        return self.model

    def let_go(self) -> None:
        """Of the plain model's weights. As they come together again in all processes, all call this, or none."""
        if self.is_whole:
            for weight in self.plain.parameters():
                weight.data = weight.new_empty(0)
            self.is_whole = False

    def end_step(self) -> None:
        """After a step's last pass: let go of weights that stayed from pass to pass."""
        if not _reshards():
            for module in self.model.modules():
                if hasattr(module, "reshard"):
                    module.reshard()

    @torch.no_grad()
    def whole(self, *, exact: bool = False) -> nn.Module:
        """The plain model with the weights as they are now. All processes call this after an update, or none.

        exact: in fp32, to be kept; else those that are used in bf16 alone are in bf16.
        """
        if not self.is_whole or exact and not self.is_exact:
            processes.all_gather(None)  # should one have failed, all hear it here
            try:
                for weight, shard, rounds in zip(self.plain.parameters(), self.parameters, self.rounded, strict=True):
                    weight.data = full(shard.to(torch.bfloat16) if rounds and not exact else shard)
            except Exception as error:  # the others wait for what this process would have sent
                processes.end_all(error)
            self.is_whole, self.is_exact = True, exact or not any(self.rounded)
        return self.plain


_sharded: WeakSet[Sharded] = WeakSet()


def is_divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    """True if this process holds a shard of the tensor: a DTensor, known without importing what takes long."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """A tensor in whole; where it is divided all processes call this."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def divided_like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's shard of a tensor, on the device of another one and divided as that is."""
    tensor = tensor.to(other.device)
    if not is_divided(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)  # all have the whole


def _reshards() -> bool:
    """False where accelerate is configured to keep a layer's weights together after its pass."""
    return os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, by the class that accelerate's configuration or the model names; InputError without any."""
    named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    names = named.split(",") if named else [*(getattr(model, "_no_split_modules", None) or [])]
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        kinds = f"no layer of the class {', '.join(names)}" if names else "no class of layers that it names"
        raise InputError(
            f"{type(model).__name__} has {kinds}; set accelerate's fsdp_transformer_layer_cls_to_wrap to the class of "
            f"its decoder layers"
        )
    return layers


def _divide(model: nn.Module, in_bf16: Container[int]) -> nn.Module:
    """Divide the weights of each decoder layer, and what is left, among all processes; in_bf16: ids of weights."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    layers = decoder_layers(model)
    mesh = _mesh(next(model.parameters()).device.type)
    # norms and what else is used in fp32, small as a rule: all layers' together, for they travel on their own
    inner = dict.fromkeys(module for layer in layers for module in layer.modules())
    of_fp32 = [m for m in inner if any(id(p) not in in_bf16 for p in m.parameters(recurse=False))]
    halves: dict[str, Any] = {}
    if in_bf16 and of_fp32:
        fully_shard(of_fp32, mesh=mesh, reshard_after_forward=False)
    if in_bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        halves = {"mp_policy": policy}
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=_reshards(), **halves)
    # the head is used after the backbone, so the root's weights stay together until the backward pass
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # losses are shares of a sum already, so gradients are added up
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            module.set_reshard_after_backward(_reshards(), recurse=False)
    backbone = MethodType(lambda self, **inputs: self.base_model(**inputs), model)
    model.pass_backbone = backbone  # type: ignore[assignment]  # torch says: modules hold tensors and modules only
    register_fsdp_forward_method(model, "pass_backbone")
    return model


@lru_cache
def _mesh(device: str) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (processes.size(),))
