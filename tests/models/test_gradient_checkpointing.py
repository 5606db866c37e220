"""Layers and logits that are computed again in the backward pass: the same gradients, and less that is kept."""

from dataclasses import replace

import pytest
import torch

from alignment_bench.errors import InputError
from alignment_bench.models import gradient_checkpointing
from alignment_bench.models.checkpoint import open_network
from alignment_bench.models.policy import Policy
from alignment_bench.runtime.device import CONSTANTS

SEQUENCES = [((0, 10, 11, 12), (20, 21, 1)), ((0, 10, 11, 12), (22, 1)), ((0, 40, 41), (50, 1))]


def nudge(network, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)


def gradients(tiny, tuning, seeds=(1,), packs=True):
    """Gradients of as many policies at once, all of which have gone forward before the first goes back."""
    torch.manual_seed(0)
    policies = [Policy.open(tiny, tuning, trainable=True) for _ in seeds]
    try:
        for policy, seed in zip(policies, seeds, strict=True):
            nudge(policy.network, seed)
            policy.network.__dict__["packs"] = packs
        losses = [policy.logps(SEQUENCES).sum().pow(2).sum() for policy in policies]
        sum(losses).backward()
        return [p.grad.clone() for policy in policies for p in policy.network.parameters]
    finally:
        for policy in policies:
            policy.network.close()


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_gradients_are_those_without_it(tiny, tuning, seeds, packs, monkeypatch):
    """Two adapters on one model too: each layer is computed again with the adapter that it went forward with."""
    monkeypatch.setitem(CONSTANTS, "cpu", replace(CONSTANTS["cpu"], head_rows=3, head_numbers=1))
    expected = gradients(tiny, replace(tuning, gradient_checkpointing=False), seeds, packs)
    found = gradients(tiny, replace(tuning, gradient_checkpointing=True), seeds, packs)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_in_bf16_too(tiny, tuning):
    numbers = replace(tuning, precision="bf16")
    expected = gradients(tiny, replace(numbers, gradient_checkpointing=False))
    found = gradients(tiny, replace(numbers, gradient_checkpointing=True))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.parametrize("kind", ["lm", "score"])
def test_a_layer_keeps_its_input_alone(tiny, full, kind):
    """Of two layers 32 wide: two inputs of the layers, and what norm and head keep, in place of all between."""
    kept = {}
    for again in (False, True):
        network = open_network(tiny.path, kind, replace(full, gradient_checkpointing=again), trainable=True)
        weights = {p.untyped_storage().data_ptr() for p in network.parameters}
        sizes = {}

        def keep(tensor, sizes=sizes, weights=weights):
            if tensor.untyped_storage().data_ptr() not in weights and tensor.shape[-1] in (32, 64):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        layout = network.lay_out(SEQUENCES)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = network.hidden(layout)
        kept[again] = sum(sizes.values()) / len(layout.ids)
        del states
    assert kept[True] <= 5 * 32 < 20 * 32 <= kept[False]


def test_dropout_of_a_layer_stays_off(tiny, full):
    """Some layers ask for their own `training`, by which transformers tells that it is to be computed again."""
    network = open_network(tiny.path, "lm", replace(full, gradient_checkpointing=True), trainable=True)
    layer = gradient_checkpointing.layers_of(network.model)[0]
    assert network.packs  # tried now, by passes of its own
    seen = []
    layer.input_layernorm.register_forward_hook(lambda *_: seen.append(layer.training))
    network.hidden(network.lay_out(SEQUENCES)).sum().backward()
    assert seen == [False, False] and not layer.training and not layer.gradient_checkpointing


def test_without_gradients_nothing_is_computed_again(tiny, full, monkeypatch):
    network = open_network(tiny.path, "lm", replace(full, gradient_checkpointing=True), trainable=True)
    monkeypatch.setattr(gradient_checkpointing, "checkpoint", None)
    with torch.no_grad():
        network.hidden(network.lay_out(SEQUENCES))


def test_an_architecture_without_such_layers_is_told_at_once(tiny, full, monkeypatch):
    network = open_network(tiny.path, "lm", replace(full, gradient_checkpointing=True), trainable=True)
    monkeypatch.setattr("alignment_bench.models.gradient_checkpointing.layers_of", lambda model: [])
    with pytest.raises(InputError, match="no layers that transformers can compute again"):
        network.hidden(network.lay_out(SEQUENCES))


@pytest.mark.parametrize("rank", [0, 4])
def test_the_memory_that_training_needs_is_found_out_by_short_passes(tiny, full, rank):
    """A pass of 100 rows of 65 tokens keeps what two short ones said, to 5%; the head's logits come on top."""
    network = open_network(tiny.path, "lm", replace(full, lora_rank=rank, micro_tokens=100), trainable=True)
    needed = network.memory_needed()
    network.tuning = replace(network.tuning, micro_tokens=6500)
    network.micro_tokens = 6500
    more = network.memory_needed() - needed
    sequences = [((i,), (1,) * 64) for i in range(100)]
    layout = network.lay_out(sequences)
    weights = [*network.model.parameters()]
    kept = gradient_checkpointing.bytes_kept(lambda: network.hidden(layout), weights)
    tokens = network._most_tokens()
    assert needed == pytest.approx(
        12 * sum(p.numel() for p in network.parameters) + kept / 65 + 100 * 259 * 4, rel=0.05
    )
    assert more / (tokens - 100) == pytest.approx(kept / 6500 + 259 * 4, rel=0.05)
    network.close()


@pytest.mark.parametrize("free, expected", [(None, False), (2**20, True), (2**33, False)])
def test_auto_is_on_where_a_pass_would_not_fit(tiny, full, monkeypatch, free, expected):
    network = open_network(tiny.path, "lm", full, trainable=True)
    monkeypatch.setattr("alignment_bench.models.network.free_on", lambda device: free)
    assert network.checkpoints is expected
