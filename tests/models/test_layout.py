"""Packed sequences give the states of rows of their own; passes cost least; running out of memory."""

import itertools
import re

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from alignment_bench.errors import InputError
from alignment_bench.models import packed_attention
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.layout import families, lay_out, numbered
from alignment_bench.models.micro_batches import OutOfMemory, cheapest_groups, micro_batches
from alignment_bench.models.packed_attention import Row, pack
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning
from alignment_bench.training.loop import Optimizer

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


def test_who_stands_together():
    assert families(numbered(SEQUENCES), share_prompts=True) == [[0, 2, 6], [1, 4], [3, 5]]
    assert families(numbered(SEQUENCES), share_prompts=False) == [[i] for i in range(7)]


def test_a_family_that_would_hold_too_much_goes_on_in_another():
    """Prompts of 12 and 9 tokens, responses of 4, 2, 6 and of 3, 5: with 18 tokens one does not fit, with 15 none."""
    assert families(numbered(SEQUENCES), share_prompts=True, tokens=18) == [[0, 2], [1, 4], [3, 5], [6]]
    assert families(numbered(SEQUENCES), share_prompts=True, tokens=15) == [[0], [1], [2], [3, 5], [4], [6]]


def test_many_responses_to_one_prompt_keep_to_the_limit(tiny):
    tuning = Tuning(precision="fp32", device="cpu", micro_tokens=32)
    policy = Policy.open(tiny, tuning, trainable=True)
    sequences = [(LONG, (40, 41, 42 + i, 1)) for i in range(16)]
    batches = [*policy.network.batches(range(16), [[s] for s in sequences], by_prompt=True)]
    assert sorted(i for batch in batches for i in batch.rows) == list(range(16))
    assert {len(batch.layout.ids) for batch in batches} == {12 + 5 * 4, 12 + 4}
    assert sum(batch.tokens for batch in batches) == 16 * (12 + 4)
    expected = policy.total_logps(sequences)
    short = Short(policy, 25)  # tokens
    assert torch.allclose(policy.total_logps(sequences), expected, atol=1e-4) and short.failures > 0


def test_batches_hold_what_stays_together(tiny, full):
    """Rows of two responses to a prompt of two tokens each, in one pass: the longer row comes last."""
    network = Policy.open(tiny, full, trainable=True).network
    rows = {"longer": [((2, 4), (40,)), ((2, 4), (50, 51))], "shorter": [((2, 3), (20,)), ((2, 3), (30,))]}
    (side_by_side,) = network.batches([*rows], [*rows.values()])
    assert side_by_side.rows == ["shorter", "longer"]
    assert side_by_side.tokens == (3 + 3) + (3 + 4) and len(side_by_side.layout.ids) == (2 + 2) + (2 + 3)
    assert side_by_side.layout.targets.tolist() == [20, 30, 40, 50, 51]
    (by_place,) = network.batches([*rows], [*rows.values()], by_place=True)
    assert by_place.layout.targets.tolist() == [20, 40, 30, 50, 51]
    (longer,) = network.batches([*rows], [*rows.values()], by_place=True, with_prompt=True)
    assert longer.layout.targets.tolist() == [3, 20, 4, 40, 30, 50, 51]  # prompts before first responses


def test_one_layout_serves_two_networks_if_both_pack(tiny, full):
    """Sequences that the other one cannot take are padded, and both find their log-probs in it."""
    one, other = (Policy.open(tiny, full, trainable=trainable) for trainable in (True, False))
    expected = one.entropy_kl_logps(SEQUENCES, other)
    (batch,) = one.network.batches(range(7), [[s] for s in SEQUENCES], by_prompt=True, beside=other.network)
    assert batch.layout.packed
    other.network.packs = False
    (batch,) = one.network.batches(range(7), [[s] for s in SEQUENCES], by_prompt=True, beside=other.network)
    assert not batch.layout.packed
    for found, values in zip(one.entropy_kl_logps(SEQUENCES, other), expected, strict=True):
        assert found == pytest.approx(values, rel=1e-4, abs=1e-4)


def seen_by(packing, token):
    """Tokens that this one sees in its block, read off places and mask."""
    place, queries, keys = int(packing.query_places[token]), 0, 0
    for block in packing.blocks:
        row, column = divmod(place - queries, block.queries)
        if row < block.rows:
            first = keys + row * block.keys
            shown = range(column + 1) if block.mask is None else block.mask[row, 0, column].nonzero()[:, 0].tolist()
            return [int(packing.keys[first + i]) for i in shown]
        queries, keys = queries + block.rows * block.queries, keys + block.rows * block.keys
    raise AssertionError(f"token {token} stands in no block")


