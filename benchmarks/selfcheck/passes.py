"""The part of a comparison that is computed twice: `python -m alignment_bench.benchmarks.selfcheck.passes`.

Runs `quick` with three methods and three seeds in a folder of its own, and counts the tokens that go through a model.
A pass is needed the first time that a text goes through these very weights; a second time it is not. Training passes
and sampling are always needed. Prints JSON.
"""

import contextlib
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.models.llama import LlamaModel

from ...runtime.quiet import quiet
from ..definition.spec import load_spec
from ..harness import run
from ..request import Request
from .speed import listening


@dataclass
class Passes:
    """Tokens of real text, padding left out, by what they were for."""

    trained: int = 0
    sampled: int = 0
    scored: int = 0
    """Passes without gradients that are no sampling."""
    again: int = 0
    """Of them, texts that had gone through the same weights before."""
    seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def executed_over_ideal(self) -> float:
        executed = self.trained + self.sampled + self.scored
        return executed / (executed - self.again)

    def count(
        self,
        model: LlamaModel,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool = False,
        **more: Any,
    ) -> None:
        """A forward pass of ids [rows, time], padded or packed.

        Packed are all sequences in one row: positions begin at 0 with each prompt, and go back to its end with each
        further response to it.
        """
        if use_cache:
            self.sampled += ids.numel() if mask is None or mask.shape[-1] != ids.shape[1] else int(mask.sum())
            return
        real = mask.bool() if mask is not None and mask.ndim == 2 else torch.ones_like(ids, dtype=torch.bool)
        if torch.is_grad_enabled():
            self.trained += int(real.sum())
            return
        name = digest_of(model)
        for i, kept in enumerate(real):
            row = ids[i][kept].tolist()
            places = list(range(len(row))) if position_ids is None else position_ids[i][kept].tolist()
            starts = [j for j, place in enumerate(places) if place == 0]
            for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
                self._score(name, row[start:end], places[start:end])

    def _score(self, weights: str, family: list[int], places: list[int]) -> None:
        """A prompt and the responses to it went through these weights, without gradients."""
        starts = [j for j in range(1, len(family)) if places[j] != places[j - 1] + 1]
        shared = places[starts[0]] if starts else 0  # length of the prompt
        known = []
        for start, end in zip([shared, *starts], [*starts, len(family)], strict=True):
            text = json.dumps(family[:shared] + family[start:end])
            key = weights, hashlib.sha256(text.encode()).hexdigest()
            known.append(key in self.seen)
            self.again += (end - start) * known[-1]
            self.seen.add(key)
        self.scored += len(family)
        self.again += shared * all(known)


def digest_of(model: LlamaModel) -> str:
    """A hash of the weights as they are now; a fused optimizer changes them without a new version number."""
    found = hashlib.blake2b()
    for parameter in model.parameters():
        found.update(parameter.detach().cpu().numpy().data)
    return found.hexdigest()


@contextlib.contextmanager
def counted() -> Iterator[Passes]:
    """Counts what goes through Llamas meanwhile."""
    passes = Passes()
    with listening(passes.count):
        yield passes


def main() -> None:
    quiet()
    methods, seeds = ("ppo", "dpo", "orpo"), 3
    with tempfile.TemporaryDirectory() as folder, counted() as passes:
        spec = load_spec("quick", {}) if len(sys.argv) == 1 else load_spec(sys.argv[1], {})
        run(Request(spec, methods, seeds, Path(folder)))
    found: dict[str, Any] = {"benchmark": spec.name, "methods": methods, "seeds": seeds}
    found |= {name: getattr(passes, name) for name in ("trained", "sampled", "scored", "again")}
    found |= {"ratio": passes.executed_over_ideal, "machine": platform.platform()}
    found |= {"packages": {name: version(name) for name in ("torch", "transformers", "alignment-bench")}}
    print(json.dumps({**found, "date": datetime.now(UTC).date().isoformat()}, indent=2))


if __name__ == "__main__":
    main()
