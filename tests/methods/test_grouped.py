"""RLOO, GRPO, online DPO and rejection sampling: advantages and losses by hand, and that they learn."""

import json
import math

import pytest
import torch

from alignment_bench.methods.grouped import Group
from alignment_bench.methods.grpo import GRPO
from alignment_bench.methods.grpo_terms import CISPO, DAPO, GSPO, DrGRPO
from alignment_bench.methods.iterative_dpo import IterativeDPO, IterativeTrainer
from alignment_bench.methods.online_dpo import OnlineDPO
from alignment_bench.methods.rejection import RejectionSampling, RejectionTrainer
from alignment_bench.methods.rloo import RLOO
from alignment_bench.models.chat import decode_response
from alignment_bench.models.policy import TokenValues
from alignment_bench.results.records import Prompt
from alignment_bench.results.store import folder_digest
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

REWARDS = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11)) for i in range(8)]


def group(new, old, reference, advantages, mask=None):
    """A group from nested lists of token log-probs."""
    new = torch.tensor(new)
    mask = torch.ones_like(new, dtype=torch.bool) if mask is None else torch.tensor(mask)
    parts = torch.tensor(old), torch.tensor(reference), torch.tensor(advantages)
    return Group(TokenValues(new, mask), *parts, longest=8, mean_tokens=2.5)


def test_rloo_advantages_by_hand():
    """Each less the mean of the other three: 1 - 11/3, 2 - 10/3, 3 - 3, 6 - 2; beta takes log-ratios off first."""
    assert RLOO(beta=0.0).advantages(REWARDS, torch.zeros(1, 4))[0].tolist() == pytest.approx([-8 / 3, -4 / 3, 0, 4])
    shifted = RLOO(beta=0.5).advantages(REWARDS + 0.5 * REWARDS, REWARDS)
    assert shifted[0].tolist() == pytest.approx([-8 / 3, -4 / 3, 0, 4])


def test_rloo_loss_by_hand():
    """Ratios exp(0.1 + 0.2) and exp(-0.5) of whole responses, advantages 1 and -1, clip 0.2:
    max(-e^0.3, -1.2) = -1.2 and max(e^-0.5, 0.8) = 0.8; the mean is -0.2."""
    loss, watched = RLOO(clip=0.2).loss(
        group([[0.1, 0.2], [-0.5, 0.0]], [[0.0] * 2] * 2, [[0.0] * 2] * 2, [[1.0, -1.0]])
    )
    assert loss.tolist() == pytest.approx([-0.2])
    assert watched["clip_fraction"].tolist() == [1.0]


def test_grpo_advantages_by_hand():
    """Mean 3, sample deviation sqrt((4 + 1 + 0 + 9) / 3)."""
    deviation = math.sqrt(14 / 3) + 1e-4
    found = GRPO().advantages(REWARDS, torch.zeros(1, 4))[0].tolist()
    assert found == pytest.approx([-2 / deviation, -1 / deviation, 0, 3 / deviation])


def test_grpo_loss_by_hand():
    """Response 1: ratios 1, the reference 0.3 above at the first token: k3 = e^0.3 - 0.3 - 1 there, 0 at the other.
    Response 2 has one real token, ratio e^0.5 clipped to 1.2 with advantage 2: -2.4; its padding counts for nothing."""
    found, watched = GRPO(beta=0.1, clip=0.2).loss(
        group(
            [[-1.0, -1.0], [-0.5, 7.0]],
            [[-1.0, -1.0], [-1.0, 0.0]],
            [[-0.7, -1.0], [-0.5, 0.0]],
            [[0.5, 2.0]],
            [[True, True], [True, False]],
        )
    )
    first = -0.5 + 0.1 * (math.exp(0.3) - 1.3) / 2
    assert found.tolist() == pytest.approx([(first - 2.4) / 2])
    assert watched["clip_fraction"].tolist() == [0.5]  # no token of the first response, the only one of the second


TWO = (  # as above: the first at ratio 1 and its KL, the second one token at e^0.5 with advantage 2
    [[-1.0, -1.0], [-0.5, 7.0]],
    [[-1.0, -1.0], [-1.0, 0.0]],
    [[-0.7, -1.0], [-0.5, 0.0]],
    [[0.5, 2.0]],
    [[True, True], [True, False]],
)