def test_a_pass_by_hand():
    """Two responses to one prompt of 3 tokens, one to another prompt: the second of the first two starts again at 3."""
    prompt, other = (2, 3, 4), (5,)
    sequences = [(prompt, (20, 21)), (other, (40, 1)), (prompt, (30,))]
    layout = lay_out(numbered(sequences), "cpu", share_prompts=True)
    assert layout.ids.tolist() == [2, 3, 4, 20, 21, 30, 5, 40, 1]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2]
    assert layout.before.tolist() == [2, 3, 6, 7, 2]
    assert layout.targets.tolist() == [20, 21, 40, 1, 30]
    assert layout.last.tolist() == [4, 8, 5]
    assert layout.mask.tolist() == [[True, True], [True, True], [True, False]]
    assert [seen_by(layout.packing, token) for token in (2, 4, 5, 6, 8)] == [
        [0, 1, 2],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 5],
        [6],
        [6, 7, 8],
    ]
    longer = lay_out(numbered(sequences), "cpu", share_prompts=True, with_prompt=[2])
    assert longer.targets.tolist() == [20, 21, 40, 1, 3, 4, 30]
    assert longer.before.tolist() == [2, 3, 6, 7, 0, 1, 2]


def test_without_sharing_all_lie_in_one_block_of_padded_rows():
    layout = lay_out(numbered([((2, 3), (20, 21)), ((2, 3), (30,))]), "cpu", share_prompts=False)
    (block,) = layout.packing.blocks
    assert (block.rows, block.queries, block.keys, block.mask) == (2, 4, 4, None)
    assert layout.ids[layout.packing.queries].tolist() == [2, 3, 20, 21, 2, 3, 30, 2]
    assert layout.packing.query_places.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_blocks_hold_rows_of_similar_length():
    """500 keys beside 10: a block of their own, for padding the short ones would cost more than starting it."""
    rows = [Row(range(0), range(0, 500)), *(Row(range(0), range(500 + 10 * i, 510 + 10 * i)) for i in range(8))]
    assert [(b.rows, b.queries) for b in pack(rows, "cpu", cut=True).blocks] == [(8, 10), (1, 500)]
    assert [(b.rows, b.queries) for b in pack(rows, "cpu", cut=False).blocks] == [(9, 500)]


@pytest.mark.parametrize("with_prompt", [(), (0, 2)])
@pytest.mark.parametrize("chosen", [range(7), [0, 2, 6], [6, 0, 4, 2, 1]])
def test_packed_passes_give_the_log_probs_and_gradients_of_padded_ones(tiny, tuning, chosen, with_prompt):
    policy = Policy.open(tiny, tuning, trainable=True)
    with torch.no_grad():
        for parameter in policy.network.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    assert policy.network.packs
    sequences, found = [SEQUENCES[i] for i in chosen], []
    for share_prompts in (True, False):
        policy.network.packs = share_prompts
        logps = policy.logps(policy.network.lay_out(sequences, with_prompt))
        (logps.values * torch.arange(1, logps.values.shape[1] + 1)).sum().backward()
        found.append((logps.values.detach(), logps.mask, [p.grad.clone() for p in policy.network.parameters]))
        for parameter in policy.network.parameters:
            parameter.grad = None
    (shared, mask, gradients), (plain, plain_mask, plain_gradients) = found
    more = sum(len(sequences[i][0]) - 1 for i in with_prompt)
    assert torch.equal(mask, plain_mask) and mask.sum() == more + sum(len(response) for _, response in sequences)
    assert (shared - plain).abs().max() < 1e-5 * plain.abs().max()
    scale = max(float(g.abs().max()) for g in plain_gradients)
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * scale
    policy.network.close()


def test_architectures_are_tried_before_sequences_are_packed(tiny, full, tmp_path):
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
    packs = {}
    for name, model in (("gpt2", gpt2), ("mistral", mistral)):
        model.save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
        policy = Policy.open(Checkpoint(tmp_path / name, name), full, trainable=True)
        packs[name] = policy.network.packs
        alone = torch.cat([policy.total_logps([s]) for s in SEQUENCES])
        assert torch.allclose(policy.total_logps(SEQUENCES), alone, atol=1e-4)
    assert packs == {"gpt2": True, "mistral": False}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_attends_in_its_own_way_is_not_packed(tiny, tmp_path, precision):
    """Bloom takes no notice of the packing; with small weights a leak could pass for rounding."""
    model = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=259))
    model.save_pretrained(tmp_path / "bloom")
    tiny.tokenizer().save_pretrained(tmp_path / "bloom")
    tuning = Tuning(precision=precision, device="cpu")
    packs = [Policy.open(c, tuning, trainable=True).network.packs for c in (Checkpoint(tmp_path / "bloom", ""), tiny)]
    assert packs == [False, True]


