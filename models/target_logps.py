"""Log-probabilities of given tokens from hidden states; of the vocabulary no more is held than has to be."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..runtime.device import constants


class TargetLogps(torch.autograd.Function):
    """log softmax(states @ weight.T + bias)[target], in fp32 whatever the weights are in.

    The gradient for the logits, onehot(target) - softmax, is written where the logits were: they are held once, and
    nothing else that is as large; or they are computed again in the backward pass, a piece at a time, and not held.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        again: bool = False,
    ) -> Tensor:
        """states [rows, width], weight [vocabulary, width], bias [vocabulary], targets [rows] -> [rows].

        again: compute the logits again in the backward pass and hold none.
        """
        pieces, trained = constants(states.device.type), any(ctx.needs_input_grad)
        rows = max(pieces.head_rows, pieces.head_numbers // len(weight))
        kept = states.new_empty(len(states), len(weight)) if trained and not again else None
        places: Sequence[Tensor | None] = [None] * len(states) if kept is None else kept.split(rows)
        found, wholes = [], []
        for part, tokens, place in zip(states.split(rows), targets.split(rows), places, strict=False):
            logits = _logits(part, weight, bias, place)
            logits = logits.float() / temperature if temperature != 1 else logits.float()
            wholes.append(logits.logsumexp(1))
            found.append(logits.gather(1, tokens[:, None])[:, 0] - wholes[-1])
        if trained:
            ctx.save_for_backward(states, weight, bias, targets, torch.cat(wholes))
            ctx.rows, ctx.kept, ctx.temperature = rows, kept, temperature
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        states, weight, bias, *each = ctx.saved_tensors
        for_states, for_weight, for_bias = ctx.needs_input_grad[:3]
        kept, ctx.kept = ctx.kept, None
        states_grad = torch.empty_like(states) if for_states else None
        weight_grad, bias_grad = (  # sums of pieces, so in fp32
            torch.zeros_like(one, dtype=torch.float32) if wanted and kept is None else None
            for one, wanted in ((weight, for_weight), (bias, for_bias))
        )
        targets, wholes, slopes = (one.split(ctx.rows) for one in (*each, grad / ctx.temperature))
        parts = states.split(ctx.rows)
        for i, place in enumerate([None] * len(parts) if kept is None else kept.split(ctx.rows)):
            place = _logits(parts[i], weight, bias) if place is None else place
            logits = place.float() / ctx.temperature if ctx.temperature != 1 else place.float()
            logits.sub_(wholes[i][:, None]).exp_().mul_(-slopes[i][:, None])
            place.copy_(logits.scatter_add_(1, targets[i][:, None], slopes[i][:, None]))
            if states_grad is not None:
                torch.mm(place, weight, out=states_grad[i * ctx.rows : i * ctx.rows + len(place)])
            if weight_grad is not None:
                weight_grad += place.T @ parts[i]
            if bias_grad is not None:
                bias_grad += place.sum(0)
            del place, logits
        if kept is not None:
            weight_grad = kept.T @ states if for_weight else None
            bias_grad = kept.sum(0) if for_bias else None
        return states_grad, weight_grad, bias_grad, None, None, None


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    logits = torch.mm(states, weight.T, out=out)
    return logits if bias is None else logits.add_(bias)
