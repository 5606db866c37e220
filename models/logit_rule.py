"""The last step to logits that some architectures take behind the output layer: a factor, then a soft cap."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FACTORS = ("logit_scale", "lm_head_multiplier")  # names in configurations: Cohere, Falcon-H1
DIVISORS = ("logits_scaling",)  # Granite
CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma, RecurrentGemma


@dataclass(frozen=True)
class LogitRule:
    """logits -> cap * tanh(factor * logits / cap), without a cap factor * logits."""

    factor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> "LogitRule":
        """By a model's configuration; that it says all is checked when the model is loaded."""
        text = config.get_text_config()
        found = {name: getattr(text, name, None) for name in (*FACTORS, *DIVISORS, *CAPS)}
        factors = [
            value if name in FACTORS else 1 / value for name, value in found.items() if value and name not in CAPS
        ]
        return cls(factors[0] if factors else 1.0, next((found[name] for name in CAPS if found[name]), None))

    def __call__(self, logits: Tensor) -> Tensor:
        if self.factor != 1:
            logits = logits * self.factor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)
