"""Our own sampler's work: launches and waits a token, rows that take others' places, weights that are put back."""

import functools
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig

from alignment_bench.models import sampler_torch, sampler_weights
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler_cache import row_bytes, rows_at_once
from alignment_bench.models.sampler_weights import merged, sampling_weights, to_bf16_by_chance
from alignment_bench.models.sampling import sample, streams
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Prompt
from alignment_bench.runtime.device import CONSTANTS

PROMPTS = [Prompt(str(i), (), tuple(range(5, 7 + i % 5))) for i in range(20)]
LORA = Tuning(lora_rank=4, lora_alpha=8.0, precision="fp32", device="cpu")
VIEWS = {"alias", "as_strided", "detach", "expand", "permute", "select", "slice", "split", "squeeze", "t", "transpose"}
VIEWS |= {"_unsafe_view", "_reshape_alias", "split_with_sizes", "unbind", "unsqueeze", "view", "empty", "new_empty"}


class Launches(TorchDispatchMode):
    """Counts the operations that a GPU would be asked for; views and empty tensors are none."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation.overloadpacket.__name__ not in VIEWS
        return operation(*args, **kwargs or {})


class Looks(TorchFunctionMode):
    """Counts the calls that would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.__bool__)
        return function(*args, **kwargs or {})


def moved(checkpoint, tuning, *, ends=0.0):
    """A policy whose weights differ from those on disk; ends: what is added to the logit of EOS."""
    policy = Policy.open(checkpoint, tuning, trainable=True)
    with torch.no_grad():
        for parameter in policy.network.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.02)
    head, bias = policy.network.head, torch.zeros(259)
    bias[1] = ends
    policy.network.head = lambda states: head(states) + bias
    return policy


@pytest.mark.parametrize(("rank", "precision", "most"), [(4, "bf16", 42), (0, "bf16", 42), (4, "fp32", 36)])
def test_launches_a_layer_and_token(make_tiny, tmp_path, rank, precision, most):
    """From the difference of two and three layers: seven products, six operations a norm, ten for rotary positions,
    two copies into the cache, attention, two residuals, two for the gate; in bf16 six that round what goes into
    products. With adapters as many."""
    tuning = Tuning(lora_rank=rank, precision=precision, device="cpu")
    found = {}
    for layers in (2, 3):
        checkpoint = Checkpoint(make_tiny(tmp_path / str(layers), layers=layers), str(layers))
        policy = moved(checkpoint, tuning, ends=-100.0)
        sample(policy, PROMPTS[:2], max_new_tokens=2, seed=0)
        for tokens in (2, 6):
            with Launches() as launches:
                sample(policy, PROMPTS[:3], max_new_tokens=tokens, seed=0)
            found[layers, tokens] = launches.count
        policy.network.close()
    two, three = (found[layers, 6] - found[layers, 2] for layers in (2, 3))
    assert 10 < (three - two) / 4 <= most


def test_one_look_at_many_tokens_changes_none(tiny, tuning, monkeypatch):
    """17 tokens to 20 rows, one of them with each prompt and two times eight behind it. transformers looks twice at
    the prompts' mask."""
    policy = moved(tiny, tuning, ends=4.0)
    expected = sample(policy, PROMPTS, max_new_tokens=17, seed=4)
    assert min(len(s.ids) for s in expected) == 1 and max(len(s.ids) for s in expected) == 17
    monkeypatch.setitem(CONSTANTS, "cpu", replace(CONSTANTS["cpu"], steps=8))
    with Looks() as looks:
        assert sample(policy, PROMPTS, max_new_tokens=17, seed=4) == expected
    assert looks.count == 2 + 3


@pytest.mark.parametrize("steps", [1, 5])
def test_rows_take_the_places_of_those_that_finished(tiny, full, monkeypatch, steps):
    """Responses are the same, and rows of different prompts, begun at different times, need far fewer passes."""
    policy = moved(tiny, full, ends=5.0)
    expected = sample(policy, PROMPTS * 2, max_new_tokens=24, seed=4)
    monkeypatch.setitem(CONSTANTS, "cpu", replace(CONSTANTS["cpu"], steps=steps))
    how = {"max_new_tokens": 24, "seed": 4, "temperature": 1.0, "top_p": 1.0, "progress": None}
    how |= {"streams": streams(PROMPTS * 2), "batch_size": 8}
    sizes, head = [], policy.network.head
    policy.network.head = lambda states: sizes.append(len(states)) or head(states)
    found = sampler_torch.sample_rows(policy, PROMPTS * 2, range(40), **how)
    assert found == expected and max(sizes) <= 8
    for one, other in zip(found, expected, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)
    refilled = len(sizes)
    monkeypatch.setattr(sampler_torch, "can_join", lambda cache: False)
    assert sampler_torch.sample_rows(policy, PROMPTS * 2, range(40), **how) == expected
    assert refilled < 0.8 * (len(sizes) - refilled), (refilled, len(sizes))


