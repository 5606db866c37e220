"""PPO's relatives: REINFORCE++, PPO against several reward models, and PPO under a constraint."""

import dataclasses
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment_bench.errors import InputError, TrainingError
from alignment_bench.methods.ppo_ensemble import PPOEnsemble, ensemble_reward
from alignment_bench.methods.ppo_lagrangian import PPOLagrangian
from alignment_bench.methods.reinforce_pp import ReinforcePlusPlus
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampling import sample
from alignment_bench.results.records import Generation, Prompt
from alignment_bench.results.store import read_jsonl
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11)) for i in range(8)]
HERE = "test_ppo_relatives_facets"


def by_length(generations):
    return [0.4 * g.length + 0.3 * int(g.prompt_id[1:]) for g in generations]


def make_task(sft, tuning, out, *, reward=by_length, **more) -> TrainingTask:
    out.mkdir(exist_ok=True)
    pairs, prompts = PairDataset([], lambda: None), PromptDataset(PROMPTS, 6)
    return TrainingTask(sft, pairs, prompts, reward, Budget(32), 0, out, tuning, **more)


# --- REINFORCE++


def test_reinforce_pp_is_what_is_yet_to_come_over_the_round(tiny, full, tmp_path, plain):
    """After a round that moved the policy: of each token the reward less beta times the log-ratios from there on,
    shifted and scaled over all tokens; the loss is the surrogate's mean over tokens, and nothing else learns."""
    method = ReinforcePlusPlus(
        rollout_size=8, minibatch_size=8, lr=0.02, beta=0.3, warmup=0.0, missing_eos_penalty=0.0, normalize_reward=False
    )
    task = make_task(tiny, full, tmp_path)
    policy, reference = (Policy.open(tiny, full, trainable=trainable) for trainable in (True, False))
    trainer = method.trainer(task, policy, reference, None)

    def drawn(seed):
        return plain.ended(sample(trainer.policy, PROMPTS, max_new_tokens=6, seed=seed))

    trainer.round(0, drawn(0))
    samples = drawn(1)
    moved, sft = (AutoModelForCausalLM.from_pretrained(tiny.path).eval() for _ in range(2))
    moved.load_state_dict(trainer.policy.network.model.state_dict())
    to_come = []
    with torch.no_grad():
        for s in samples:
            ratios = (plain.logps(moved, s.prompt.ids, s.ids) - plain.logps(sft, s.prompt.ids, s.ids)).tolist()
            final = 0.4 * len(s.ids) + 0.3 * int(s.prompt.id[1:])
            to_come.append([final - 0.3 * sum(ratios[t:]) for t in range(len(ratios))])
    flat = [value for row in to_come for value in row]
    mean = sum(flat) / len(flat)
    deviation = (sum((x - mean) ** 2 for x in flat) / len(flat)) ** 0.5
    rollout = trainer.score(samples)
    for row, expected in zip(rollout.advantages.tolist(), to_come, strict=True):
        scaled = [(x - mean) / deviation for x in expected]
        assert row == pytest.approx([*scaled, *[0.0] * (len(row) - len(scaled))], rel=1e-3, abs=1e-3)
    outcome = trainer.update(rollout, list(range(8)))
    assert outcome["loss"] == pytest.approx(-sum(sum(row) for row in rollout.advantages.tolist()) / len(flat), abs=1e-5)
    assert outcome["grad_norm"] > 0 and set(trainer.parts()) == {"policy", "optimizer", "trainer"}


# --- several reward models


def test_ensemble_rewards_by_hand():
    """Scores 1, 2 and 6: the least is 1; mean 3 less half of the variance (4 + 1 + 9) / 3."""
    scores = torch.tensor([[1.0, 2.0, 6.0], [2.0, 2.0, 2.0]])
    assert ensemble_reward(scores, "min", variance_weight=0.5).tolist() == [1.0, 2.0]
    found = ensemble_reward(scores, "mean_minus_variance", variance_weight=0.5)
    assert found.tolist() == pytest.approx([3 - 7 / 3, 2.0])


def test_an_ensembles_models_count_from_their_means_on_sfts_responses(tiny, full, tmp_path):
    """A model that is ahead by a constant, as reward models may be, is not thereby left out of the least; later rounds
    keep the first one's means, and going on after a stop does too. Each response is read by each model."""
    asked = []

    def ahead(generations):
        asked.append(len(generations))
        return [100.0 - g.length for g in generations]

    method = PPOEnsemble(reward_models=2, rollout_size=8, normalize_reward=False, missing_eos_penalty=0.0, epochs=1)
    task = make_task(tiny, full, tmp_path, more_rewards=(ahead, None))  # of which the third is not asked
    policy = Policy.open(tiny, full, trainable=True)
    trainer = method.trainer(task, policy, Policy.open(tiny, full, trainable=False), method.open_critic(task))
    samples = sample(policy, PROMPTS, max_new_tokens=6, seed=0)
    lengths = [len(s.ids) for s in samples]
    first = [0.4 * n + 0.3 * i for i, n in enumerate(lengths)]
    second = [-float(n) for n in lengths]
    a, b = sum(first) / 8, sum(second) / 8
    expected = [min(x - a, y - b) for x, y in zip(first, second, strict=True)]
    assert trainer.rewards(samples)[0].tolist() == pytest.approx(expected, abs=1e-5)
    state = trainer.state_dict()
    trainer.means = None
    trainer.load_state_dict(state)
    assert trainer.rewards(samples[:2])[0].tolist() == pytest.approx(expected[:2], abs=1e-5)
    assert asked == [8, 2] and trainer.ledger.reward_queries == 2 * 10