def test_grpos_relatives_by_hand():
    """Sums of both responses: -0.5 twice with the KL's e^0.3 - 1.3 once, and -2.4, or -2.56 where ratios go up to 1.28;
    divided by 8 tokens (Dr. GRPO) or the round's mean, 2.5 (DAPO), and then by two responses."""
    kl = 0.1 * (math.exp(0.3) - 1.3)
    for method, loss in (
        (DrGRPO(beta=0.1), (-1.0 + kl - 2.4) / 8 / 2),
        (DAPO(beta=0.1), (-1.0 + kl - 2.56) / 2.5 / 2),
    ):
        assert method.loss(group(*TWO))[0].tolist() == pytest.approx([loss])
        assert method.loss(group(*TWO))[1]["clip_fraction"].tolist() == [0.5]
    assert DrGRPO().advantages(REWARDS, torch.zeros(1, 4))[0].tolist() == [-2.0, -1.0, 0.0, 3.0]


def test_gspo_has_one_ratio_a_response_by_hand():
    """Log-ratios 0.3 and -0.1: their mean gives e^0.1, within 1.2, whatever the first token's alone is; then e^-0.4
    below 0.9 with a negative advantage: 0.9."""
    method = GSPO(clip=0.1, clip_high=0.2)
    loss, watched = method.loss(
        group([[0.3, -0.1], [-0.4, 5.0]], [[0.0, 0.0]] * 2, [[0.3, -0.1], [-0.4, 5.0]], [[1.0, -1.0]], TWO[-1])
    )
    assert loss.tolist() == pytest.approx([(-math.exp(0.1) + 0.9) / 2])
    assert watched["clip_fraction"].tolist() == [0.5]


def test_cispo_weighs_log_probs_by_capped_ratios_without_their_gradient():
    """Ratios e^0.5 under a cap of 1.5 and 1 in one row, e^-0.5 in the other: the gradient of a token's log-prob is
    -weight * advantage / 2.5 tokens / 2 responses, for a ratio below any clip as well."""
    given = group([[-0.5, -1.0], [-1.5, 0.0]], [[-1.0, -1.0]] * 2, [[0.0, 0.0]] * 2, [[2.0, -1.0]], TWO[-1])
    given.new.values.requires_grad_()
    loss, watched = CISPO(ratio_cap=1.5).loss(given)
    loss.sum().backward()
    expected = [[-1.5 * 2 / 5, -1.0 * 2 / 5], [math.exp(-0.5) / 5, 0.0]]
    assert given.new.values.grad.tolist() == [pytest.approx(row) for row in expected]
    assert loss.tolist() == pytest.approx([(0.5 * 1.5 * 2 + 1.0 * 2 - 1.5 * math.exp(-0.5)) / 5])
    assert watched["clip_fraction"].tolist() == [0.25]


def test_iterative_dpo_pairs_the_best_with_the_worst_in_as_many_rounds_as_it_says(tiny, full, tmp_path, monkeypatch):
    """A budget of 100 in 3 rounds is 33 a round, and 32 in whole prompts of 4. Rewards 0 to 3 in an order that changes:
    the pair is the best and the worst, and only it is paid."""
    learnt, seen, learn = [], [], IterativeTrainer.learn

    def keep(self, rollout):
        learnt.append(rollout)
        return learn(self, rollout)

    def reward(generations):
        seen.append(list(generations))
        return [float((i + i // 4) % 4) for i in range(len(generations))]

    monkeypatch.setattr(IterativeTrainer, "learn", keep)
    task = TrainingTask(
        tiny, PairDataset([], lambda: None), PromptDataset(PROMPTS, 6), reward, Budget(100), 0, tmp_path, full
    )
    IterativeDPO(rounds=3, lr=1e-3, minibatch_size=8).train(task)
    assert [len(found) for found in seen] == [32] * 3 and [len(found.sequences) for found in learnt] == [16] * 3
    for round_, found in zip(seen, learnt, strict=True):
        best, worst = ([round_[4 * i + (place - i) % 4] for i in range(8)] for place in (3, 0))
        texts = [decode_response(tiny.tokenizer(), ids) for _, ids in found.sequences]
        assert texts[::2] == [g.response for g in best] and texts[1::2] == [g.response for g in worst]
        assert found.advantages.tolist() == [[1.0, -1.0]] * 8
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["trained_tokens"] == sum(len(p) + len(r) for found in learnt for p, r in found.sequences)
    assert cost["optimizer_steps"] == 3 * 2 and cost["reward_queries"] == 96  # 4 pairs a step


def test_iterative_dpos_reference_is_sft_or_who_sampled():
    """Against the last round the log-ratios are 0 where the policy has not moved since; against SFT they are not."""
    new, old, reference = [[-3.0], [-1.0]], [[-3.0], [-1.0]], [[-2.0], [-2.0]]
    given = group(new, old, reference, [[-1.0, 1.0]])
    assert IterativeDPO(beta=0.5, reference="last_round").loss(given)[0].tolist() == pytest.approx([math.log(2)])
    assert IterativeDPO(beta=0.5).loss(given)[0].tolist() == pytest.approx([math.log(1 + math.exp(-1))])


def test_online_dpo_takes_the_better_as_chosen_and_learns_nothing_from_a_tie():
    """The second is better by 1: h = beta ((-1 - -2) - (-3 - -2)) = 1 at beta 0.5."""
    method = OnlineDPO(beta=0.5)
    advantages = method.advantages(torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.zeros(2, 2))
    new, reference = [[-3.0], [-1.0], [-3.0], [-1.0]], [[-2.0]] * 4
    loss, watched = method.loss(group(new, new, reference, advantages.tolist()))
    assert watched["margin"].tolist() == [2.0, 0.0]
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1)), 0.0])


