"""Work that all methods' scores share is done once: the baseline's rewards, the reference's log-probs."""

from dataclasses import dataclass

import pandas
import pytest

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.definition.spec import SupervisedFineTuning
from alignment_bench.benchmarks.selfcheck.passes import counted
from alignment_bench.benchmarks.stages.open_policy import Limits, opened
from alignment_bench.benchmarks.stages.responses import Responses, read_answers
from alignment_bench.benchmarks.stages.scores import score_responses
from alignment_bench.benchmarks.stages.trained import train_sft
from alignment_bench.models.chat import encode_prompt, encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.results.records import Generation, Pair, Prompt, Score, win
from alignment_bench.results.store import GENERATIONS, MODEL, SCORES, Store, write_jsonl

ASK = ({"role": "user", "content": "Why is the sky blue?"},)


def responses(key, *texts):
    """Responses to two prompts, with a content key."""
    return Responses(key, lambda: [Generation(f"p{i}", ASK, text, len(text), True) for i, text in enumerate(texts)])


@pytest.mark.parametrize("alone", [False, True])
def test_the_baselines_rewards_are_computed_once(tmp_path, full, alone):
    """Longer is better; each of four sets of responses is asked for once, though three are compared with the first.

    Where rewards depend on the text alone, the second response of b is not asked for: the baseline gave it to the same
    prompt. That of c it gave to the other prompt.
    """
    asked = []

    @dataclass(frozen=True)
    class Longer:
        has_rewards = True
        rewards_text = alone

        def rewards(self, generations):
            asked.append([g.response for g in generations])
            return [float(len(g.response)) for g in generations]

        def compare(self, responses, rewards, baseline):
            for generation, ours, theirs in zip(responses, rewards, baseline, strict=True):
                yield Score("win_rate.longer", generation.prompt_id, win(ours, theirs))

    shop = Workshop(Store(tmp_path), full, {})
    baseline = responses("sft", "four", "five")
    found = {}
    for others in (
        baseline,
        responses("a", "three", "two"),
        responses("b", "two", "five"),
        responses("c", "0", "four"),
    ):
        stage = score_responses(shop, "longer", Longer(), {}, others, baseline)
        found[others.key] = pandas.read_parquet(stage.path / SCORES)["value"].tolist()
    assert found == {"sft": [0.5, 0.5], "a": [1.0, 0.0], "b": [0.0, 0.5], "c": [0.0, 0.5]}
    assert asked == [["four", "five"], ["three", "two"], ["two"] if alone else ["two", "five"], ["0", "four"]]


def test_the_references_log_probs_are_computed_once(tmp_path, tiny, full):
    """Also where the policy is the reference; other conversations are others."""
    shop, limits = Workshop(Store(tmp_path), full, {}), Limits(64, 8, 1.0)
    texts = [(ASK, "because"), (ASK, "of the dust in it")]
    with counted() as passes:
        with opened(shop, tiny, None, limits) as (policy, reference):
            first = policy.logps(texts)
            once = passes.scored
            assert once > 0 and reference.logps(texts) == first and passes.scored == once
        with opened(shop, tiny, tiny, limits) as (policy, reference):
            once = passes.scored
            assert reference.logps(texts) == first and passes.scored == once
            assert policy.logps(texts) == pytest.approx(first, rel=1e-5) and passes.scored > once
            assert reference.logps(texts[:1]) == pytest.approx(first[:1], rel=1e-5)
    tokenizer = tiny.tokenizer()
    ids = [(tuple(encode_prompt(tokenizer, p)), tuple(encode_response(tokenizer, text))) for p, text in texts]
    assert first == Policy.open(tiny, full, trainable=False).total_logps(ids).tolist()


def test_what_sfts_gate_looked_at_is_known_to_the_reference(tmp_path, tiny, full):
    """Of three replies to one prompt, two were held out from SFT: only the third goes through the model."""
    shop, tokenizer = Workshop(Store(tmp_path), full, {}), tiny.tokenizer()
    texts = [(ASK, "of the dust in it"), (ASK, "because"), (ASK, "I cannot say")]
    prompt = tuple(encode_prompt(tokenizer, ASK))
    one, other, third = (tuple(encode_response(tokenizer, text)) for _, text in texts)
    pairs = [Pair("x", Prompt("p", ASK, prompt), chosen=other, rejected=one)]
    settings = SupervisedFineTuning(examples=4, lr=1e-3, batch_size=2, replies="both")
    stage = train_sft(shop, tiny, settings, pairs, pairs)
    sft = Checkpoint(stage.path / MODEL, stage.content)
    with opened(shop, sft, None, Limits(64, 8, 1.0)) as (_, reference):
        expected = [float(reference.policy.total_logps([(prompt, ids)])) for ids in (one, other, third)]
        with counted() as passes:
            found = reference.logps(texts)
    assert found == pytest.approx(expected, rel=1e-5)
    assert passes.scored == len(prompt) + len(third)
    # beside a model that was not trained here a file of that name says nothing
    with opened(shop, sft, None, Limits(64, 8, 1.0), has_gate=False) as (_, reference):
        reference.policy.total_logps([(prompt, one)])  # so that how to pack is found out before
        with counted() as passes:
            assert reference.logps(texts[:2]) == pytest.approx(expected[:2], rel=1e-5)
    assert passes.scored == len(prompt) + len(one) + len(other)


def test_answers_without_thoughts_are_other_responses_with_a_key_of_their_own(tmp_path):
    texts = ("<think>hm</think>yes", "no", "<think>never ends")
    stage = Store(tmp_path).stage("x", {}, lambda out: write_jsonl(out / GENERATIONS, responses("x", *texts).read()))
    whole, inside = read_answers(stage, opened=False), read_answers(stage, opened=True)
    assert [g.response for g in whole.read()] == ["yes", "no", ""]
    assert [g.response for g in inside.read()] == ["yes", "", ""]  # a prompt that opens them leaves thoughts alone
    assert [g.length for g in whole.read()] == [len(text) for text in texts]
    assert len({whole.key, inside.key, stage.content}) == 3
