"""Brute force for the tests of trainings: plain transformers' logits one response at a time, and PyTorch's AdamW."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from alignment_bench.models.sampler import Sample


def logps(model, prompt, response, temperature=1.0) -> Tensor:
    """Log-probs [tokens] of a response from one pass of a transformers model over nothing else."""
    table = (model(input_ids=torch.tensor([[*prompt, *response]])).logits[0] / temperature).log_softmax(-1)
    return torch.stack([table[len(prompt) - 1 + i, token] for i, token in enumerate(response)])


def rate(step: int, total: int, rising: int) -> float:
    """Share of the peak learning rate: 1/rising, 2/rising, ... 1, then straight down, to be 0 after the last step."""
    return (step + 1) / rising if step < rising else (total - step) / (total - rising)


class Learner:
    """PyTorch's AdamW on groups (weights, peak rate), with the gradient cut to a norm and the rate set by hand."""

    def __init__(self, *groups, total, rising=1, epsilon=1e-8, max_norm=1.0, decay=0.0):
        self.total, self.rising, self.max_norm, self.done = total, rising, max_norm, 0
        self.adam = torch.optim.AdamW([{"params": p, "lr": lr} for p, lr in groups], eps=epsilon, weight_decay=decay)
        self.peaks = [lr for _, lr in groups]

    def step(self, loss: Tensor) -> float:
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in self.adam.param_groups for p in group["params"]], self.max_norm)
        for group, peak in zip(self.adam.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate(self.done, self.total, self.rising)
        self.adam.step()
        self.done += 1
        return float(loss.detach())


def ended(samples: list[Sample]) -> list[Sample]:
    """Every second response cut short and ended with EOS, so that lengths differ and some lack EOS.

    The cut ones come without the log-probs of their drawing.
    """
    return [
        s if i % 2 or s.finished else Sample(s.prompt, (*s.ids[: 1 + i % 4], 1), True) for i, s in enumerate(samples)
    ]


def same_moves(start, found, expected, *, rel=2e-3) -> None:
    """Assert that weights went from start to where they were expected, by their largest move, and that they did."""
    moves = [(b.detach() - a.detach(), c.detach() - a.detach()) for a, b, c in zip(start, found, expected, strict=True)]
    largest = max(float(wanted.abs().max()) for _, wanted in moves)
    assert largest > 1e-3
    assert max(float((move - wanted).abs().max()) for move, wanted in moves) < rel * largest


@pytest.fixture(scope="session")
def plain():
    """The brute force of this file."""
    return SimpleNamespace(logps=logps, rate=rate, Learner=Learner, ended=ended, same_moves=same_moves)
