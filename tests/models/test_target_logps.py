"""Log-probs of given tokens and their gradients, piece by piece, against autograd through a plain log-softmax."""

from dataclasses import replace

import pytest
import torch

from alignment_bench.models import network
from alignment_bench.models.policy import Policy
from alignment_bench.models.target_logps import TargetLogps
from alignment_bench.runtime.device import CONSTANTS


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("numbers, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_values_and_gradients(numbers, tolerance, with_bias, temperature, monkeypatch):
    """Seven rows in pieces of three, the last of one."""
    monkeypatch.setitem(CONSTANTS, "cpu", replace(CONSTANTS["cpu"], head_rows=3, head_numbers=1))
    random = torch.Generator().manual_seed(0)
    shapes = [(7, 8), (50, 8), (50,)][: 2 + with_bias]
    given = [torch.randn(shape, generator=random).to(numbers).requires_grad_() for shape in shapes]
    plain = [each.detach().float().requires_grad_() for each in given]
    targets, slopes = torch.tensor([0, 49, 3, 3, 7, 20, 11]), torch.arange(-3.0, 4.0)

    found = TargetLogps.apply(given[0], given[1], given[2] if with_bias else None, targets, temperature)
    logits = (plain[0] @ plain[1].T + (plain[2] if with_bias else 0)) / temperature
    expected = logits.log_softmax(1)[range(7), targets]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=10 * tolerance)
    (found * slopes).sum().backward()
    (expected * slopes).sum().backward()
    for ours, theirs in zip(given, plain, strict=True):
        assert (ours.grad.float() - theirs.grad).norm() <= tolerance * theirs.grad.norm()


def test_without_gradients_a_trainable_head_keeps_no_logits(tiny, full, monkeypatch):
    policy = Policy.open(tiny, full, trainable=True)
    asked = []

    class Seen(TargetLogps):
        @staticmethod
        def forward(ctx, *tensors):
            asked.append(any(ctx.needs_input_grad))
            return TargetLogps.forward(ctx, *tensors)

    monkeypatch.setattr(network, "TargetLogps", Seen)
    policy.total_logps([((5, 6), (7, 1))])
    policy.logps([((5, 6), (7, 1))])
    assert asked == [False, True]
