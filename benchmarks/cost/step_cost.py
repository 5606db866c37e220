"""Peak memory, FLOP and kernel launches of a training step at any size, from tensors without data (device meta).

Our own networks and losses go through it, so what they keep is counted and not estimated. Live bytes are followed
storage by storage, each rounded up to 512 as the CUDA allocator does; its fragments and cuBLAS's workspace come on top.
Attention goes to the kernels of CUDA: flash where there is no mask, memory-efficient where there is one. bf16 products
are cast as autocast casts them.
"""

import copy
import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...methods import losses
from ...methods.pairwise import PairLogps, PairwiseMethod
from ...models.four_bits import BLOCK, BYTES, FourBits
from ...models.gradient_checkpointing import Again
from ...models.layout import Layout, numbered
from ...models.layout import lay_out as place
from ...models.lora import Host, base_layers, check_no_experts, round_products, rounded_weights
from ...models.network import Kind, Network
from ...models.policy import Policy, TokenValues
from ...models.tuning import Tuning
from ...results.records import Ids
from ...runtime.sharding import decoder_layers
from ...training.reward_model import reward_model

GIB = 2**30
TRAINED, VALUE = 16, 4  # bytes a trained weight, with gradient and Adam's two moments in fp32; and its value alone
ROUNDED = 512  # bytes to which CUDA's allocator rounds each tensor up
FEW, MORE = 2, 4  # layers of the models that are counted for a larger one
VIEWS = frozenset(
    "detach view t transpose slice select unsqueeze expand split split_with_sizes _unsafe_view alias permute "
    "as_strided unbind squeeze lift_fresh empty new_empty empty_like new_empty_strided empty_strided".split()
)  # operations that launch nothing
PRODUCTS = (F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.bmm)


StepKind = Literal["sft", "reward_model", "pairs", "online", "online with critic"]


@dataclass(frozen=True)
class StepCost:
    """The cost of an optimizer step's largest pass on one device; bytes, FLOP and launches of that one pass."""

    trained: int
    """Trained weights with their gradients and Adam moments."""
    resident: int
    """These, and the weights of all frozen models in memory."""
    peak: int
    """The most at any moment, what is resident included."""
    tokens: int
    flop: int
    launches: int
    divided: int = 0
    """Of what is trained, what FSDP2 divides among processes: all, but adapters."""
    frozen: int = 0
    """The frozen models' layers, which it divides too."""
    gathered: int = 0
    """What it brings together in a pass with gradients: weights of two layers, the one at work and the next; of what is
    trained also a layer's gradient, and weights and gradient of what lies outside the layers."""
    whole: int = 0
    """The divided weights in the numbers of passes without gradients, for which they are whole in each process."""

    def on_each(self, devices: int, kind: StepKind) -> float:
        """Bytes on each of some devices at most, where FSDP2 divides weights; see `runtime/sharding.py`. Reckoned.

        A method's passes without gradients, that draw, score or look, go through whole weights of what it trains.
        """
        if devices == 1:
            return self.peak
        elsewhere = (self.divided + self.frozen) * (1 - 1 / devices)
        whole = 0 if kind in ("sft", "reward_model") else self.whole
        return max(self.peak + self.gathered, self.resident + whole) - elsewhere


