"""What all methods share when they are scored is computed once: the baseline's rewards, the reference's log-probs."""

from dataclasses import dataclass

import pandas
import pytest

from alignment_bench.benchmarks import answers, scoring
from alignment_bench.benchmarks.passes import counted
from alignment_bench.benchmarks.workshop import Workshop
from alignment_bench.methods.policy import Policy
from alignment_bench.results.chat import encode_prompt, encode_response
from alignment_bench.results.records import Generation, Score, win
from alignment_bench.results.store import SCORES, Store

ASK = ({"role": "user", "content": "Why is the sky blue?"},)


def responses(key, *texts):
    """A content key, and how to read the responses."""
    return key, lambda: [Generation(f"p{i}", ASK, text, len(text), True) for i, text in enumerate(texts)]


def test_the_baselines_rewards_are_computed_once(tmp_path, full):
    """Longer is better; each of four sets of responses is asked for once, though three are compared with the first."""
    asked = []

    @dataclass(frozen=True)
    class Longer:
        has_rewards = True

        def rewards(self, generations):
            asked.append([g.response for g in generations])
            return [float(len(g.response)) for g in generations]

        def compare(self, responses, rewards, baseline, its_rewards):
            assert [len(g.response) for g in baseline] == its_rewards
            for generation, ours, theirs in zip(responses, rewards, its_rewards, strict=True):
                yield Score("win_rate.longer", generation.prompt_id, win(ours, theirs))

    shop = Workshop(Store(tmp_path), full, {})
    baseline = responses("sft", "four", "four")
    found = {}
    for others in (baseline, responses("a", "three", "two"), responses("b", "two", "four"), responses("c", "0", "")):
        stage = answers.score(shop, "longer", Longer(), {}, others, baseline)
        found[others[0]] = pandas.read_parquet(stage.path / SCORES)["value"].tolist()
    assert found == {"sft": [0.5, 0.5], "a": [1.0, 0.0], "b": [0.0, 0.5], "c": [0.0, 0.0]}
    assert asked == [["four", "four"], ["three", "two"], ["two", "four"], ["0", ""]]


def test_the_references_log_probs_are_computed_once(tmp_path, tiny, full):
    """Also where the policy is the reference; other conversations are others."""
    shop, limits = Workshop(Store(tmp_path), full, {}), scoring.Limits(64, 8, 1.0)
    texts = [(ASK, "because"), (ASK, "of the dust in it")]
    with counted() as passes:
        with scoring.opened(shop, tiny, None, limits) as (policy, reference):
            first = policy.logps(texts)
            once = passes.scored
            assert once > 0 and reference.logps(texts) == first and passes.scored == once
        with scoring.opened(shop, tiny, tiny, limits) as (policy, reference):
            once = passes.scored
            assert reference.logps(texts) == first and passes.scored == once
            assert policy.logps(texts) == pytest.approx(first) and passes.scored > once
            assert reference.logps(texts[:1]) == pytest.approx(first[:1])
    tokenizer = tiny.tokenizer()
    ids = [(tuple(encode_prompt(tokenizer, p)), tuple(encode_response(tokenizer, text))) for p, text in texts]
    assert first == Policy.open(tiny, full, trainable=False).total_logps(ids).tolist()