def test_too_few_reward_models_are_told(tiny, full, tmp_path):
    with pytest.raises(TrainingError, match="ppo_ensemble wants 3 training reward models and this task has 1"):
        PPOEnsemble(rollout_size=8).train(make_task(tiny, full, tmp_path))


# --- a constraint


def lagrangian(method, sft, tuning, out):
    task = make_task(sft, tuning, out)
    policy, reference = (Policy.open(sft, tuning, trainable=trainable) for trainable in (True, False))
    return method.trainer(task, policy, reference, method.open_critic(task))


def test_the_multiplier_grows_while_the_mean_is_beyond_the_limit(tiny, full, tmp_path):
    """Quantities 1 and 5 with a limit of 2: deviation 2, so costs -0.5 and 1.5, their mean 0.5; the multiplier 2
    becomes 2 e^(0.1 * 0.5). With the other side the costs turn round. What does not apply costs nothing."""
    method = PPOLagrangian(rollout_size=8, limit=2.0, multiplier=2.0, multiplier_lr=0.1)
    trainer = lagrangian(method, tiny, full, tmp_path)
    costs, mean = trainer.costs(torch.tensor([1.0, 5.0, math.nan]))
    assert costs.tolist() == [-0.5, 1.5, 0.0] and mean == 3.0
    assert trainer.costs(torch.tensor([4.0]))[0].tolist() == [1.0]  # limit and deviation stay those of SFT
    other = lagrangian(dataclasses.replace(method, side="at_least"), tiny, full, tmp_path)
    assert other.costs(torch.tensor([1.0, 5.0]))[0].tolist() == [0.5, -1.5]
    of_sft = lagrangian(dataclasses.replace(method, limit=None), tiny, full, tmp_path)
    assert of_sft.costs(torch.tensor([1.0, 5.0]))[0].tolist() == [-1.0, 1.0]


def test_a_response_is_worth_its_reward_less_its_cost(tiny, full, tmp_path):
    """(reward - m cost) / (1 + m) with m 2 as it was before the round; then m e^(0.1 mean cost), logged the next time,
    and kept over a stop."""
    method = PPOLagrangian(
        rollout_size=8, limit=3.0, multiplier=2.0, normalize_reward=False, missing_eos_penalty=0.0, epochs=1
    )
    trainer = lagrangian(method, tiny, full, tmp_path)
    samples = sample(trainer.policy, PROMPTS, max_new_tokens=6, seed=0)
    samples = [dataclasses.replace(s, ids=s.ids[: 1 + i % 5]) for i, s in enumerate(samples)]
    lengths = [len(s.ids) for s in samples]
    mean = sum(lengths) / 8
    deviation = (sum((n - mean) ** 2 for n in lengths) / 8) ** 0.5
    costs = [(n - 3.0) / deviation for n in lengths]
    found, signals = trainer.rewards(samples)
    expected = [(0.4 * n + 0.3 * i - 2 * c) / 3 for i, (n, c) in enumerate(zip(lengths, costs, strict=True))]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert signals["multiplier"] == 2.0 and signals["quantity"] == pytest.approx(mean)
    state = trainer.state_dict()
    grown = lagrangian(method, tiny, full, tmp_path)
    grown.load_state_dict(state)
    assert grown.rewards(samples)[1]["multiplier"] == pytest.approx(2 * math.exp(0.1 * sum(costs) / 8))


def test_a_quantity_is_a_function_or_one_of_its_facets(tmp_path, monkeypatch):
    (tmp_path / f"{HERE}.py").write_text(
        "def number(prompt, response):\n    return len(response)\n"
        "def facets(prompt, response):\n    return {'kind': 0.5, 'other': None, 'text': 'much'}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    answer = Generation("p0", ({"role": "user", "content": "?"},), "four", 2, True)
    assert PPOLagrangian().measure(answer) == 2 and PPOLagrangian().functions == ()
    number, facets = (f"{HERE}:{name}" for name in ("number", "facets"))
    assert PPOLagrangian(quantity=number).measure(answer) == 4 and PPOLagrangian(quantity=number).functions == (number,)
    assert PPOLagrangian(quantity=facets, facet="kind").measure(answer) == 0.5
    assert math.isnan(PPOLagrangian(quantity=facets, facet="other").measure(answer))
    for facet, said in (("", "returns no facet ''; set facet to one of kind, other"), ("text", "returned much for")):
        with pytest.raises(TrainingError, match=said):
            PPOLagrangian(quantity=facets, facet=facet).measure(answer)
    for name, said in ((f"{HERE}:gone", "cannot be loaded"), ("math:pi", "is not a function")):
        with pytest.raises(InputError, match=said):
            PPOLagrangian(quantity=name)


@pytest.mark.parametrize(
    "method",
    [
        ReinforcePlusPlus(rollout_size=8, minibatch_size=4, lr=1e-3),
        PPOEnsemble(rollout_size=8, minibatch_size=4, reward_models=2, epochs=1, lr=1e-3),
        PPOLagrangian(rollout_size=8, minibatch_size=4, epochs=1, lr=1e-3),
    ],
    ids=["reinforce_pp", "ensemble", "lagrangian"],
)
def test_whole_trainings_keep_the_budget(method, tiny, full, tmp_path):
    task = make_task(tiny, full, tmp_path, more_rewards=(by_length,))
    method.train(task)
    log = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["examples"] for row in log] == [8, 16, 24, 32] and all(math.isfinite(row["loss"]) for row in log[1:])
    assert (task.made.path / "model.safetensors").exists()
