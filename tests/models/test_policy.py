"""Log-probs, sampling, saving and the shared frozen model, against one-by-one computation by transformers."""

import gc
import itertools
import weakref
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment_bench.benchmarks.selfcheck.architectures import LORA, make
from alignment_bench.models import checkpoint as checkpoint_module
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.merging import save_merged
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import to_generations
from alignment_bench.models.sampler_torch import nucleus
from alignment_bench.models.sampling import sample
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Prompt
from alignment_bench.results.store import folder_digest
from alignment_bench.runtime.device import CONSTANTS

SEQUENCES = [
    ((0, 10, 11, 12), (20, 21, 1)),
    ((0, 10), (30, 31, 32, 33, 1)),
    ((0, 40, 41, 42, 43, 44), (50, 1)),
]


def one_by_one(model, prompt, response, temperature=1.0):
    """Log-probs of a response from an unpadded forward pass of the whole transformers model."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0] / temperature
    logps = torch.log_softmax(logits, -1)
    return [float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(response)]


def nudge(network, seed=0):
    """Move trainable weights, so that an adapter is not the identity."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logps_equal_unpadded_single_forward_passes(tiny, tuning, temperature):
    policy = Policy.open(tiny, tuning, trainable=True)
    found = policy.logps(SEQUENCES, temperature)
    plain = AutoModelForCausalLM.from_pretrained(tiny.path)
    for row, (prompt, response) in enumerate(SEQUENCES):
        expected = one_by_one(plain, prompt, response, temperature)
        assert found.values[row, : len(response)].tolist() == pytest.approx(expected, rel=1e-5)
        assert found.values[row, len(response) :].abs().sum() == 0
        assert found.mask[row].sum() == len(response)
    policy.network.close()


def test_micro_batches_do_not_change_logps(tiny, full):
    small = Policy.open(tiny, Tuning(precision="fp32", device="cpu", micro_tokens=8), trainable=True)
    large = Policy.open(tiny, full, trainable=True)
    batches = small.network.batches(range(3), [[s] for s in SEQUENCES], by_prompt=True)
    assert sorted(batch.rows for batch in batches) == [[0], [1], [2]]
    assert torch.allclose(small.total_logps(SEQUENCES), large.total_logps(SEQUENCES), atol=1e-4)


def test_kl_is_zero_against_itself_and_exact_otherwise(tiny, tuning):
    policy = Policy.open(tiny, tuning, trainable=True)
    reference = Policy.open(tiny, tuning, trainable=False)
    assert policy.kl(SEQUENCES, reference) == [0.0, 0.0, 0.0]
    nudge(policy.network)
    plain = AutoModelForCausalLM.from_pretrained(tiny.path)
    policy.network.activate()
    for (prompt, response), found in zip(SEQUENCES, policy.kl(SEQUENCES, reference), strict=True):
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            p = torch.log_softmax(policy.network.activate()(input_ids=ids).logits[0], -1)
            q = torch.log_softmax(plain(input_ids=ids).logits[0], -1)
        kl = sum(float((p[t].exp() * (p[t] - q[t])).sum()) for t in range(len(prompt) - 1, ids.shape[1] - 1))
        assert found == pytest.approx(kl, rel=1e-3)
        assert found > 0.001
    logps = policy.entropy_kl_logps(SEQUENCES, reference)[2]
    assert logps == pytest.approx(policy.total_logps(SEQUENCES).tolist(), rel=1e-5)
    policy.network.close()


def test_samples_follow_the_policy_whatever_their_batch(tiny, full):
    """A near-greedy sample equals the argmax of unpadded forward passes, so left padding and the cache are right."""
    policy = Policy.open(tiny, full, trainable=True)
    prompts = [Prompt(str(i), (), p) for i, (p, _) in enumerate(SEQUENCES)]
    found = sample(policy, prompts, max_new_tokens=12, seed=0, temperature=1e-4)
    for s in found:
        ids = list(s.prompt.ids)
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(policy.network.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 1:
                break
        assert list(s.ids) == ids[len(s.prompt.ids) :]
        assert s.finished == (ids[-1] == 1)


def test_sampling_frequencies_match_the_distribution(tiny, full):
    """First tokens of 4,000 samples against the softmax: chi-square over the likely tokens."""
    policy = Policy.open(tiny, full, trainable=True)
    prompts = [Prompt(str(i), (), (0, 10, 11)) for i in range(4000)]
    tokens = torch.tensor([s.ids[0] for s in sample(policy, prompts, max_new_tokens=1, seed=1)])
    with torch.no_grad():
        chances = torch.softmax(policy.network.model(input_ids=torch.tensor([[0, 10, 11]])).logits[0, -1], -1)
    likely = chances > 5 / 4000
    counts = torch.bincount(tokens, minlength=len(chances)).float()
    statistic = float((((counts - 4000 * chances) ** 2) / (4000 * chances))[likely].sum())
    degrees = int(likely.sum())
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations above the mean of chi-square
    assert statistic > degrees - 4 * (2 * degrees) ** 0.5


def brute_force_nucleus(chances: list[float], top_p: float) -> set[int]:
    """The smallest set of tokens that holds top_p, among all sets; of equally small ones the likeliest."""
    for size in range(1, len(chances) + 1):
        best = max(itertools.combinations(range(len(chances)), size), key=lambda kept: sum(chances[i] for i in kept))
        if sum(chances[i] for i in best) >= top_p:
            return set(best)
    return set(range(len(chances)))


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.8, 0.95, 0.999])
def test_nucleus_is_the_smallest_set_that_holds_top_p(top_p):
    generator = torch.Generator().manual_seed(0)
    chances = torch.softmax(2 * torch.randn(20, 8, generator=generator, dtype=torch.float64), -1)
    for row, found in zip(chances.tolist(), nucleus(chances, top_p).tolist(), strict=True):
        kept = brute_force_nucleus(row, top_p)
        assert {i for i, p in enumerate(found) if p > 0} == kept
        mass = sum(row[i] for i in kept)
        assert found == pytest.approx([row[i] / mass if i in kept else 0.0 for i in range(8)])


