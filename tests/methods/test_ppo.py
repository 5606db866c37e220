"""PPO's parts: the first update, rewards, whitening, values, what is left alone, and that it learns."""

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch

from alignment_bench.benchmarks.selfcheck.passes import counted
from alignment_bench.errors import TrainingError
from alignment_bench.methods.ppo import PPO, Trainer, token_rewards, whiten
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.network import Network
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import Sample
from alignment_bench.models.sampling import sample
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Prompt
from alignment_bench.results.store import folder_digest
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

ONE_TRUNK = {"critic_start": "policy", "samples_per_prompt": 4}
PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11)) for i in range(8)]


def no_reference():
    raise AssertionError("PPO must not ask for reference log-probs of pairs")


def make_task(sft, tuning, out, reward, *, examples=16, seed=0, max_new_tokens=6):
    out.mkdir(exist_ok=True)
    prompts = PromptDataset(PROMPTS, max_new_tokens)
    return TrainingTask(sft, PairDataset([], no_reference), prompts, reward, Budget(examples), seed, out, tuning)


def make_trainer(sft, tuning, out, reward, method=None, **task):
    method = method or PPO(rollout_size=8, minibatch_size=4, epochs=2)
    task = make_task(sft, tuning, out, reward, **task)
    policy = Policy.open(sft, tuning, trainable=True)
    reference = Policy.open(sft, tuning, trainable=False)
    critic = method.open_critic(task) if method.needs_critic else None
    return Trainer(method, task, policy, reference, critic)


def sampled(trainer, *, temperature=1.0, max_new_tokens=6):
    """A round's responses to the first four prompts, two to each."""
    prompts = [prompt for prompt in PROMPTS[:4] for _ in range(2)]
    return sample(
        trainer.policy,
        prompts,
        max_new_tokens=max_new_tokens,
        seed=0,
        temperature=temperature,
        value_head=trainer.value_head,
    )


def warm_up(trainer):
    """Let all networks find out whether responses may share a row, before passes are counted."""
    assert all(n.packs for n in (trainer.policy.network, trainer.reference.network, trainer.critic))


def by_length(generations):
    return [float(g.length) for g in generations]