def failing(monkeypatch, error):
    def attention(*given, **more):
        raise error

    monkeypatch.setattr(packed_attention, "sdpa_attention_forward", attention)


@pytest.mark.parametrize("error", [TypeError("attend() missing 'packing'"), AttributeError("None has no 'to'")])
def test_a_model_whose_own_code_fails_packed_gets_padded_rows(tiny, full, monkeypatch, error):
    failing(monkeypatch, error)
    assert not Policy.open(tiny, full, trainable=True).network.packs


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA"),
        NotImplementedError("Could not run 'aten::x' with arguments from the 'MPS' backend."),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_what_a_device_refuses_is_told_and_not_taken_for_the_model(tiny, full, monkeypatch, error):
    failing(monkeypatch, error)
    network = Policy.open(tiny, full, trainable=True).network
    first = re.escape(str(error).splitlines()[0].rstrip("."))
    for _ in range(2):  # nothing is remembered
        with pytest.raises(
            InputError, match=rf"^LlamaForCausalLM fails on cpu with the first few tokens \({first}\); "
        ):
            _ = network.packs


def test_a_padded_pass_that_fails_is_told_too(tiny, full, monkeypatch):
    network = Policy.open(tiny, full, trainable=True).network
    states = network._states

    def refuse(layout):
        if not layout.packed:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return states(layout)

    monkeypatch.setattr(network, "_states", refuse)
    with pytest.raises(InputError, match="fails on cpu with the first few tokens"):
        _ = network.packs


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


def test_packed_rows_that_fit_together_are_one_pass():
    """As the search for the best places finds it, whose cost is a pass's overhead; one token less room, two passes."""
    lengths = [7, 3, 12, 4, 11, 3]
    searched = cheapest_groups(lengths, lambda rows, longest, total: total + 5.0)
    assert micro_batches(lengths, 40, 5.0, padded=False) == searched == [[1, 5, 3, 0, 4, 2]]
    assert len(micro_batches(lengths, 39, 5.0, padded=False)) == 2
    assert micro_batches([], 40, 5.0, padded=False) == []


def test_a_row_longer_than_the_limit_goes_alone():
    assert micro_batches([50, 2, 3], 10, 1.0) == [[1, 2], [0]]


class Short:
    """A device that holds so many tokens at once: more of them raise what torch raises."""

    def __init__(self, policy, tokens, message="DefaultCPUAllocator: can't allocate memory: you tried to allocate"):
        self.hidden, self.tokens, self.message, self.failures = policy.network.hidden, tokens, message, 0
        policy.network.hidden = self

    def __call__(self, layout, at=None):
        if len(layout.ids) > self.tokens:
            self.failures += 1
            raise RuntimeError(self.message)
        return self.hidden(layout, at)


def test_out_of_memory_once_gives_the_same_results_in_smaller_passes(tiny, full):
    """Scores, and the weights after a step on the summed loss."""
    ends = []
    for tokens in (1000, 40):
        policy = Policy.open(tiny, full, trainable=True)
        short = Short(policy, tokens)
        totals = policy.total_logps(SEQUENCES)
        optimizer = Optimizer(policy.network, lr=1e-2, total_steps=2)

        def batches(policy=policy):
            return policy.network.batches(SEQUENCES, [[s] for s in SEQUENCES], by_prompt=True)

        def loss(batch, policy=policy):
            return -policy.logps(batch.layout).sum().sum() / 7, lambda: {"rows": len(batch.rows)}

        outcome = optimizer.step(batches, loss)
        assert outcome.tokens == sum(len(p) + len(r) for p, r in SEQUENCES)  # what ran out of memory is not counted
        assert outcome.watched == {"rows": 7}
        ends.append((totals, outcome.loss, [p.detach().clone() for p in policy.network.parameters]))
        assert (short.failures > 0) == (tokens == 40)
    assert torch.allclose(ends[0][0], ends[1][0], atol=1e-4)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ends[0][2], ends[1][2], strict=True))


def test_out_of_memory_always_ends_in_one_sentence(tiny):
    policy = Policy.open(tiny, Tuning(precision="fp32", device="cpu", micro_tokens=16), trainable=True)
    assert policy.network.packs
    Short(policy, 0)
    with pytest.raises(OutOfMemory, match="out of memory with one row at a time: shorten the rows"):
        policy.total_logps(SEQUENCES)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny, full):
    policy = Policy.open(tiny, full, trainable=True)
    assert policy.network.packs
    short = Short(policy, 0, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        policy.total_logps(SEQUENCES)
    assert short.failures == 1
