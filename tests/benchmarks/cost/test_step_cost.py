"""Memory and work of training steps: against what is kept by hand and by autograd, and no more than was reached."""

from dataclasses import replace

import pytest
import torch

from alignment_bench.benchmarks.cost import step_cost
from alignment_bench.benchmarks.cost.model_sizes import configuration
from alignment_bench.benchmarks.cost.step_cost import GIB, Kernels, Live, Step
from alignment_bench.errors import InputError
from alignment_bench.methods.dpo import DPO
from alignment_bench.models.tuning import Tuning

LORA = Tuning(lora_rank=32, lora_alpha=64, precision="bf16", gradient_checkpointing=True)
FULL = replace(LORA, lora_rank=0)


def test_live_bytes_are_followed_until_they_are_let_go():
    """Each storage once, views none, rounded up to 512 bytes; the peak stays."""
    with Live() as live:
        a = torch.empty(1000, device="meta")  # 4000 bytes, so 4096
        b = a.view(10, 100)
        c = a + 1
        assert (live.now, live.launches) == (2 * 4096, 1)
        del c
        d = torch.mm(b, b.T)  # 10 x 10 floats: 400 bytes, so 512
        assert (live.now, live.peak, live.flop) == (4096 + 512, 2 * 4096, 2 * 10 * 100 * 10)
        del a, b, d
        assert live.now == 0


def test_products_are_cast_as_autocast_casts_them():
    """A trained weight once while casts are kept, and each time where they are not."""
    kernels = Kernels(bf16=True)
    weight, states = torch.empty(8, 8, device="meta", requires_grad=True), torch.empty(2, 8, device="meta")
    found = {}
    for keeps in (True, False):
        with kernels, kernels.autocast(keeps), Live() as live:
            out = torch.nn.functional.linear(torch.nn.functional.linear(states, weight), weight)
            found[keeps] = live.launches
        assert out.dtype == torch.bfloat16
    assert found == {True: 2 + 2, False: 2 + 3}  # products, and casts of the states and of the weight
    with kernels:
        assert torch.nn.functional.linear(states, weight).dtype == torch.float32


def test_what_is_held_throughout_by_hand():
    """Qwen2.5-0.5B has 494,032,768 weights, of which the tied embeddings are 136,134,656 (both as its card has them).

    Full: 16 bytes each, and for the frozen reference 2 of a product's weight, 4 of all else. The embeddings serve as
    head too, so they stay in fp32.
    """
    found = step_cost.step_cost(configuration("0.5B"), FULL, Step("pairs", 700, 256, 256, DPO()))
    assert found.trained == 16 * 494_032_768
    other = 136_134_656 + 49 * 896  # embeddings and norms; biases are held as the products' weights
    assert found.resident == pytest.approx(found.trained + 2 * (494_032_768 - other) + 4 * other, rel=1e-3)
    # what is divided: all that is trained, and the reference's 24 layers, with two norms each
    layers = 494_032_768 - other
    assert found.divided == found.trained
    assert found.frozen == 2 * layers + 4 * 48 * 896
    assert found.whole == 2 * layers + 4 * other
    layer, outside = layers // 24, 136_134_656 + 896
    two = 2 * (2 * layer + 4 * 2 * 896)
    assert found.gathered == two + 4 * (layer + 2 * 896) + 2 * 4 * outside
    lora = step_cost.step_cost(configuration("0.5B"), LORA, Step("pairs", 700, 256, 256, DPO()))
    assert (lora.divided, lora.frozen, lora.gathered, lora.whole) == (0, found.frozen, two, 0)


def test_what_a_base_in_four_bits_holds_by_hand():
    """Qwen2.5-7B: 28 layers of q, o [3584 x 3584], k, v [3584 x 512] and three [3584 x 18944] in 4 bits, a byte of a
    scale for each 64 weights, and 4 of its own for each 256 of these; embeddings in 4 bytes, head in 2; adapters of
    rank 32 in 16."""
    tuning = replace(LORA, base_bits=4)
    found = step_cost.step_cost(configuration("7B"), tuning, Step("pairs", 700, 256, 256, DPO()))
    linear = 28 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18944)
    adapters = 28 * 32 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    held = linear * (1 / 2 + 1 / 64 + 4 / (64 * 256)) + 6 * 152064 * 3584
    assert found.trained == 16 * adapters
    assert found.resident == pytest.approx(held + 16 * adapters, rel=1e-3)


def test_two_and_four_layers_tell_of_the_others():
    config, tuning = configuration("0.5B"), replace(FULL, gradient_checkpointing=False)
    config.num_hidden_layers, config.layer_types = 6, config.layer_types[:6]
    step = Step("pairs", 16384, 256, 256, DPO())
    assert step_cost.step_cost(config, tuning, step) == step_cost._counted(config, tuning, step)


@pytest.mark.parametrize(
    ("size", "tuning", "step", "most"),
    [
        ("0.5B", LORA, Step("pairs", 16384, 256, 256, DPO()), 4.7),  # as benchmarks/suites/ultrafeedback.yaml has it
        ("0.5B", LORA, Step("online with critic", 16384, 256, 256), 5.1),
        ("7B", LORA, Step("pairs", 8192, 4096, 2048, DPO()), 25),  # one pair of 8,192 tokens
        ("7B", replace(LORA, base_bits=4), Step("online with critic", 8192, 256, 256), 0.9 * 24),  # of a card of 24
    ],
)
def test_the_peak_of_a_step_stays_within_what_was_wanted(size, tuning, step, most):
    """GiB. The first took 28.2 without checkpointing."""
    assert step_cost.step_cost(configuration(size), tuning, step).peak <= most * GIB


def test_a_size_that_is_not_known_is_told_with_those_that_are():
    with pytest.raises(InputError, match=r"the size '7C' of a model is not known; known: .*70B"):
        configuration("7C")
    assert configuration("7b").hidden_size == 3584