def test_first_rollout_has_ratio_1_kl_0_and_no_clipping(tiny, tuning, tmp_path):
    trainer = make_trainer(tiny, tuning, tmp_path, by_length, PPO(rollout_size=8, minibatch_size=4, epochs=1, lr=1e-12))
    samples = sample(trainer.policy, PROMPTS, max_new_tokens=6, seed=0)
    rollout = trainer.score(samples)
    assert rollout.signals["kl_estimate"] == pytest.approx(0.0, abs=1e-4)  # of log-probs of about -30
    outcome = trainer.learn(rollout)
    assert outcome["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert outcome["clip_fraction"] == 0.0


def test_ratio_stays_1_over_all_epochs_without_learning(tiny, tuning, tmp_path):
    """A learning rate that cannot move fp32 weights: minibatches, padding and epochs alone must not move the ratio."""
    trainer = make_trainer(tiny, tuning, tmp_path, by_length, PPO(rollout_size=8, minibatch_size=3, epochs=4, lr=1e-30))
    rollout = trainer.score(sample(trainer.policy, PROMPTS, max_new_tokens=6, seed=0))
    assert trainer.learn(rollout)["ratio"] == pytest.approx(1.0, abs=1e-5)


def test_token_rewards_sum_to_score_minus_beta_kl():
    """Row 1: log-ratios 0.5, -0.2, 0.1 and score 2, beta 0.1: -0.05, 0.02, 2 - 0.01. Row 2 has one token."""
    logps = torch.tensor([[0.5, -0.2, 0.1], [1.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = token_rewards(torch.tensor([2.0, -1.0]), logps, mask, beta=0.1)
    assert found[0].tolist() == pytest.approx([-0.05, 0.02, 1.99])
    assert found[1].tolist() == pytest.approx([-1.1, 0.0, 0.0])


def test_adaptive_beta_by_hand(tiny, full, tmp_path, monkeypatch):
    """Target 2, gain 0.1. KL 0 is 100% too low, cut at 20%: beta 1 falls to 0.98; KL 2.2 is 10% over: times 1.01."""
    trainer = make_trainer(tiny, full, tmp_path, by_length, PPO(rollout_size=8, beta=1.0, target_kl=2.0))
    monkeypatch.setattr(trainer, "learn", lambda rollout, learn_policy: {})
    for kl, expected in ((0.0, 0.98), (2.2, 0.98 * 1.01), (50.0, 0.98 * 1.01 * 1.02)):
        monkeypatch.setattr(trainer, "score", lambda samples, kl=kl: SimpleNamespace(signals={"kl_estimate": kl}))
        trainer.round(0, [])
        assert trainer.beta == pytest.approx(expected)


def test_rewards_are_taken_as_they_are_without_normalization(tiny, full, tmp_path):
    """Raw rewards 5; minus nothing, for beta is 0 and the penalty is 0: every return is 5."""
    method = PPO(rollout_size=8, beta=0.0, missing_eos_penalty=0.0, lam=1.0, normalize_reward=False)
    trainer = make_trainer(tiny, full, tmp_path, lambda g: [5.0] * len(g), method)
    rollout = trainer.score(sample(trainer.policy, PROMPTS, max_new_tokens=4, seed=0))
    assert rollout.returns[rollout.mask].tolist() == pytest.approx([5.0] * int(rollout.mask.sum()), rel=1e-5)


def test_rewards_are_normalized_by_the_first_rounds_responses(tiny, full, tmp_path):
    """First round 1, 1, 3, 3, ...: mean 2, deviation 1, kept in the second round: 6 becomes 4, less 1 without EOS."""
    values = iter([[1.0, 3.0] * 4, [6.0] * 8])
    trainer = make_trainer(tiny, full, tmp_path, lambda g: next(values), PPO(rollout_size=8))
    samples = [Sample(p, (20, 1), True) for p in PROMPTS]
    assert trainer.rewards(samples)[0].tolist() == pytest.approx([-1.0, 1.0] * 4)
    cut = [Sample(p, (20, 21), i > 0) for i, p in enumerate(PROMPTS)]
    assert trainer.rewards(cut)[0].tolist() == pytest.approx([3.0] + [4.0] * 7)


def test_policy_and_reference_share_the_sampling_temperature(tiny, full, tmp_path):
    """After a step of the policy, both log-probs equal the softmax of plain transformers' logits over 0.5."""
    trainer = make_trainer(tiny, full, tmp_path, by_length, PPO(rollout_size=8, temperature=0.5))
    with torch.no_grad():
        for weight in trainer.policy.network.parameters:
            weight.mul_(1.1)
    prompt, response = (0, 10), (20, 21, 1)
    for policy in (trainer.policy, trainer.reference):
        with torch.no_grad():
            logits = policy.network.activate()(input_ids=torch.tensor([prompt + response])).logits[0, 1:4]
        expected = (logits / 0.5).log_softmax(-1)[range(3), response]
        assert trainer.logps(policy, [(prompt, response)]).values[0].tolist() == pytest.approx(
            expected.tolist(), rel=1e-5
        )


def test_minibatches_are_a_fresh_permutation_each_epoch(tiny, full, tmp_path):
    trainer = make_trainer(tiny, full, tmp_path, by_length)
    epochs = [[i for part in trainer.minibatches(10, 4) for i in part] for _ in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_dropout_is_off_in_policy_reference_and_critic(full, tmp_path, make_tiny):
    """A checkpoint that asks for dropout everywhere: two passes of each network are the same to the bit."""
    folder = make_tiny(tmp_path / "dropout")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    trainer = make_trainer(Checkpoint(folder, "d"), full, tmp_path / "t", by_length)
    torch.nn.init.normal_(trainer.critic.score.weight)
    rows = [((0, 10), (20, 21, 1))]
    layout = trainer.critic.lay_out(rows)
    for once in (trainer.policy.logps, trainer.reference.logps, trainer.values):
        assert torch.equal(once(layout).values, once(layout).values)
    trainer.policy.network.model.train()  # with dropout on it would show: the test can fail
    assert not torch.equal(trainer.policy.logps(rows).values, trainer.policy.logps(rows).values)


def test_whitening_sees_real_tokens_only():
    """Real values 1, 3 (mean 2, deviation 1) become -1, 1; the padded 100 counts for nothing and becomes 0."""
    found = whiten(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]]))
    assert found[0].tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-6)


def test_values_do_not_depend_on_padding(tiny, tuning, tmp_path):
    trainer = make_trainer(tiny, tuning, tmp_path, by_length)
    torch.nn.init.normal_(trainer.critic.score.weight)
    sequences = [((0, 10), (20, 21, 22, 1)), ((0, 10, 11, 12, 13), (30, 1))]
    with torch.no_grad():
        both = trainer.values(trainer.critic.lay_out(sequences))
        alone = [trainer.values(trainer.critic.lay_out([s])).values[0].tolist() for s in sequences]
    assert both.values[0].tolist() == pytest.approx(alone[0], rel=1e-4, abs=1e-4)
    assert both.values[1, :2].tolist() == pytest.approx(alone[1], rel=1e-4, abs=1e-4)
    assert both.values[1, 2:].tolist() == [0.0, 0.0]


def test_missing_eos_is_penalized(tiny, full, tmp_path):
    """Constant rewards normalize to 0, so a response's rewards sum to minus the penalty where EOS is missing."""
    method = PPO(rollout_size=8, beta=0.0, missing_eos_penalty=3.0, lam=1.0)
    trainer = make_trainer(tiny, full, tmp_path, lambda g: [5.0] * len(g), method)
    samples = sample(trainer.policy, PROMPTS, max_new_tokens=1, seed=0)
    rollout = trainer.score(samples)
    expected = [0.0 if s.finished else -3.0 for s in samples]
    assert rollout.returns[:, 0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert -3.0 in expected


def test_micro_batches_leave_the_update_alone(tiny, tmp_path):
    """The same minibatch in one pass and in passes of one row each gives the same weights."""
    results = []
    for micro_tokens in (8192, 10):
        tuning = Tuning(precision="fp32", device="cpu", micro_tokens=micro_tokens)
        method = PPO(rollout_size=8, minibatch_size=8, epochs=1, lr=1e-3, warmup=0.0)
        trainer = make_trainer(tiny, tuning, tmp_path / str(micro_tokens), by_length, method)
        rollout = trainer.score(sample(trainer.policy, PROMPTS, max_new_tokens=6, seed=0))
        outcome = trainer.learn(rollout)
        results.append((outcome["loss"], outcome["grad_norm"], outcome["value_loss"]))
    assert results[0] == pytest.approx(results[1], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("tuning", "critic"),
    [
        pytest.param("full", {}, id="full-own critic"),
        pytest.param("lora", ONE_TRUNK, id="lora-one trunk"),
        pytest.param("lora", {}, id="lora-own critic", marks=pytest.mark.slow),
        pytest.param("full", ONE_TRUNK, id="full-one trunk", marks=pytest.mark.slow),
    ],
    indirect=["tuning"],
)
def test_ppo_learns_saves_and_leaves_the_rest_alone(tiny, tuning, tmp_path, critic):
    """Reward: lower-case letters in the response. Over three seeds the last rounds beat the first ones clearly."""
    before = folder_digest(tiny.path)

    def reward(generations):
        return [float(sum(c.islower() for c in g.response)) for g in generations]

    for seed in range(3):
        lr = 3e-2 if tuning.lora_rank else 1e-2
        method = PPO(rollout_size=32, minibatch_size=16, epochs=4, lr=lr, critic_lr=1e-2, beta=0.01, **critic)
        task = make_task(tiny, tuning, tmp_path / str(seed), reward, examples=32 * 24, seed=seed)
        found = method.train(task)
        rewards = [json.loads(line)["reward"] for line in (task.out / "metrics.jsonl").read_text().splitlines()]
        assert len(rewards) == 24
        # a round's mean has a standard error of about 0.17, so by chance this differs by 0.6 once in 5,000 times
        assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.6
        assert (
            Policy.open(Checkpoint(found.path, ""), tuning, trainable=True).total_logps([((0, 10), (20, 1))]).isfinite()
        )
        cost = json.loads((task.out / "cost.json").read_text())
        assert cost["examples"] == cost["reward_queries"] == 32 * 24
    assert folder_digest(tiny.path) == before


def test_critic_from_the_reward_model_begins_with_its_scores(tiny, tuning, tmp_path):
    """At the last token the critic says what the reward model says of the whole response, on the normalized scale."""
    made = open_network(tiny.path, "score", tuning, trainable=True, head_std=0.5)
    made.save(tmp_path / "rm", tiny.tokenizer())
    made.close()
    task = dataclasses.replace(
        make_task(tiny, tuning, tmp_path / "t", by_length), reward_model=Checkpoint(tmp_path / "rm", "rm")
    )
    method = PPO(rollout_size=8, critic_start="reward_model")
    policy = Policy.open(tiny, tuning, trainable=True)
    critic = method.open_critic(task)
    trainer = Trainer(method, task, policy, Policy.open(tiny, tuning, trainable=False), critic)
    trainer.scale = (2.0, 4.0)
    prompt, response = (0, 10), (20, 21, 1)
    frozen = open_network(tmp_path / "rm", "score", tuning, trainable=False)
    frozen.activate()
    with torch.no_grad():
        found = trainer.values(critic.lay_out([(prompt, response)])).values[0]
        hidden = frozen.backbone(input_ids=torch.tensor([prompt + response])).last_hidden_state[
            0, 1:4
        ]  # the states from which it is predicted
        expected = (frozen.head(hidden.float())[:, 0] - 2.0) / 4.0
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)
    assert all(p.requires_grad for p in critic.parameters)
    with pytest.raises(TrainingError, match="needs a reward model of the policy's family"):
        method.open_critic(make_task(tiny, tuning, tmp_path / "t", by_length))


SHARED = PPO(
    rollout_size=8, minibatch_size=4, epochs=1, lr=1e-3, warmup=0.0, critic_start="policy", samples_per_prompt=2
)


def test_one_trunk_learns_the_sum_of_both_losses(tiny, tuning, tmp_path):
    """The joint gradient is that of the policy's loss plus 0.1 times that of the value loss, each taken alone."""
    trainer = make_trainer(tiny, tuning, tmp_path, by_length, SHARED)
    torch.nn.init.normal_(trainer.value_head.weight)
    rollout = trainer.score(sampled(trainer))
    layout = trainer.policy.network.lay_out(rollout.sequences)
    weights = [*trainer.policy.network.parameters, trainer.value_head.weight]

    def gradient(loss):
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]

    both = gradient(trainer.joint_loss(rollout, layout)[0])
    policy = gradient(trainer.policy_loss(rollout, layout)[0])
    value = gradient(trainer.value_loss(rollout, layout)[0])
    assert max(float(g.abs().max()) for g in value[:-1]) > 0  # the value loss moves the trunk too
    scale = max(float(g.abs().max()) for g in both)
    for joint, one, other in zip(both, policy, value, strict=True):
        torch.testing.assert_close(joint, one + 0.1 * other, rtol=1e-4, atol=1e-5 * scale)