def test_top_p_sampling_stays_in_the_nucleus(tiny, full):
    """2,000 first tokens: none outside the nucleus, and the likeliest as often as its share of it (5 sigma)."""
    policy = Policy.open(tiny, full, trainable=True)
    prompts = [Prompt(str(i), (), (0, 10, 11)) for i in range(2000)]
    drawn = sample(policy, prompts, max_new_tokens=1, seed=1, top_p=0.5)
    with torch.no_grad():
        chances = torch.softmax(policy.network.model(input_ids=torch.tensor([[0, 10, 11]])).logits[0, -1].double(), -1)
    ordered = chances.sort(descending=True)
    size = int((ordered.values.cumsum(0) < 0.5).sum()) + 1
    allowed = ordered.indices[:size].tolist()
    tokens = [s.ids[0] for s in drawn]
    assert set(tokens) <= set(allowed) and 1 < size < 259
    share = float(ordered.values[0] / ordered.values[:size].sum())
    assert abs(tokens.count(allowed[0]) - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5


def test_first_eos_is_counted_and_nothing_after_it(tmp_path, full, make_tiny):
    """A model that prefers EOS ends most rows early; no row goes on after it, whatever leaves the batch when."""
    folder = make_tiny(tmp_path, std=0.02)
    policy = Policy.open(Checkpoint(folder, ""), full, trainable=True)
    head, bias = policy.network.head, torch.zeros(259)
    bias[1] = 4.5  # against 258 others of about equal logits: EOS at about every fourth token
    policy.network.head = lambda states: head(states) + bias
    prompts = [Prompt(str(i), (), (0, 5 + i % 7)) for i in range(64)]
    found = sample(policy, prompts, max_new_tokens=10, seed=3)
    lengths = {len(s.ids) for s in found}
    assert len(lengths) > 2
    for s in found:
        assert s.finished == (s.ids[-1] == 1)
        assert 1 not in s.ids[:-1]
        assert s.finished or len(s.ids) == 10
    records = to_generations(policy, found)
    assert [r.length for r in records] == [len(s.ids) for s in found]


def test_saved_policies_load_with_transformers(tiny, tuning, tmp_path):
    policy = Policy.open(tiny, tuning, trainable=True)
    nudge(policy.network)
    expected = policy.total_logps(SEQUENCES)
    policy.save(tmp_path / "policy")
    policy.network.close()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    sums = [sum(one_by_one(plain, p, r)) for p, r in SEQUENCES]
    assert sums == pytest.approx(expected.tolist(), rel=1e-5)
    again = Policy.open(Checkpoint(tmp_path / "policy", ""), tuning, trainable=True)
    assert torch.allclose(again.total_logps(SEQUENCES), expected, atol=1e-4)
    again.network.close()


def test_saved_scorers_load_with_transformers(tiny, tuning, tmp_path):
    network = open_network(tiny.path, "score", tuning, trainable=True, head_std=0.5)
    nudge(network)
    layout = network.lay_out(SEQUENCES)
    with torch.no_grad():
        expected = network.head(network.hidden(layout)[layout.last])[:, 0]
    network.save(tmp_path / "rm", tiny.tokenizer())
    network.close()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", num_labels=1)
    plain.config.pad_token_id = None  # transformers takes a last token equal to the pad id for padding, EOS or not
    for row, (prompt, response) in enumerate(SEQUENCES):
        with torch.no_grad():
            found = float(plain(input_ids=torch.tensor([prompt + response])).logits[0, 0])
        assert found == pytest.approx(float(expected[row]), rel=1e-4, abs=1e-4)


def test_lora_keeps_one_copy_of_the_base_and_leaves_it_alone(tiny):
    """Policy, reference, critic and reward model share every base tensor; training one leaves base and others as is."""
    tuning = Tuning(lora_rank=4, precision="fp32", device="cpu")
    before = folder_digest(tiny.path)
    policy = Policy.open(tiny, tuning, trainable=True)
    reference = Policy.open(tiny, tuning, trainable=False)
    critic = open_network(tiny.path, "score", tuning, trainable=True, head_std=0.0)
    assert policy.network.model is reference.network.model is critic.model
    frozen = {n: p.detach().clone() for n, p in policy.network.model.named_parameters() if "lora" not in n}
    start = reference.total_logps(SEQUENCES)
    assert torch.equal(policy.total_logps(SEQUENCES), start)  # a fresh adapter is the identity

    optimizer = torch.optim.SGD(policy.network.parameters, lr=0.5)
    logps = policy.logps(SEQUENCES).sum().sum()
    with torch.no_grad():  # another adapter comes in between: gradients must survive it
        critic.hidden(critic.lay_out(SEQUENCES))
    logps.backward()
    assert all(p.grad is not None for p in policy.network.parameters)
    assert all(p.grad is None for p in critic.parameters)
    optimizer.step()
    assert not torch.allclose(policy.total_logps(SEQUENCES), start)
    assert torch.equal(reference.total_logps(SEQUENCES), start)
    for name, parameter in policy.network.model.named_parameters():
        if "lora" not in name:
            assert torch.equal(parameter, frozen[name])
    policy.network.close()
    critic.close()
    assert folder_digest(tiny.path) == before


def test_merging_an_adapter_keeps_the_function(tiny, tmp_path):
    tuning = Tuning(lora_rank=4, precision="fp32", device="cpu")
    network = open_network(tiny.path, "lm", tuning, trainable=True)
    nudge(network)
    policy = Policy(network, tiny.tokenizer())
    expected = policy.total_logps(SEQUENCES)
    save_merged(network, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert not [n for n, _ in model.named_parameters() if "lora" in n]
    sums = [sum(one_by_one(model, p, r)) for p, r in SEQUENCES]
    assert sums == pytest.approx(expected.tolist(), rel=1e-5)


def test_adapters_on_the_experts_of_a_mixture_load_with_transformers(tmp_path):
    """DeepSeek's dense, shared and stacked experts; two adapters on one model, of which the other one is not seen."""
    make("deepseek_v3", tmp_path / "lm")
    checkpoint = Checkpoint(tmp_path / "lm", "")
    policy, other = (Policy.open(checkpoint, LORA, trainable=True) for _ in range(2))
    start = policy.total_logps(SEQUENCES)
    nudge(other.network)
    assert torch.equal(policy.total_logps(SEQUENCES), start)
    nudge(policy.network, seed=1)
    expected = policy.total_logps(SEQUENCES)
    assert (expected - start).abs().max() > 0.01
    policy.save(tmp_path / "policy")
    policy.network.close()
    other.network.close()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    adapted = {name.partition(".lora_A")[0] for name, _ in plain.named_parameters() if ".lora_A" in name}
    for part in ("layers.0.mlp.gate_proj", "layers.1.mlp.experts", "layers.1.mlp.shared_experts.up_proj"):
        assert f"model.{part}" in adapted
    assert [sum(one_by_one(plain, p, r)) for p, r in SEQUENCES] == pytest.approx(expected.tolist(), rel=1e-5)


def test_entropy_and_kl_of_pieces_are_those_of_the_whole(tiny, tuning, monkeypatch):
    """Pieces of two rows each, where a pass has ten targets."""
    policy, reference = Policy.open(tiny, tuning, trainable=True), Policy.open(tiny, tuning, trainable=False)
    nudge(policy.network)
    whole = policy.entropy_kl_logps(SEQUENCES, reference)
    asked = []
    monkeypatch.setitem(CONSTANTS, "cpu", replace(CONSTANTS["cpu"], vocabulary_numbers=2 * 259))
    monkeypatch.setattr(
        Policy,
        "log_softmax",
        lambda self, states, real=Policy.log_softmax: asked.append(len(states)) or real(self, states),
    )
    for found, expected in zip(policy.entropy_kl_logps(SEQUENCES, reference), whole, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert max(asked) == 2 and sum(asked) == 2 * 10
    policy.network.close()


def test_one_shared_model_is_let_go_before_another_is_read(tiny, full, monkeypatch):
    """Two of 7B would not lie side by side."""
    first = weakref.ref(Policy.open(tiny, full, trainable=False).network.model)
    held = []
    load = checkpoint_module.load_model
    monkeypatch.setattr(
        checkpoint_module,
        "load_model",
        lambda *args, **more: held.append((gc.collect(), first())[1]) or load(*args, **more),
    )
    Policy.open(tiny, replace(full, micro_tokens=7), trainable=False)
    assert held == [None]
