"""A prompt's response depends on the seed and its index alone."""

import itertools

import pytest
from scipy import stats

from alignment_bench.methods.base import Prompt
from alignment_bench.methods.policy import Policy
from alignment_bench.methods.rollout import sample, uniforms

# lengths differ, and prompts repeat, as they do where a method compares several responses to one
PROMPTS = [Prompt(str(i), (), tuple(range(5, 7 + i % 5))) for i in range(20)]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_do_not_change_responses(tiny, full, batch_size):
    policy = Policy.open(tiny, full, trainable=False)
    whole = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=4, batch_size=batch_size) == whole
    assert len({s.ids for s in whole}) == len(PROMPTS)  # equal prompts get different responses


def test_some_rows_get_the_responses_that_they_get_among_all(tiny, full):
    policy = Policy.open(tiny, full, trainable=False)
    whole = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=4, rows=[13, 2, 7]) == [whole[13], whole[2], whole[7]]
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=4, rows=[]) == []
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=5) != whole


def test_uniforms_are_uniform_and_streams_are_independent():
    """Kolmogorov-Smirnov against the uniform distribution; no correlation of neighbouring seeds and indices."""
    streams = {key: uniforms(*key, 4000) for key in itertools.product((0, 1, 2**40), (0, 1, 2))}
    for numbers in streams.values():
        assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-4
    for one, other in itertools.combinations(streams.values(), 2):
        assert abs(stats.pearsonr(one.numpy(), other.numpy()).statistic) < 5 / 4000**0.5
    across = [float(uniforms(3, i, 1)) for i in range(4000)]  # the first number of neighbouring rows
    assert stats.kstest(across, "uniform").pvalue > 1e-4
    assert uniforms(3, 1, 10).equal(uniforms(3, 1, 20)[:10])