def test_what_the_sampler_kept_is_what_passes_over_whole_rows_give(tiny, tuning, tmp_path):
    trainer = make_trainer(
        tiny, tuning, tmp_path, by_length, dataclasses.replace(SHARED, temperature=1.3), max_new_tokens=60
    )
    torch.nn.init.normal_(trainer.value_head.weight)
    samples = sampled(trainer, temperature=1.3, max_new_tokens=60)
    sequences = [(s.prompt.ids, s.ids) for s in samples]
    assert len({len(s.ids) for s in samples}) > 1  # rows end at different times
    logps = trainer.logps(trainer.policy, sequences)
    values = trainer.collect(sequences, trainer.policy.network, trainer.values)
    torch.testing.assert_close(trainer.old_logps(samples).values, logps.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trainer.drawn([s.values for s in samples]).values, values.values, rtol=1e-4, atol=1e-4)
    assert torch.equal(trainer.old_logps(samples).mask, logps.mask)
    before = trainer.ledger.scored_tokens
    trainer.score(samples)  # the policy is the reference still: nobody looks at them
    assert trainer.ledger.scored_tokens == before
    trainer.optimizer.schedule.step()  # as if it had moved
    trainer.score(samples)  # only the reference looks at them
    distinct = {(prompt, ids) for prompt, ids in sequences}
    assert trainer.ledger.scored_tokens - before == sum(len(prompt) + len(ids) for prompt, ids in distinct)