def test_a_learnt_position_is_never_beyond_the_models(tiny, full, monkeypatch):
    """Rows that began earlier end earlier: no token is asked for after a row's last, whenever it is looked at."""
    policy = moved(tiny, full, ends=3.0)
    monkeypatch.setitem(CONSTANTS, "cpu", replace(CONSTANTS["cpu"], steps=3))
    assert policy.network.packs  # found out now, by passes of its own
    backbone, furthest = policy.network.backbone.forward, []

    @functools.wraps(backbone)
    def forward(**given):
        furthest.append(int(given["position_ids"].max()))
        return backbone(**given)

    monkeypatch.setattr(policy.network.backbone, "forward", forward)
    how = {"max_new_tokens": 7, "seed": 4, "temperature": 1.0, "top_p": 1.0, "progress": None}
    sampler_torch.sample_rows(policy, PROMPTS * 2, range(40), streams=streams(PROMPTS * 2), batch_size=8, **how)
    assert max(furthest) == max(len(p.ids) for p in PROMPTS) + 7 - 2  # the last token goes through no pass


def test_a_row_that_has_all_its_tokens_leaves_though_most_go_on(tiny, full, monkeypatch):
    """Five rows, of which four end with their second token; four others take their places and are one token behind."""
    calls = []

    def draw(chances, numbers):
        calls.append(len(chances))
        ids = torch.full((len(chances),), 9)
        if len(calls) == 2:
            ids[:4] = 1
        return ids

    monkeypatch.setattr(sampler_torch, "draw", draw)
    how = {"max_new_tokens": 5, "seed": 4, "temperature": 1.0, "top_p": 1.0, "progress": None, "batch_size": 5}
    prompts = [Prompt(str(i), (), (5, 6)) for i in range(9)]
    policy = Policy.open(tiny, full, trainable=False)
    found = sampler_torch.sample_rows(policy, prompts, range(9), streams=streams(prompts), **how)
    assert [len(s.ids) for s in found] == [2] * 4 + [5] * 5
    assert calls == [5, 5, 4, 5, 5, 5, 4]


def test_an_adapter_is_merged_meanwhile_and_weights_are_put_back(tiny):
    policy, other = moved(tiny, LORA), moved(tiny, LORA)
    model = policy.network.activate()
    tensors = {name: (value, value.detach().clone()) for name, value in model.named_parameters()}
    sequences = [(p.ids, (9, 8, 7)) for p in PROMPTS]
    with torch.no_grad():
        expected = policy.logps(sequences).values
        with pytest.raises(KeyError), sampling_weights(policy.network):
            assert all(layer.disable_adapters for layer in model.modules() if hasattr(layer, "lora_A"))
            ids = torch.tensor([[*PROMPTS[0].ids, 9, 8, 7]])
            logps = policy.network.head(policy.network.backbone(input_ids=ids).last_hidden_state).log_softmax(-1)
            targets = logps[0, -4:-1].gather(1, ids[0, -3:, None])[:, 0]
            assert (targets - expected[0]).abs().max() < 1e-5
            raise KeyError
        assert torch.equal(policy.logps(sequences).values, expected)
        assert (other.logps(sequences).values - expected).abs().max() > 1e-3
    assert all(now is tensors[name][0] for name, now in model.named_parameters())
    assert all(torch.equal(now, before) and now.requires_grad == ("lora" in name)
               for name, (now, before) in tensors.items())  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_sampled_is_what_passes_say(tiny, tuning, precision, monkeypatch):
    """With adapters merged or, where the memory does not hold both, apart; and in fp32 the tokens are the same."""
    policy = moved(tiny, replace(tuning, precision=precision))
    drawn = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    rows = policy.logps([(s.prompt.ids, s.ids) for s in drawn]).rows()
    gaps = [abs(a - b) for s, row in zip(drawn, rows, strict=True) for a, b in zip(s.logps, row, strict=True)]
    assert sum(gaps) / len(gaps) < {"fp32": 1e-5, "bf16": 0.05}[precision]

    def too_much(*given):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(sampler_weights, "merged", too_much)
    apart = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert precision == "bf16" and policy.network.is_adapter or apart == drawn


