"""`bench plan`: memory, time and dollars of trainings on GPUs that are not at hand."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from ...errors import InputError
from ...runtime.device import MICRO_TOKENS
from .terminal import console, duration, size, table


def plan(
    model: Annotated[
        str, typer.Option(help="0.5B, 1.5B, 7B, 70B, or a model: hub id or local folder.")
    ] = "7B",
    gpu: Annotated[str, typer.Option(help="rtx4090, l40s, a100, h100 or h200.")] = "h100",
    gpus: Annotated[int, typer.Option(help="GPUs that train one cell.", min=1)] = 1,
    lora_rank: Annotated[int, typer.Option(help="Rank of LoRA adapters; 0 trains every weight.", min=0)] = 32,
    base_bits: Annotated[
        int | None, typer.Option(help="4: the frozen base under LoRA lies in 4 bits (QLoRA).", min=4, max=4)
    ] = None,
    micro_tokens: Annotated[int, typer.Option(help="Most tokens in one forward pass.", min=1)] = MICRO_TOKENS,
    examples: Annotated[int, typer.Option(help="Examples that a method trains on.", min=1)] = 8000,
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt.", min=1)] = 256,
    reply: Annotated[int, typer.Option(help="Tokens of a reply.", min=1)] = 256,
    price: Annotated[float | None, typer.Option(help="Dollars an hour of one GPU.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON alone on stdout.")] = False,
) -> None:  # fmt: skip
    """Reckon the memory, time and dollars of SFT, a reward model, DPO, ORPO and PPO; no GPU is needed.

    Example: bench plan --model 7B --gpu h100 --gpus 8 --lora-rank 0 --price 2.50
    """
    from ...models.tuning import Tuning
    from ...runtime.quiet import quiet
    from ..cost.model_sizes import configuration_of
    from ..cost.reckoning import GPUS, LAUNCH, UTILIZATION, Amounts, gpu_of, reckon

    quiet()
    asked, config = gpu_of(gpu), configuration_of(model)
    if base_bits and not lora_rank:
        raise InputError("--base-bits 4 is for a frozen base; give --lora-rank, or leave it out")
    trained: dict[str, Any] = {"lora_rank": lora_rank, "lora_alpha": 2 * lora_rank or 1, "base_bits": base_bits}
    tuning = Tuning(**trained, precision="bf16", micro_tokens=micro_tokens)
    found = reckon(config, tuning, Amounts(examples, prompt, reply), asked, gpus, price)
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in found], indent=2))
        return
    to = console()
    heads = ("method", "memory of a GPU", "fits", "gradient checkpointing", "time, at least", "dollars, at least")
    rows = [
        (
            row.method,
            size(row.memory),
            "yes" if row.fits else "no",
            "on" if row.checkpointing else "off",
            duration(3600 * row.hours) if row.fits else "",
            f"{row.dollars:,.2f}" if row.fits and row.dollars is not None else "",
        )
        for row in found
    ]
    way = "QLoRA" if base_bits else "LoRA" if lora_rank else "full"
    title = f"{model}, {way}, on {gpus} x {gpu} ({GPUS[gpu].memory} GiB)"
    to.print(table(heads, rows, title=title, right=heads[4:]))
    to.print(
        f"Reckoned, nothing was measured: memory, FLOP and kernel launches of a step are counted on tensors without "
        f"data; time takes {UTILIZATION:.0%} of the GPU's bf16 rate and {1e6 * LAUNCH:.0f} us a launch, whichever is "
        f"longer, and for PPO's responses the time to read the weights once a token. Left out: evaluation, and what "
        f"GPUs send each other and wait for.",
        soft_wrap=True,
    )