def test_a_response_that_was_drawn_twice_is_computed_once(tiny, full, tmp_path):
    """Reference and critic each see three distinct texts of 5 tokens; each of eight responses keeps its place."""
    trainer = make_trainer(tiny, full, tmp_path, by_length)
    trainer.optimizer.schedule.step()  # policy and critic have moved
    trainer.ledger.optimizer_steps = 1
    torch.nn.init.normal_(trainer.critic.score.weight)
    with torch.no_grad():
        trainer.critic.parameters[0].mul_(1.1)
    warm_up(trainer)
    samples = [Sample(PROMPTS[i % 3], (20 + i % 3, 1), True, logps=(-1.0, -2.0)) for i in range(8)]
    with counted() as passes:
        rollout = trainer.score(samples)
    assert (passes.scored, passes.again) == (2 * 3 * 5, 0)
    assert trainer.ledger.scored_tokens == 2 * 3 * 5
    with torch.no_grad():
        alone = torch.cat([trainer.values(trainer.critic.lay_out([(s.prompt.ids, s.ids)])).values for s in samples])
    torch.testing.assert_close(rollout.old_values, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("critic", ["sft", "reward_model"])
def test_until_they_move_neither_reference_nor_critic_is_asked(tiny, full, tmp_path, critic):
    """The policy is the reference and the critic's head is 0; but for a critic from the reward model, which has one.

    That critic sees eight texts of 5 tokens; so does, after a step of both, each of reference and critic.
    """
    task = make_task(tiny, full, tmp_path, by_length)
    open_network(tiny.path, "score", full, trainable=True, head_std=0.5).save(tmp_path / "rm", tiny.tokenizer())
    task = dataclasses.replace(task, reward_model=Checkpoint(tmp_path / "rm", "rm"))
    method = PPO(rollout_size=8, critic_start=critic)
    policy, reference = (Policy.open(tiny, full, trainable=trainable) for trainable in (True, False))
    trainer = Trainer(method, task, policy, reference, method.open_critic(task))
    samples = [Sample(p, (20, 1), True, logps=(-1.0, -2.0)) for p in PROMPTS]
    warm_up(trainer)
    asked = []
    for _ in range(2):
        with counted() as passes:
            rollout = trainer.score(samples)
        asked.append(passes.scored)
        trainer.learn(rollout)
    assert asked == [0 if critic == "sft" else 8 * 5, 2 * 8 * 5]
    assert rollout.signals["kl_estimate"] != 0.0


def test_one_trunk_stays_as_it_is_while_only_the_head_learns(tiny, tuning, tmp_path):
    trainer = make_trainer(tiny, tuning, tmp_path, by_length, SHARED)
    rollout = trainer.score(sampled(trainer))
    before = [p.detach().clone() for p in trainer.policy.network.parameters]
    trainer.learn(rollout, learn_policy=False)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.policy.network.parameters, strict=True))
    assert trainer.value_head.weight.abs().max() > 0
    trainer.learn(rollout)
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.policy.network.parameters, strict=True))