def test_weights_under_autocast_are_cast_once_and_to_the_same_bits(tiny, tuning):
    """Of every linear layer, and of a head that shares its weight with the embedding, which stays in fp32."""
    policy = moved(tiny, replace(tuning, precision="bf16"))
    model = policy.network.activate()
    ids = torch.tensor([PROMPTS[3].ids])
    with torch.no_grad(), policy.network.autocast():
        expected = model(input_ids=ids).logits
        with pytest.MonkeyPatch.context() as apart:
            apart.setattr(sampler_weights, "_merge", lambda *given: False)
            with sampling_weights(policy.network):
                assert model.lm_head.weight.dtype == torch.bfloat16
                assert model.get_input_embeddings().weight.dtype == torch.float32
                assert torch.equal(model(input_ids=ids).logits, expected)


def test_rounding_by_chance_keeps_the_mean_and_what_is_there_already():
    """bf16 has 7 bits behind the point: from 1 on its numbers are 1/128 apart. A tenth of a step goes up a tenth of
    the time, and the nearest number would be 1 always."""
    there = torch.tensor([1.0, -1.0078125, 3.0e-5, 0.0]).bfloat16()
    assert torch.equal(to_bf16_by_chance(there.float()[None])[0], there)
    for sign in (1, -1):
        rounded = to_bf16_by_chance(torch.full((200, 500), sign * (1 + 0.1 / 128))).float()
        assert set(rounded.unique().tolist()) == {sign * 1.0, sign * (1 + 1 / 128)}
        # pairs of rows are independent, so the mean of 100,000 has a standard error of 0.3/sqrt(100,000) steps
        assert abs(float(rounded.mean()) * 128 * sign - 128.1) < 5 * 0.3 / 100_000**0.5
    assert torch.equal(to_bf16_by_chance(torch.full((3, 5), 1.003)), to_bf16_by_chance(torch.full((3, 5), 1.003)))


def test_a_small_update_survives_the_merge_in_bf16(tiny):
    """A twentieth of a step on each weight of a layer: merged by the nearest number the layer would not change."""
    policy = Policy.open(tiny, replace(LORA, precision="bf16"), trainable=True)
    [name] = [n for n, _ in policy.network.activate().named_modules() if n.endswith("layers.0.mlp.down_proj")]
    layer = policy.network.model.get_submodule(name)
    weight = torch.ones(32, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        [adapter] = layer.active_adapters
        layer.lora_A[adapter].weight.fill_(0.05 / 128 / 4 / layer.scaling[adapter])
        layer.lora_B[adapter].weight.fill_(1.0)
        change = (merged(weight, layer, [adapter]).float() - 1).sum() * 128 / weight.numel()
    assert 0.03 < float(change) < 0.07
    policy.network.close()


def test_rows_by_memory(tiny, full, monkeypatch):
    """Mistral 7B's keys and values: 2 x 32 layers x 8 heads x 128 wide x 2 bytes = 131,072 bytes a token; with prompts
    of 1,024 and responses of 512 tokens 268 MB a row, twice, and 4 x 1,024 x (6 x 4,096 + 3 x 14,336) = 277 MB of
    activations: 0.81 GB, so 0.8 x 60 GB hold 58 rows."""
    config = LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, intermediate_size=14336
    )
    assert row_bytes(config, 1024, 512, bf16=True) == 2 * 131_072 * 2048 + 4 * 1024 * (6 * 4096 + 3 * 14_336)
    network = Policy.open(tiny, full, trainable=False).network
    assert rows_at_once(network, [1024], 512) == CONSTANTS["cpu"].rows
    network.tuning = replace(network.tuning, device="cuda", precision="bf16")
    monkeypatch.setattr(network.model, "config", config)
    for free, rows in ((50e9, 58), (1e9, 10), (-10e9, 1), (900e9, 512)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80e9))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30e9)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20e9)
        assert rows_at_once(network, [7, 1024, 3], 512) == rows