class Live(TorchDispatchMode):
    """Bytes that are alive now and at most, and what was computed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flop = self.launches = 0
        self.seen: dict[int, int] = {}

    def follow(self, tensor: Any) -> None:
        """Count a tensor's storage until it is let go; those on the CPU belong to the host."""
        if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self.seen:
            self.seen[key] = size = -(-storage.nbytes() // ROUNDED) * ROUNDED
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.seen.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            self.follow(tensor)
        packet = func.overloadpacket
        if packet in flop_registry:
            self.flop += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        self.launches += packet.__name__ not in VIEWS
        return out


class Kernels(TorchFunctionMode):
    """Products and attention as CUDA makes them; in bf16 while a network's autocast is on."""

    def __init__(self, bf16: bool):
        super().__init__()
        self.bf16, self.depth, self.keeps = bf16, 0, True
        self.kept: dict[int, Tensor] = {}

    @contextmanager
    def autocast(self, keeps: bool) -> Iterator[None]:
        """keeps: a trained weight is cast once, and its cast kept until the end."""
        self.depth, self.keeps = self.depth + 1, keeps
        try:
            yield
        finally:
            self.depth -= 1
            self.kept.clear()

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (self.keeps and value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self.kept:
            self.kept[id(value)] = value.to(torch.bfloat16)
        return self.kept[id(value)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        casts = self.bf16 and self.depth
        if func is F.scaled_dot_product_attention:
            return _attention(*(self._cast(part) if casts else part for part in args), **kwargs)
        if casts and func in PRODUCTS:
            args, kwargs = tuple(map(self._cast, args)), {name: self._cast(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's choice on CUDA: flash takes no mask, and no fp32; the other kernel takes as many key heads as queries."""
    kernels = torch.ops.aten
    if attn_mask is None and query.dtype == torch.bfloat16:
        flash = kernels._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    if enable_gqa and key.shape[1] != query.shape[1]:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -torch.inf)
        bias = bias.expand(*query.shape[:3], key.shape[2])
    efficient = kernels._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]


class MetaNetwork(Network):
    """A network of the device meta."""

    kernels: Kernels

    def autocast(self, *, again: bool = False) -> Any:
        return self.kernels.autocast(keeps=not again)

    def _again(self, packed: bool) -> Again:
        before = super()._again(packed)

        @contextmanager
        def again() -> Iterator[None]:
            with before(), self.kernels, self.autocast(again=True):  # a backward pass turns them off
                yield

        return again


def build(
    config: Any, kind: Kind, tuning: Tuning, *, trainable: bool = True, beside: Network | None = None
) -> MetaNetwork:
    """The network that `open_network` makes of a folder with this configuration, without its numbers.

    beside: a network whose frozen model an adapter goes on as well.
    """
    from transformers import AutoModelForCausalLM

    tuning = replace(tuning, device="meta")
    host = beside._host if beside else None
    with torch.device("meta"):
        if host:
            model: Any = host.model
        else:
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
            if kind == "score" and not tuning.lora_rank:
                model.set_output_embeddings(nn.Identity())
                model.score = nn.Linear(config.get_text_config().hidden_size, 1, bias=False)
            if tuning.precision == "bf16" and (tuning.lora_rank or not trainable):
                round_products(model)
            if tuning.base_bits:
                _to_four_bits(model, torch.bfloat16 if tuning.precision == "bf16" else torch.float32)
            if tuning.lora_rank:
                host = Host(Path(), model.eval())
        adapter = host.add(tuning) if host else None
    network = MetaNetwork(model.eval(), kind, tuning, host, adapter)
    network.__dict__["packs"] = True
    if not trainable and not host:
        model.requires_grad_(False)
    return network


class _FourBits(FourBits):
    """A layer in 4 bits of the device meta; its scales lie with the weights."""

    def __init__(self, layer: nn.Linear, numbers: torch.dtype):
        shape = (layer.out_features, layer.in_features)
        packed = torch.empty(math.ceil(BYTES * layer.weight.numel()), dtype=torch.uint8, device="meta")
        super().__init__(packed, shape, layer.bias, numbers)

    def restored(self) -> Tensor:
        """As bitsandbytes does it, in three kernels: scales to fp32, their offset added, the weight by them."""
        blocks = self.out_features * self.in_features // BLOCK
        scales = torch.empty(blocks, dtype=torch.uint8, device="meta").float() + 1.0
        weight = torch.zeros(self.out_features, self.in_features, dtype=self.numbers, device="meta")
        del scales
        return weight


def _to_four_bits(model: Any, numbers: torch.dtype) -> None:
    """What `load_model` does to a base; numbers: of the products."""
    check_no_experts(model.config, "base_bits")
    for path in base_layers(model):
        model.set_submodule(path, _FourBits(model.get_submodule(path), numbers))


@dataclass(frozen=True)
class Step:
    """A training step to be counted: a pass of so many tokens, of rows with one prompt and one reply or two."""

    kind: StepKind
    tokens: int
    prompt: int
    reply: int
    method: PairwiseMethod | None = None
    """Of pairs, for its loss."""

    @property
    def replies(self) -> int:
        return 2 if self.kind in ("reward_model", "pairs") else 1

    @property
    def rows(self) -> int:
        return max(1, self.tokens // (self.prompt + self.replies * self.reply))

    def sequences(self) -> list[tuple[Ids, Ids]]:
        """All first replies, then all second ones."""
        prompts = [(i,) * self.prompt for i in range(self.rows)]
        return [(prompt, (n,) * self.reply) for n in range(self.replies) for prompt in prompts]


def step_cost(config: Any, tuning: Tuning, step: Step) -> StepCost:
    """Count a step with a model of this configuration.

    Where all layers are alike two models of a few layers are counted, and the others' share is that of these. (A peak
    that lies elsewhere with more layers, in a pass of few tokens, is missed by a few percent.)
    """
    text = config.get_text_config()
    layers, kinds = text.num_hidden_layers, set(getattr(text, "layer_types", None) or ())
    if layers <= MORE or len(kinds) > 1 or text is not config:
        return _counted(config, tuning, step)
    few, more = (_counted(_cut(config, count), tuning, step) for count in (FEW, MORE))
    times = (layers - FEW) / (MORE - FEW)

    def whole(name: str) -> int:
        return round(getattr(few, name) + times * (getattr(more, name) - getattr(few, name)))

    return StepCost(**{field.name: whole(field.name) for field in fields(StepCost)})


def _cut(config: Any, layers: int) -> Any:
    """The configuration with its first layers alone."""
    found = copy.deepcopy(config)
    found.num_hidden_layers = layers
    if getattr(found, "layer_types", None):
        found.layer_types = found.layer_types[:layers]
    return found


def _counted(config: Any, tuning: Tuning, step: Step) -> StepCost:
    live, kernels = Live(), Kernels(tuning.precision == "bf16")
    with_critic, is_online = step.kind == "online with critic", step.kind.startswith("online")
    first = build(config, "score" if step.kind == "reward_model" else "lm", tuning)
    beside = first if first._host else None
    trained = [first, *([build(config, "score", tuning, beside=beside)] if with_critic else [])]
    held = [*trained]
    if is_online:  # where there is a host, an adapter on it
        held.append(build(config, "score", tuning, trainable=False, beside=beside))
    if (is_online or step.kind == "pairs") and not beside:  # the reference; where there is a host, all adapters off
        held.append(build(config, "lm", tuning, trainable=False))
    layout = place(numbered(step.sequences()), "meta", share_prompts=True)
    with live, kernels:
        for weight in [p for network in held for p in (*network.model.parameters(), *network.parameters)]:
            live.follow(weight)
        moments = [torch.empty(2, p.numel(), device="meta") for network in trained for p in network.parameters]
        for network in trained:
            for parameter in network.parameters:
                parameter.grad = torch.zeros_like(parameter)  # of an earlier pass of the step
        resident, live.peak, live.flop, live.launches = live.now, live.now, 0, 0
        for network in trained:
            network.kernels = kernels
            _loss(network, layout, step).backward()
        del moments
    parts = [_Parts.of(network) for network in trained]
    models = {id(network.model): network for network in held}.values()
    return StepCost(
        trained=sum(TRAINED * p.numel() for network in trained for p in network.parameters),
        resident=resident,
        peak=live.peak,
        divided=sum(each.divided for each in parts),
        frozen=sum(_frozen(network) for network in models),
        gathered=max(each.gathered for each in parts),
        whole=sum(each.whole for each in parts),
        tokens=len(layout.ids),
        flop=live.flop,
        launches=live.launches,
    )


@dataclass(frozen=True)
class _Parts:
    """Bytes of a network that is trained, as in `StepCost`."""

    divided: int
    gathered: int
    whole: int

    @classmethod
    def of(cls, network: Network) -> "_Parts":
        layer = [
            p for p in decoder_layers(network.model)[0].parameters() if network._host is None or not p.requires_grad
        ]
        if network._host:
            return cls(0, 2 * _bytes(layer), 0)
        rounded = {id(p) for p in rounded_weights(network.model)} if network.tuning.precision == "bf16" else set()

        def in_passes(weights: Iterable[Tensor]) -> int:
            return sum(p.numel() * (2 if id(p) in rounded else VALUE) for p in weights)

        in_layers = {id(p) for each in decoder_layers(network.model) for p in each.parameters()}
        outside = [p for p in network.parameters if id(p) not in in_layers]
        return cls(
            divided=sum(TRAINED * p.numel() for p in network.parameters),
            gathered=2 * in_passes(layer) + _bytes(layer) + 2 * _bytes(outside),
            whole=in_passes(network.parameters),
        )


def _frozen(network: Network) -> int:
    """Bytes of a model's layers that are not trained."""
    return sum(_bytes(p for p in layer.parameters() if not p.requires_grad) for layer in decoder_layers(network.model))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _loss(network: Network, layout: Layout, step: Step) -> Tensor:
    """The loss of a pass; what a method has before it begins is as long as it would be."""
    is_online = step.kind.startswith("online")
    if network.kind == "score":
        if is_online:
            states = network.hidden(layout, layout.before)
            values = TokenValues.spread(network.head(states.float())[:, 0], layout.mask).values
            return losses.ppo_value(values, values.detach(), values.detach(), layout.mask, clip=0.2)
        chosen, rejected = network.head(network.hidden(layout, layout.last).float())[:, 0].chunk(2)
        return reward_model(chosen, rejected).sum()
    logps = Policy(network, None).logps(layout)
    if is_online:
        old = logps.values.detach()
        return losses.ppo_policy(logps.values, old, old, layout.mask, clip=0.2)
    if step.method is None:
        return -logps.sum().sum()
    n = len(layout.last) // 2
    sides = [TokenValues(logps.values[part], logps.mask[part]) for part in (slice(n), slice(n, None))]
    reference = torch.empty(n, device="meta")
    return step.method.loss(PairLogps(sides[0], sides[1], reference, reference, None)).sum()