def test_the_head_has_a_rate_of_its_own_and_keeps_it(tiny, full, tmp_path):
    """Adam's first step moves a weight by its rate; after half of 4 steps both are at (4 - 2) / (4 - 1) of it."""
    method = dataclasses.replace(SHARED, critic_lr=1e-2)
    trainer = make_trainer(tiny, full, tmp_path / "a", by_length, method)
    rollout = trainer.score(sampled(trainer))
    before = trainer.policy.network.parameters[0].detach().clone()
    trainer.update(rollout, list(range(4)))
    assert float(trainer.value_head.weight.abs().max()) == pytest.approx(1e-2, rel=1e-2)
    moved = (trainer.policy.network.parameters[0].detach() - before).abs().max()
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)
    state = trainer.optimizer.state_dict() | {"steps": 2}  # of 4: two rounds of two minibatches
    other = make_trainer(tiny, full, tmp_path / "b", by_length, method)
    other.optimizer.load_state_dict(state)
    assert [group["lr"] for group in other.optimizer.adam.param_groups] == pytest.approx([1e-3 * 2 / 3, 1e-2 * 2 / 3])


def test_minibatches_hold_whole_prompts(tiny, full, tmp_path, monkeypatch):
    trainer = make_trainer(tiny, full, tmp_path, by_length, SHARED)
    rollout = trainer.score(sampled(trainer))
    seen, former = [], Network.batches

    def batches(network, rows, sequences, **how):
        seen.append(rows)
        return former(network, rows, sequences, **how)

    monkeypatch.setattr(Network, "batches", batches)
    trainer.learn(rollout)
    assert sorted(i for rows in seen for i in rows) == list(range(8))
    assert [len(rows) for rows in seen] == [4, 4]
    assert all(rows[i] + 1 == rows[i + 1] and rows[i] % 2 == 0 for rows in seen for i in (0, 2))


