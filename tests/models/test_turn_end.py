"""The end of a reply where template, tokenizer and generation_config name different tokens."""

from types import SimpleNamespace

import pytest
import torch
from conftest import build_tokenizer

from alignment_bench.models.chat import encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import to_generations
from alignment_bench.models.sampling import sample
from alignment_bench.models.turn_end import stop_ids, turn_end, without_stop
from alignment_bench.results.records import Prompt

TURN = "{{ '[' + m['role'] + ']' + m['content'] + SUFFIX }}"
LOOP = "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
EOS, EOT, LETTER = 1, 259, 40  # </s>, <eot>, one of the bytes


def tokenizer_of(suffix: str, *, refuses: bool = False):
    """The tests' tokenizer with a further special token, and a template that writes a suffix behind each message."""
    template = "{{ raise_exception('no system role') }}" if refuses else LOOP.replace("SUFFIX", suffix)
    tokenizer = build_tokenizer(template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<eot>", "<eot><eot>"]})
    return tokenizer


@pytest.mark.parametrize(
    ("suffix", "end"),
    [
        ("eos_token", EOS),
        ("'<eot>'", EOT),  # gemma-it, Phi-3, Llama-3-Instruct
        ("' <eot>' + '\\n' + eos_token", EOT),
        ("'<eot><eot>'", EOT + 1),  # the longest that begins there
        ("'\\n\\n'", EOS),  # no special token: the plain template
        ("'. <eot>'", EOS),  # not what follows the reply
    ],
)
def test_the_end_is_the_special_token_that_the_template_writes_behind_a_reply(suffix, end):
    tokenizer = tokenizer_of(suffix)
    assert turn_end(tokenizer) == end
    assert encode_response(tokenizer, "ab")[-1] == end and encode_response(tokenizer, "ab").count(end) == 1


def test_a_template_that_refuses_the_conversation_leaves_the_eos():
    assert turn_end(tokenizer_of("eos_token", refuses=True)) == EOS


@pytest.mark.parametrize(
    ("named", "stops"),
    [
        (None, {EOS, EOT}),
        ([EOS, EOT, 7], {EOS, EOT, 7}),  # a list was chosen, whatever the tokens are
        (EOT + 1, {EOS, EOT, EOT + 1}),
        (LETTER, {EOS, EOT}),  # the default of a model's class, an ordinary word here
    ],
)
def test_sampling_stops_at_every_id_of_generation_config(named, stops):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
    assert stop_ids(tokenizer_of("'<eot>'"), model) == stops
    assert stop_ids(tokenizer_of("'<eot>'"), SimpleNamespace()) == {EOS, EOT}


def test_only_the_token_that_ended_a_response_is_left_out():
    assert without_stop((5, EOT), frozenset({EOS, EOT})) == (5,)
    assert without_stop((EOT, 5), frozenset({EOS, EOT})) == (EOT, 5)
    assert without_stop((), frozenset({EOS})) == ()


def test_responses_end_at_an_end_of_turn_that_is_not_the_eos(tiny, full):
    """A byte is named as a second end and made likely: responses end there, and their text is without it."""
    policy = Policy.open(Checkpoint(tiny.path, ""), full, trainable=True)
    policy.network.model.generation_config.eos_token_id = [EOS, LETTER]
    head, bias = policy.network.head, torch.zeros(259)
    bias[LETTER] = 6.0
    policy.network.head = lambda states: head(states) + bias
    found = sample(policy, [Prompt(str(i), (), (0, 5 + i)) for i in range(30)], max_new_tokens=10, seed=3)
    ended = [s for s in found if s.ids[-1] == LETTER]
    assert len(ended) > 10
    letter = policy.tokenizer.decode([LETTER])
    for s, record in zip(found, to_generations(policy, found), strict=True):
        assert s.finished == (s.ids[-1] in (EOS, LETTER)) and not {EOS, LETTER} & {*s.ids[:-1]}
        assert letter not in record.response and record.length == len(s.ids)
