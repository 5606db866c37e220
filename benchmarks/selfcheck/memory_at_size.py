"""Memory, FLOP and launches of a training step from 0.5B to 70B weights, counted without a GPU.

`python -m alignment_bench.benchmarks.selfcheck.memory_at_size` writes memory.json and the page derived from it,
memory.md. Every figure is a count on tensors without data (`benchmarks/cost/step_cost.py`): none was measured on a GPU.
"""

import argparse
import dataclasses
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...models.tuning import Tuning
from ..cost.model_sizes import SIZES, configuration
from ..cost.reckoning import KINDS
from ..cost.step_cost import GIB, Step, StepCost, step_cost

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
RANK = 32
WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {"lora_rank": RANK, "lora_alpha": 2.0 * RANK},
    "QLoRA": {"lora_rank": RANK, "lora_alpha": 2.0 * RANK, "base_bits": 4},
    "full": {},
}
QLORA = ("7B",)  # the sizes for which that is counted
LENGTH = 256  # tokens of a prompt, and of a reply
TOKENS = {"0.5B": 16384}  # of a pass, as benchmarks/suites/ultrafeedback.yaml asks
OTHER = 8192
DEVICES = 8


def count(size: str, way: str, name: str, *, again: bool) -> StepCost:
    """The cost of a step in bf16; way: of `WAYS`; again: with gradient checkpointing."""
    kind, method = KINDS[name]
    tuning = Tuning(**WAYS[way], precision="bf16", gradient_checkpointing=again)
    step = Step(kind, TOKENS.get(size, OTHER), LENGTH, LENGTH, method)
    return step_cost(configuration(size), tuning, step)


def page(found: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    lines = [
        "# Memory of a training step",
        "",
        "Peak GiB of one pass of a step on one device: all models in memory, gradients and Adam's moments included; "
        f"bf16 products, LoRA of rank {RANK}, prompts and replies of {LENGTH} tokens. Counted tensor by "
        "tensor on tensors without data through this package's own code, not measured on a GPU; the allocator's "
        f"fragments and the kernels' workspaces come on top. {packages}; {found['date']}. Derived from memory.json by "
        "`benchmarks/selfcheck/memory_at_size.py`.",
        "",
        "QLoRA: the frozen base's linear layers in 4 bits, but for the output layer (`tuning.base_bits: 4`), "
        "which FSDP2 does not divide.",
        "",
        f"Each of {DEVICES}: reckoned from the count with checkpointing, where FSDP2 divides trained weights, "
        "gradients and moments, and the layers of frozen models, LoRA's base among them. Adapters, frozen embeddings "
        "and heads are whole in each; on top comes what is brought together for a pass, or, where that is more, the "
        "whole weights with which a fully trained model draws, scores or is looked at.",
        "",
        "| model | weights | method | tokens | held throughout | peak | peak with gradient checkpointing | each of 8 "
        "| TFLOP | with checkpointing | launches | with checkpointing |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["steps"]:
        kept, again = row["kept"], row["again"]
        divided = StepCost(**again).on_each(DEVICES, KINDS[row["method"]][0])
        gib = [f"{n / GIB:.1f}" for n in (kept["resident"], kept["peak"], again["peak"], divided)]
        figures = [f"{kept['tokens']:,}", *gib[:-1], "not divided" if row["way"] == "QLoRA" else gib[-1]]
        figures += [f"{each['flop'] / 1e12:,.0f}" for each in (kept, again)]
        figures += [f"{each['launches']:,}" for each in (kept, again)]
        lines.append(f"| {row['size']} | {row['way']} | {row['method']} | " + " | ".join(figures) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a training step at sizes from 0.5B to 70B.")
    parser.add_argument("--out", type=Path, default=PUBLISHED, help="folder of memory.json and memory.md")
    parser.add_argument("--sizes", nargs="+", default=[*SIZES])
    asked = parser.parse_args()
    steps = []
    for size in asked.sizes:
        for way in WAYS:
            for name in KINDS if way != "QLoRA" or size in QLORA else ():
                both = {key: count(size, way, name, again=again) for key, again in (("kept", False), ("again", True))}
                steps.append(
                    {"size": size, "way": way, "method": name} | {k: dataclasses.asdict(v) for k, v in both.items()}
                )
                print(size, way, name, *(f"{each.peak / GIB:.1f}" for each in both.values()), flush=True)
    found = {
        "steps": steps,
        "packages": {name: version(name) for name in ("torch", "transformers", "peft")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "memory.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (asked.out / "memory.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