def test_adam_epsilon_reaches_both_optimizers(tiny, full, tmp_path):
    """Adam's first step is lr g / (|g| + epsilon): with an epsilon far above the gradient, weights hardly move."""
    moved = []
    for epsilon in (1e-5, 1e5):
        method = PPO(rollout_size=8, minibatch_size=8, epochs=1, lr=1e-3, adam_epsilon=epsilon, warmup=0.0)
        trainer = make_trainer(tiny, full, tmp_path / str(epsilon), by_length, method)
        before = [p.detach().clone() for n in (trainer.policy.network, trainer.critic) for p in n.parameters]
        rollout = trainer.score(sample(trainer.policy, PROMPTS, max_new_tokens=6, seed=0))
        trainer.learn(rollout)
        after = [p for n in (trainer.policy.network, trainer.critic) for p in n.parameters]
        moved.append([float((a.detach() - b).abs().max()) for a, b in zip(after, before, strict=True)])
    assert max(moved[0]) > 5e-4 and max(moved[1]) < 1e-6


def test_a_gradient_that_is_not_finite_names_step_and_prompts(tiny, full, tmp_path):
    """A learning rate that blows the weights up in one step."""
    method = PPO(rollout_size=8, minibatch_size=8, epochs=2, lr=1e25, critic_lr=1e-5, critic_warmup=0)
    with pytest.raises(TrainingError, match=r"step \d+: loss .* \(prompts p\d"):
        method.train(make_task(tiny, full, tmp_path / "t", by_length))


def test_same_seed_same_weights(tiny, full, tmp_path):
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        task = make_task(tiny, full, tmp_path / name, by_length, seed=seed)
        PPO(rollout_size=8, minibatch_size=4, lr=1e-3).train(task)
        digests.append(folder_digest(task.out / "policy"))
    assert digests[0] == digests[1] != digests[2]


def test_a_reward_that_is_not_finite_stops_training(tiny, full, tmp_path):
    task = make_task(tiny, full, tmp_path, lambda g: [float("nan")] * len(g))
    with pytest.raises(TrainingError, match=r"reward of a response to p\d is not finite"):
        PPO(rollout_size=8).train(task)


def test_advantages_are_weighed_by_the_ratio_to_what_the_sampler_drew_with(tiny, tmp_path):
    """In bf16 the policy's own log-probs are taken anew. The sampler is made to say what is known: first tokens were
    drawn with half their probability, the others with four times it; so they weigh 1.5, the cap, and a quarter."""
    found, tuning = {}, Tuning(precision="bf16", device="cpu")
    for cap in (None, 1.5):
        method = PPO(rollout_size=8, minibatch_size=8, importance_cap=cap)
        out, reward = tmp_path / str(cap), lambda responses: [float(g.length) for g in responses]
        trainer = make_trainer(tiny, tuning, out, reward, method)
        samples = sample(trainer.policy, PROMPTS, max_new_tokens=6, seed=0)
        logps = trainer.old_logps(samples).rows()
        apart = [[math.log(4) if n else -math.log(2) for n in range(len(row))] for row in logps]
        samples = [
            dataclasses.replace(s, logps=tuple(p + gap for p, gap in zip(row, gaps, strict=True)))
            for s, row, gaps in zip(samples, logps, apart, strict=True)
        ]
        found[cap] = trainer.score(samples)
        distances = [abs(gap) for gaps in apart for gap in gaps]
        assert found[cap].signals["sampler_gap"] == pytest.approx(sum(distances) / len(distances), rel=1e-4)
    weights = torch.full(found[None].mask.shape, 0.25)
    weights[:, 0] = 1.5
    assert torch.allclose(found[1.5].advantages, found[None].advantages * weights, rtol=1e-4)
    assert torch.equal(found[1.5].returns, found[None].returns)
