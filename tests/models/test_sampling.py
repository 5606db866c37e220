"""A response depends on the seed, its prompt and its number alone, also where memory runs out."""

import itertools
from dataclasses import replace

import pytest
import torch
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel

from alignment_bench.errors import InputError
from alignment_bench.models import tuning
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.micro_batches import OutOfMemory
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler_torch import sample_rows, uniforms
from alignment_bench.models.sampling import sample, streams
from alignment_bench.results.records import Prompt

# lengths differ, and prompts repeat, as they do where a method compares several responses to one
PROMPTS = [Prompt(str(i), (), tuple(range(5, 7 + i % 5))) for i in range(20)]
HOW = {
    "max_new_tokens": 12, "seed": 4, "temperature": 1.0, "top_p": 1.0, "progress": None, "streams": streams(PROMPTS)
}  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_do_not_change_responses(tiny, full, batch_size):
    policy = Policy.open(tiny, full, trainable=False)
    whole = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert sample_rows(policy, PROMPTS, range(len(PROMPTS)), **HOW, batch_size=batch_size) == whole
    assert len({s.ids for s in whole}) == len(PROMPTS)  # equal prompts get different responses


def test_rows_that_leave_take_their_numbers_with_them(tiny, full):
    """EOS is made likely, so that rows leave the batch early: those that stay go on as they would alone."""
    policy = Policy.open(tiny, full, trainable=True)
    head, bias = policy.network.head, torch.zeros(259)
    bias[1] = 5.0
    policy.network.head = lambda states: head(states) + bias
    whole = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert sample_rows(policy, PROMPTS, range(len(PROMPTS)), **HOW, batch_size=1) == whole
    lengths = [len(s.ids) for s in whole]
    assert min(lengths) < 4 and sum(n < 12 for n in lengths) > len(PROMPTS) / 4 and max(lengths) > 6


def test_positions_begin_after_the_padding(tiny, full, tmp_path):
    """GPT-2 learns a vector for each position, so a row that is shifted by its padding would say something else: a
    near-greedy sample among longer prompts is the likeliest token, one by one, of passes without padding."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=259, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.5, eos_token_id=1
    )
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    policy = Policy.open(Checkpoint(tmp_path, "gpt2"), full, trainable=True)
    for s in sample(policy, PROMPTS[:5], max_new_tokens=6, seed=4, temperature=1e-4):
        ids = list(s.prompt.ids)
        while len(ids) < len(s.prompt.ids) + 6 and (len(ids) == len(s.prompt.ids) or ids[-1] != 1):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert list(s.ids) == ids[len(s.prompt.ids) :]


def test_some_rows_get_the_responses_that_they_get_among_all(tiny, full):
    policy = Policy.open(tiny, full, trainable=False)
    whole = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert sample_rows(policy, PROMPTS, [13, 2, 7], **HOW) == [whole[13], whole[2], whole[7]]
    assert sample_rows(policy, PROMPTS, [], **HOW) == []
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=5) != whole


def test_a_response_has_the_numbers_of_its_prompt_wherever_it_stands(tiny, full):
    """Alone, among others, in another order, or as one of several to its prompt: the first is the same, and the third
    is where the caller says that two came before."""
    policy = Policy.open(tiny, full, trainable=False)
    whole = sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert sample(policy, PROMPTS[::-1], max_new_tokens=12, seed=4) == whole[::-1]
    assert sample(policy, PROMPTS[7:8], max_new_tokens=12, seed=4) == whole[7:8]
    three = sample(policy, [p for p in PROMPTS for _ in range(3)], max_new_tokens=12, seed=4)
    assert three[::3] == whole and len({s.ids for s in three}) == len(three)
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=4, numbers=[2] * len(PROMPTS)) == three[2::3]


def test_streams_are_of_the_id_and_the_number():
    """The first 64 bits of sha256 of "NUMBER ID"; ids and numbers that read alike together have each their own."""
    a, b = Prompt("1 a", (), (1,)), Prompt("a", (), (1,))
    assert streams([b, a, b]) == [0xCF6D9263CF71CECA, streams([a])[0], streams([b], [1])[0]]
    assert len(set(streams([a, b] * 3, [0, 1, 1, 11, 2, 21]))) == 6


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


class Short:
    """A device whose memory holds so many rows when a batch has come so many tokens far."""

    def __init__(self, policy, rows, *, step=0, error=None):
        self.head, self.rows, self.step, self.calls, self.failures = policy.network.head, rows, step, 0, 0
        self.error = error or RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        policy.network.head = self

    def __call__(self, states):
        self.calls += 1
        if self.calls > self.step and len(states) > self.rows:
            self.failures, self.calls = self.failures + 1, 0
            raise self.error
        return self.head(states)


@pytest.mark.parametrize("step", [0, 3])
def test_out_of_memory_once_gives_the_same_responses_in_smaller_batches(tiny, full, step):
    expected = sample(Policy.open(tiny, full, trainable=True), PROMPTS, max_new_tokens=12, seed=4)
    policy = Policy.open(tiny, full, trainable=True)
    short = Short(policy, 3, step=step)
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=4) == expected
    assert short.failures == 3  # 20, 10, 5 rows, and 2 fit
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=4) == expected
    assert short.failures == 3  # the next time it is known


def test_out_of_memory_always_ends_in_one_sentence(tiny, full):
    policy = Policy.open(tiny, full, trainable=True)
    Short(policy, 0)
    with pytest.raises(OutOfMemory, match="out of memory with one row at a time"):
        sample(policy, PROMPTS, max_new_tokens=12, seed=4)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny, full):
    policy = Policy.open(tiny, full, trainable=True)
    short = Short(policy, 0, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        sample(policy, PROMPTS, max_new_tokens=12, seed=4)
    assert short.failures == 1


def test_vllm_is_refused_where_it_is_missing(full, monkeypatch):
    by_vllm = replace(full, sampler="vllm")
    monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"vLLM is not installed; pip install 'alignment-bench\[vllm\]'"):
        by_vllm.resolve()
    monkeypatch.setattr(tuning, "find_spec", lambda name: True)
    assert by_vllm.resolve() == by_vllm
    assert full.resolve() == full
    with pytest.raises(InputError, match="the sampler vlm is not known; give torch or vllm"):
        replace(full, sampler="vlm").resolve()
