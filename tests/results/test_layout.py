"""Rows that share a prompt give the states of rows of their own; passes cost least; running out of memory."""

import itertools

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from alignment_bench.methods.loop import Optimizer
from alignment_bench.methods.policy import Policy
from alignment_bench.results.checkpoint import Checkpoint, OutOfMemory, Tuning
from alignment_bench.results.layout import families, lay_out, micro_batches

LONG, OTHER, SHORT = (0, *range(10, 21)), (0, *range(30, 38)), (0, 9)
SEQUENCES = [
    (LONG, (40, 41, 42, 1)),
    (OTHER, (50, 51, 1)),
    (LONG, (43, 1)),
    (SHORT, (60, 1)),
    (OTHER, (52, 53, 54, 55, 1)),
    (SHORT, (61, 62, 1)),
    (LONG, (44, 45, 46, 47, 48, 1)),
]


def test_who_shares_a_row():
    """Prompts of fewer than 8 tokens are not worth it, and the fifth response begins another row."""
    assert families(SEQUENCES, share=True) == [[0, 2, 6], [1, 4], [3], [5]]
    assert families(SEQUENCES, share=False) == [[i] for i in range(7)]
    assert families([(LONG, (1,))] * 5, share=True) == [[0, 1, 2, 3], [4]]


def test_a_shared_row_by_hand():
    """Prompt of 8 tokens, responses of 2 and 1: the second starts at position 8 again and sees prompt and itself."""
    prompt = tuple(range(8))
    layout = lay_out([(prompt, (20, 21)), (prompt, (30,))], "cpu", share=True)
    assert layout.ids.tolist() == [[*range(8), 20, 21, 30]]
    assert layout.positions.tolist() == [[*range(8), 8, 9, 8]]
    assert layout.before == ([0, 0, 0], [7, 8, 7])
    assert layout.last == ([0, 0], [9, 10])
    seen = layout.attention()[0, 0]
    assert seen[10].nonzero()[:, 0].tolist() == [*range(8), 10]
    assert seen[9].nonzero()[:, 0].tolist() == [*range(8), 8, 9]
    assert seen[3].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    longer = lay_out([(prompt, (20, 21)), (prompt, (30,))], "cpu", share=True, with_prompt=[1])
    assert longer.targets.tolist() == [20, 21, 1, 2, 3, 4, 5, 6, 7, 30]
    assert longer.before[1] == [7, 8, 0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("with_prompt", [(), (0, 2)])
@pytest.mark.parametrize("chosen", [range(7), [0, 2, 6], [6, 0, 4, 2, 1]])
def test_shared_rows_give_the_log_probs_and_gradients_of_plain_ones(tiny, tuning, chosen, with_prompt):
    policy = Policy.open(tiny, tuning, trainable=True)
    with torch.no_grad():
        for parameter in policy.network.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    assert policy.network.shares_prompts
    sequences, found = [SEQUENCES[i] for i in chosen], []
    for share in (True, False):
        policy.network.shares_prompts = share
        logps = policy.logps(sequences, with_prompt=with_prompt)
        (logps.values * torch.arange(1, logps.values.shape[1] + 1)).sum().backward()
        found.append((logps.values.detach(), logps.mask, [p.grad.clone() for p in policy.network.parameters]))
        for parameter in policy.network.parameters:
            parameter.grad = None
    (shared, mask, gradients), (plain, plain_mask, plain_gradients) = found
    more = sum(len(sequences[i][0]) - 1 for i in with_prompt)
    assert torch.equal(mask, plain_mask) and mask.sum() == more + sum(len(response) for _, response in sequences)
    assert (shared - plain).abs().max() < 1e-4
    scale = max(float(g.abs().max()) for g in plain_gradients)
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * scale
    policy.network.close()


def test_architectures_are_tried_before_rows_are_shared(tiny, full, tmp_path):
    """GPT-2's learnt positions can be given; a sliding window would run on from response to response."""
    sizes = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **sizes))
    mistral = MistralForCausalLM(
        MistralConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=16,
            **sizes,
        )
    )
    shares = {}
    for name, model in (("gpt2", gpt2), ("mistral", mistral)):
        model.save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
        policy = Policy.open(Checkpoint(tmp_path / name, name), full, trainable=True)
        shares[name] = policy.network.shares_prompts
        alone = torch.cat([policy.total_logps([s]) for s in SEQUENCES])
        assert torch.allclose(policy.total_logps(SEQUENCES), alone, atol=1e-4)
    assert shares == {"gpt2": True, "mistral": False}


def cost(groups, lengths, overhead):
    return sum(len(g) * max(lengths[i] for i in g) + overhead for g in groups)


@pytest.mark.parametrize("overhead, tokens", [(0.5, 100), (3, 100), (20, 100), (3, 24), (1000, 30)])
def test_passes_are_cut_where_they_cost_least(overhead, tokens):
    """Against every way to put six rows into groups (set partitions), within the limit."""
    lengths = [7, 3, 12, 4, 11, 3]
    found = micro_batches(lengths, tokens, overhead)
    assert sorted(i for g in found for i in g) == list(range(6))
    best = min(
        cost(groups, lengths, overhead)
        for labels in itertools.product(range(6), repeat=6)
        for groups in [[[i for i in range(6) if labels[i] == k] for k in set(labels)]]
        if all(len(g) * max(lengths[i] for i in g) <= tokens for g in groups)
    )
    assert cost(found, lengths, overhead) == pytest.approx(best)


def test_a_row_longer_than_the_limit_goes_alone():
    assert micro_batches([50, 2, 3], 10, 1.0) == [[1, 2], [0]]


class Short:
    """A device that holds so many rows at once: more of them raise what torch raises."""

    def __init__(self, policy, rows, message="DefaultCPUAllocator: can't allocate memory: you tried to allocate"):
        self.hidden, self.rows, self.message, self.failures = policy.network.hidden, rows, message, 0
        policy.network.hidden = self

    def __call__(self, layout):
        if len(layout.ids) > self.rows:
            self.failures += 1
            raise RuntimeError(self.message)
        return self.hidden(layout)


def test_out_of_memory_once_gives_the_same_results_in_smaller_passes(tiny, full):
    """Scores, and the weights after a step on the summed loss."""
    ends = []
    for rows in (100, 2):
        policy = Policy.open(tiny, full, trainable=True)
        short = Short(policy, rows)
        totals = policy.total_logps(SEQUENCES)
        optimizer = Optimizer(policy.network, lr=1e-2, total_steps=2)

        def losses(policy=policy):
            for group in policy.network.groups(SEQUENCES):
                yield -policy.logps([SEQUENCES[i] for i in group]).sum().sum() / 7

        outcome = optimizer.step(losses)
        ends.append((totals, outcome["loss"], [p.detach().clone() for p in policy.network.parameters]))
        assert (short.failures > 0) == (rows == 2)
    assert torch.allclose(ends[0][0], ends[1][0], atol=1e-4)
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-4)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ends[0][2], ends[1][2], strict=True))


def test_out_of_memory_always_ends_in_one_sentence(tiny):
    policy = Policy.open(tiny, Tuning(precision="fp32", device="cpu", micro_tokens=16), trainable=True)
    assert policy.network.shares_prompts
    Short(policy, 0)
    with pytest.raises(OutOfMemory, match="out of memory with one row at a time: shorten the rows"):
        policy.total_logps(SEQUENCES)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny, full):
    policy = Policy.open(tiny, full, trainable=True)
    assert policy.network.shares_prompts
    short = Short(policy, 0, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        policy.total_logps(SEQUENCES)
    assert short.failures == 1
