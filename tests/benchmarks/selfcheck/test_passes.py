"""Passes computed twice, counted by hand."""

import torch

from alignment_bench.benchmarks.selfcheck.passes import counted
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning

PROMPT = tuple(range(10, 20))


def test_a_text_that_goes_through_the_same_weights_again_is_not_needed(tiny):
    policy = Policy.open(tiny, Tuning(precision="fp32", device="cpu"), trainable=True)
    assert policy.network.packs
    one, other, third = ((PROMPT, (20, 21, 1)), (PROMPT, (30, 1)), (PROMPT, (40, 41, 42, 1)))
    with counted() as passes:
        policy.total_logps([one, other])
        assert (passes.scored, passes.again) == (10 + 3 + 2, 0)
        policy.total_logps([other, third])  # the prompt is needed for the third
        assert (passes.scored, passes.again) == (15 + 10 + 2 + 4, 2)
        policy.total_logps([one])
        assert (passes.scored, passes.again) == (31 + 13, 2 + 13)
        policy.logps([one]).sum().sum().backward()
        assert (passes.trained, passes.scored) == (13, 44)
        with torch.no_grad():
            policy.network.parameters[0].add_(1.0)  # other weights
        policy.network.model.zero_grad()
        policy.total_logps([one])
        assert (passes.scored, passes.again) == (44 + 13, 15)
    assert passes.executed_over_ideal == (57 + 13) / (57 + 13 - 15)
