"""SFT as a stage: which replies it imitates, and that a short reply does not weigh more than a long one; best-of-n."""

import math

import pytest
import torch

from alignment_bench.benchmarks.answers import Choice, generate
from alignment_bench.benchmarks.passes import counted
from alignment_bench.benchmarks.rows import method_settings
from alignment_bench.benchmarks.spec import Supervised, SupervisedFineTuning, load_spec
from alignment_bench.benchmarks.stages import MODEL, pair_dataset, train_reward_model, train_sft
from alignment_bench.benchmarks.workshop import Workshop
from alignment_bench.evaluators.reward_model import RewardModel, RewardModelWinRate
from alignment_bench.methods.base import Pair, Prompt, PromptDataset
from alignment_bench.methods.policy import Policy
from alignment_bench.methods.rollout import sample, to_generations
from alignment_bench.results.chat import encode_prompt, encode_response
from alignment_bench.results.checkpoint import Checkpoint
from alignment_bench.results.records import Generation
from alignment_bench.results.store import GENERATIONS, Store, read_generations

PROMPT = Prompt("p", ({"role": "user", "content": "?"},), (0, 10, 11))
SHORT, LONG = (20, 1), (30, *range(40, 70), 1)  # ids; 1 is EOS


def first_token_logps(tmp_path, tiny, full, replies: str) -> tuple[float, float]:
    """Train on one pair with SFT; log-probs of the first token of the chosen (short) and the rejected (long) reply."""
    pairs = [Pair("x", PROMPT, chosen=SHORT, rejected=LONG)]
    settings = SupervisedFineTuning(examples=480, lr=3e-3, batch_size=4, replies=replies)
    stage = train_sft(Workshop(Store(tmp_path), full, {}), tiny, settings, pairs, pairs)
    policy = Policy.open(Checkpoint(stage.path / MODEL, ""), full, trainable=False)
    short, long = policy.total_logps([(PROMPT.ids, SHORT[:1]), (PROMPT.ids, LONG[:1])])
    return float(short), float(long)


def test_both_replies_weigh_the_same_whatever_their_length(tmp_path, tiny, full):
    """Each reply is shown equally often, so each first token has probability 1/2; with a mean over each reply's own
    tokens the short one's would weigh 32 / 2 = 16 times as much, and have 16/17."""
    short, long = first_token_logps(tmp_path, tiny, full, "both")
    assert abs(math.exp(short) - 0.5) < 0.1
    assert abs(math.exp(long) - 0.5) < 0.1


def test_chosen_replies_only(tmp_path, tiny, full):
    short, long = first_token_logps(tmp_path, tiny, full, "chosen")
    assert math.exp(short) > 0.95
    assert math.exp(long) < 0.02


def test_reference_log_probs_in_blocks_are_those_of_each_pair(tmp_path, tiny, full, monkeypatch):
    pairs = [Pair(f"x{i}", PROMPT, (*range(20, 21 + i), 1), (*range(90, 99 - i), 1)) for i in range(7)]
    monkeypatch.setattr("alignment_bench.results.lazy.BLOCK", 3)
    chosen, rejected = pair_dataset(Workshop(Store(tmp_path), full, {}), tiny, pairs).reference()
    policy = Policy.open(tiny, full, trainable=False)
    for i, pair in enumerate(pairs):
        expected = policy.total_logps([(pair.prompt.ids, pair.chosen), (pair.prompt.ids, pair.rejected)])
        assert torch.allclose(torch.stack([chosen[i], rejected[i]]), expected, atol=1e-5)


def test_what_the_gate_of_a_reward_model_scored_is_known(tmp_path, tiny, full):
    """Both sides of held-out pairs, one of two prompts: as the saved model scores them, without a pass."""
    tokenizer, texts = tiny.tokenizer(), [("yes", "no, it is not"), ("I cannot say", "blue")]
    asks = [({"role": "user", "content": text},) for text in ("Is the sky blue?", "Why?")]
    prompts = [Prompt(f"p{i}", ask, tuple(encode_prompt(tokenizer, ask))) for i, ask in enumerate(asks)]
    pairs = [
        Pair(f"x{i}", prompts[i], *(tuple(encode_response(tokenizer, text)) for text in sides))
        for i, sides in enumerate(texts)
    ]
    settings = Supervised(examples=8, lr=1e-3, batch_size=2)
    stage = train_reward_model(Workshop(Store(tmp_path), full, {}), tiny, settings, pairs, pairs, seed=1)
    shown = [
        Generation(p.id, p.messages, text, 5, True) for p, sides in zip(prompts, texts, strict=True) for text in sides
    ]
    with counted() as passes:
        found = RewardModelWinRate(str(stage.path / MODEL), full).rewards(shown)
    assert passes.scored == 0
    assert found == pytest.approx(RewardModel.open(stage.path / MODEL, full)(shown), rel=1e-5, abs=1e-5)


def test_the_best_of_three_is_the_answer(tmp_path, tiny, full):
    """Against sampling the same three by hand; two other settings make other stages."""
    prompts = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11)) for i in range(5)]
    shop = Workshop(Store(tmp_path), full, {})

    def answers(choice):
        stage = generate(shop, tiny, tiny, PromptDataset(prompts, 12), temperature=1.0, seed=3, choice=choice)
        return stage.key, read_generations(stage.path / GENERATIONS)

    def letters(rows):
        return [float(sum(c.islower() for c in g.response)) for g in rows]

    key, found = answers(Choice(3, lambda: letters, "letters"))
    policy = Policy.open(tiny, full, trainable=False)
    three = to_generations(policy, sample(policy, [p for p in prompts for _ in range(3)], max_new_tokens=12, seed=3))
    assert [g.prompt_id for g in found] == [p.id for p in prompts]
    assert letters(found) == [max(letters(three[3 * i : 3 * i + 3])) for i in range(5)] != letters(three[::3])
    assert {g.kl for g in found} == {math.log(3) - 2 / 3}
    assert len({key, answers(Choice(2, lambda: letters, "letters"))[0], answers(None)[0]}) == 3


def test_a_benchmarks_defaults_reach_every_method_that_has_the_field():
    """DPO has no rollout_size; its own lr goes over the default's; TRL's trainer takes DPO's; best-of-n has neither."""
    spec = load_spec("quick").model_copy(
        update={"method_defaults": {"lr": 0.5, "rollout_size": 7}, "methods": {"dpo": {"lr": 0.25, "beta": 2.0}}}
    )
    assert method_settings(spec, "dpo") == {"lr": 0.25, "beta": 2.0} == method_settings(spec, "trl-dpo")
    assert method_settings(spec, "rloo") == {"lr": 0.5, "rollout_size": 7}
    assert method_settings(spec, "best_of_n") == {}