def test_rejection_sampling_trains_on_the_best_alone(tiny, full, tmp_path, monkeypatch):
    """Rewards 0, 1, 2, ... in the order of the samples: of each prompt's four the last is kept, and only it is paid."""
    kept = []
    learn = RejectionTrainer.learn
    monkeypatch.setattr(
        RejectionTrainer, "learn", lambda self, rollout: (kept.extend(rollout.sequences), learn(self, rollout))[1]
    )
    seen = []

    def reward(generations):
        seen.extend(generations)
        return [float(i) for i in range(len(generations))]

    task = TrainingTask(
        tiny, PairDataset([], lambda: None), PromptDataset(PROMPTS, 6), reward, Budget(32), 0, tmp_path, full
    )
    RejectionSampling(rollout_size=32, lr=1e-3, missing_eos_penalty=0.0).train(task)
    assert len(seen) == 32 and len(kept) == 8
    assert sorted(len(ids) for _, ids in kept) == sorted(g.length for g in seen[3::4])
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["trained_tokens"] == sum(len(p) + len(r) for p, r in kept)


@pytest.mark.parametrize("cls", [RLOO, GRPO, OnlineDPO, RejectionSampling])
def test_learns_and_leaves_the_rest_alone(cls, tiny, full, tmp_path):
    """Reward: lower-case letters in the response, as in PPO's test. Three seeds; whole groups; the budget is kept."""

    def reward(generations):
        return [float(sum(c.islower() for c in g.response)) for g in generations]

    def no_reference():
        raise AssertionError("online methods must not ask for reference log-probs of pairs")

    before = folder_digest(tiny.path)
    for seed in range(3):
        out = tmp_path / str(seed)
        out.mkdir()
        task = TrainingTask(
            tiny, PairDataset([], no_reference), PromptDataset(PROMPTS, 6), reward, Budget(32 * 16), seed, out, full
        )
        cls(rollout_size=32, lr=1e-2).train(task)
        rewards = [json.loads(line)["reward"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert len(rewards) == 16
        # a round's mean has a standard error of about 0.17, so by chance this differs by 0.6 once in 5,000 times
        assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.6
        cost = json.loads((out / "cost.json").read_text())
        assert cost["examples"] == cost["reward_queries"] == 32 * 16
    assert folder_digest(tiny.path) == before


def test_micro_batches_leave_the_update_alone(tiny, full, tmp_path):
    """Groups in one pass and in passes of one group each give the same losses."""
    from dataclasses import replace

    logs = []
    for micro in (8192, 24):
        out = tmp_path / str(micro)
        out.mkdir()
        task = TrainingTask(
            tiny,
            PairDataset([], lambda: None),
            PromptDataset(PROMPTS, 6),
            lambda rows: [float(sum(c.islower() for c in g.response)) for g in rows],
            Budget(64),
            0,
            out,
            replace(full, micro_tokens=micro),
        )
        GRPO(rollout_size=32, minibatch_size=16, lr=1e-3).train(task)
        logs.append([json.loads(line)["grad_norm"] for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
