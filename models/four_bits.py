"""A frozen base in 4 bits under LoRA adapters: QLoRA, Dettmers et al. (2023, arXiv:2305.14314).

bitsandbytes (an extra) rounds the weights and restores them: to the 16 levels of NF4 in blocks of 64, whose scales are
themselves in 8 bits in blocks of 256 (double quantization). The layers that adapters go on are in 4 bits; embeddings,
norms and the output layer are not. Rounding has no chance in it: equal weights become equal bits.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel


BLOCK, SCALES = 64, 256  # weights with one scale, and scales with one of their own, in fp32
BYTES = 1 / 2 + (1 + 4 / SCALES) / BLOCK  # a weight, its part of the scales included
RESTORED = BYTES + 2 + 2  # bytes that a product in bf16 moves for a weight: it is read, written whole, and read again


class FourBits(nn.Linear):
    """A frozen linear layer whose weight lies in 4 bits, and is restored for each product and let go after it."""

    def __init__(self, packed: Tensor, shape: tuple[int, int], bias: Tensor | None, numbers: torch.dtype):
        """packed: two weights a byte; shape: of the weight, [out, in]; numbers: of the products."""
        nn.Module.__init__(self)  # nn.Linear's own would make a whole weight
        self.out_features, self.in_features = shape
        self.numbers = numbers
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)  # type: ignore[assignment]
        self.state: Any = None
        """Scales of the blocks, in the form of bitsandbytes."""
        self.lies_across = False
        """The plain model has the weight the other way round, [in, out]."""

    def restored(self) -> Tensor:
        """The weight [out, in], in the numbers of the products."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.weight.data, self.state).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x.to(self.numbers), self)


class _Product(torch.autograd.Function):
    """The product of x [..., in] with a layer's weight; restored once more in the backward pass, and not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBits) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.restored(), None if layer.bias is None else layer.bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.restored(), None


def settings(whole: Iterable[str]) -> "BitsAndBytesConfig":
    """transformers' way to read linear layers in 4 bits, one after another; whole: names of those that stay whole."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=[*whole],
    )


def take_over(model: "PreTrainedModel", numbers: torch.dtype) -> None:
    """Put our layers in the place of those of bitsandbytes, which give back fp32 under autocast.

    peft and transformers then take the model for one like any other.
    """
    from bitsandbytes.nn import Linear4bit

    for path, module in [*model.named_modules()]:
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            layer = FourBits(module.weight.data, tuple(state.shape), module.bias, numbers)
            # blocks run on over rows; bitsandbytes 0.50.2 restores them on a CPU as if each row began one
            state.shape, state.dtype = torch.Size([state.shape.numel()]), numbers
            layer.state, layer.lies_across = state, module.source_cls is not nn.Linear
            model.set_submodule(path, layer)
    model.hf_quantizer.remove_quantization_config(model)
    model.is_loaded_in_4bit = False


def weights_of(model: nn.Module) -> int:
    """Weights of a model, those in 4 bits counted one by one."""
    held = sum(p.numel() for p in model.parameters())
    layers = [module for module in model.modules() if isinstance(module, FourBits)]
    return held + sum(layer.out_features * layer.in_features - layer.weight.numel() for layer in layers)
