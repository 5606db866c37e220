"""LoRA on a base in 4 bits: what the base becomes, what is trained on it, and what is saved of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment_bench.benchmarks.export_policy import _merge
from alignment_bench.benchmarks.selfcheck.architectures import apart, make
from alignment_bench.errors import InputError
from alignment_bench.models.checkpoint import Checkpoint, let_go_of_models, open_network
from alignment_bench.models.four_bits import FourBits, settings, weights_of
from alignment_bench.models.merging import save_merged
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning
from alignment_bench.reports.policies import snippet

pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")

FOUR = Tuning(lora_rank=4, lora_alpha=8.0, base_bits=4, precision="fp32", device="cpu")
SEQUENCES = [((5, 6, 7), (8, 9, 10, 1)), ((5, 6), (11, 12, 13))]
# Dettmers et al. (2023, arXiv:2305.14314), appendix E
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334]
    + [-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    + [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)


def layers_of(policy):
    return {name: layer for name, layer in policy.network.model.named_modules() if isinstance(layer, FourBits)}


def bits_of(policy):
    return {name: layer.weight.clone() for name, layer in layers_of(policy).items()}


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, tmp_path):
    make(request.param, tmp_path / "model")
    return tmp_path / "model"


def test_weights_become_the_nearest_levels_of_their_block(folder):
    """To the 8 bits of a block's scale; what adapters do not go on is as it was."""
    plain = AutoModelForCausalLM.from_pretrained(folder)
    policy = Policy.open(Checkpoint(folder, ""), FOUR, trainable=False)
    layers = layers_of(policy)
    assert len(layers) == 2 * (4 if "gpt2" in type(plain).__name__.lower() else 7)
    for name, layer in layers.items():
        weight = plain.get_parameter(f"{name}.weight").detach()
        laid = (weight.T if layer.lies_across else weight).reshape(-1, 64)
        scale = laid.abs().amax(1, keepdim=True)
        level = NF4[(laid[..., None] / scale[..., None] - NF4).abs().argmin(-1)]
        found = layer.restored()
        restored = found.reshape(-1, 64).abs().amax(1, keepdim=True)
        assert torch.allclose(found.reshape(-1, 64) / restored, level, atol=1e-6)
        assert torch.allclose(restored, scale, rtol=0.1) and not torch.equal(restored, scale)
    for name, weight in policy.network.model.named_parameters():
        if name.removesuffix(".weight") not in layers and name.removesuffix(".bias") not in layers:
            assert torch.equal(weight, plain.get_parameter(name)), name
    assert policy.network.size == weights_of(plain) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_moves_adapters_and_no_bit_of_the_base(tiny, precision):
    tuning = replace(FOUR, precision=precision)
    policy, reference = (Policy.open(tiny, tuning, trainable=trainable) for trainable in (True, False))
    start, bits = reference.total_logps(SEQUENCES), bits_of(policy)
    assert torch.equal(policy.total_logps(SEQUENCES), start) and len(bits) == 14
    whole = Policy.open(tiny, replace(tuning, base_bits=None), trainable=False).total_logps(SEQUENCES)
    assert 0.01 < (whole - start).abs().max() < 5
    optimizer, losses = torch.optim.AdamW(policy.network.parameters, lr=1e-2), []
    for _ in range(4):
        loss = -policy.logps(SEQUENCES).sum().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[3] < losses[2] < losses[1] < losses[0]
    after = bits_of(policy)
    assert all(torch.equal(after[name], before) for name, before in bits.items())
    assert torch.equal(reference.total_logps(SEQUENCES), start)
    let_go_of_models()
    again = Policy.open(tiny, tuning, trainable=False)  # as the next method's process reads it
    assert all(torch.equal(layer.weight, bits[name]) for name, layer in bits_of_plain(again).items())
    assert torch.equal(again.total_logps(SEQUENCES), start)


def bits_of_plain(policy):
    """Layers by the names that they have under adapters."""
    return {f"{name}.base_layer": layer for name, layer in layers_of(policy).items()}


def test_passes_and_gradients_are_those_of_the_weights_that_the_bits_stand_for(folder, tmp_path):
    """Beside a LoRA network on a model whose weights are these; what is merged is that policy."""
    torch.manual_seed(3)
    policy = Policy.open(Checkpoint(folder, ""), FOUR, trainable=True)
    save_merged(policy.network, tmp_path / "restored")  # an adapter that adds nothing yet
    policy.tokenizer.save_pretrained(tmp_path / "restored")
    whole = Policy.open(Checkpoint(tmp_path / "restored", ""), replace(FOUR, base_bits=None), trainable=True)
    for ours, theirs in zip(policy.network.parameters, whole.network.parameters, strict=True):
        ours.data += 0.05 * torch.randn_like(ours)
        theirs.data.copy_(ours.data)
    values = [each.logps(SEQUENCES).sum() for each in (policy, whole)]
    assert torch.allclose(*values, rtol=1e-5)
    for value in values:
        value.sum().backward()
    for ours, theirs in zip(policy.network.parameters, whole.network.parameters, strict=True):
        assert ours.grad.any() and torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    policy.save(tmp_path / "policy")
    run = SimpleNamespace(record={"contract": {"tuning": FOUR.identity()}})
    _merge(run, tmp_path / "policy", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert apart(plain, SEQUENCES, policy.logps(SEQUENCES).rows()) < 1e-5
    assert {p.dtype for p in plain.parameters()} == {torch.float32}


def test_a_mixture_is_refused(tmp_path):
    make("mixtral", tmp_path)
    with pytest.raises(InputError, match=r"^tuning.base_bits: the experts of a mixture \(mixtral\) are not brought"):
        open_network(tmp_path, "lm", FOUR, trainable=True)


def test_the_lines_that_load_a_policy_read_its_base_as_training_did():
    code, read = snippet("F", "B", 4), {}
    exec(code[: code.index("base = ")], read)  # its imports and the settings of the bits
    ours, theirs = settings([]), read["bits"]
    for name in ("load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"):
        assert getattr(theirs, name) == getattr(ours, name)
    assert "from_pretrained('B', quantization_config=bits)" in code and "bits" not in snippet("F", "B")
