"""The policies of a run: where each lies in the run's folder, and the lines of Python that load it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..results.adapters import base_of, is_adapter
from ..results.run_folder import Cell
from ..results.store import POLICY


def base_bits_of(record: Mapping[str, Any]) -> int | None:
    """Bits a weight of the base in a run's trainings; None where they were not set."""
    return record.get("contract", {}).get("tuning", {}).get("base_bits")


def policies(cells: Sequence[Cell], run: Path) -> list[dict[str, Any]]:
    """Each cell's policy: method, seed, its folder from the run's, and of an adapter the base from there."""
    found = []
    for cell in cells:
        if (folder := cell.path / POLICY).is_dir():
            where = None
            if is_adapter(folder):
                base, here = Path(base_of(folder)), run.resolve()
                where = str(base.relative_to(here) if base.is_relative_to(here) else base)
            place = folder.relative_to(run).as_posix()
            found.append({"method": cell.method, "seed": cell.seed, "folder": place, "base": where})
    return found


def snippet(folder: str, base: str | None, base_bits: int | None = None) -> str:
    """Lines of Python that load a policy; base: of an adapter, a folder or a hub id; base_bits: of it in training."""
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if base is None:
        lines += [f"model = AutoModelForCausalLM.from_pretrained({folder!r})"]
    else:
        lines, more = ["from peft import PeftModel", *lines], ""
        if base_bits:  # as models/four_bits.py reads it
            lines[1] = "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig"
            given = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
            lines += [f"bits = BitsAndBytesConfig({given})"]
            more = ", quantization_config=bits"
        lines += [f"base = AutoModelForCausalLM.from_pretrained({base!r}{more})"]
        lines += [f"model = PeftModel.from_pretrained(base, {folder!r})"]
    return "\n".join([*lines, f"tokenizer = AutoTokenizer.from_pretrained({folder!r})"])
