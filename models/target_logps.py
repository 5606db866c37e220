"""Log-probabilities of given tokens from hidden states; of the vocabulary no more is held than has to be."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of so many rows, or so many numbers if that is more, are worked on while they lie in the processor's caches.
ROWS, NUMBERS = 128, 2**20


class TargetLogps(torch.autograd.Function):
    """log softmax(states @ weight.T + bias)[target], in fp32 whatever the weights are in.

    The gradient for the logits, onehot(target) - softmax, is written where the logits were: they are held once, and
    nothing else that is as large.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> Tensor:
        """states [rows, width], weight [vocabulary, width], bias [vocabulary], targets [rows] -> [rows]."""
        rows, trained = max(ROWS, NUMBERS // len(weight)), any(ctx.needs_input_grad)
        kept = states.new_empty(len(states), len(weight)) if trained else None
        places: Sequence[Tensor | None] = [None] * len(states) if kept is None else kept.split(rows)
        found, wholes = [], []
        for part, tokens, place in zip(states.split(rows), targets.split(rows), places, strict=False):
            logits = torch.mm(part, weight.T, out=place)
            if bias is not None:
                logits += bias
            logits = logits.float() / temperature if temperature != 1 else logits.float()
            wholes.append(logits.logsumexp(1))
            found.append(logits.gather(1, tokens[:, None])[:, 0] - wholes[-1])
        if trained:
            ctx.save_for_backward(states, weight, targets, torch.cat(wholes))
            ctx.rows, ctx.kept, ctx.temperature = rows, kept, temperature
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        states, weight, *each = ctx.saved_tensors
        for_states, for_weight, for_bias = ctx.needs_input_grad[:3]
        kept, ctx.kept = ctx.kept, None
        states_grad = torch.empty_like(states) if for_states else None
        targets, wholes, slopes = (one.split(ctx.rows) for one in (*each, grad / ctx.temperature))
        for i, place in enumerate(kept.split(ctx.rows)):
            logits = place.float() / ctx.temperature if ctx.temperature != 1 else place.float()
            logits.sub_(wholes[i][:, None]).exp_().mul_(-slopes[i][:, None])
            place.copy_(logits.scatter_add_(1, targets[i][:, None], slopes[i][:, None]))
            if states_grad is not None:
                torch.mm(place, weight, out=states_grad[i * ctx.rows : i * ctx.rows + len(place)])
        weight_grad = kept.T @ states if for_weight else None
        return states_grad, weight_grad, kept.sum(0) if for_bias else None, None, None
