"""The course of whole trainings: the rate of each step, fresh random numbers, and going on after a stop."""

import contextlib
import dataclasses
import json
import os
import random
import signal

import pytest
import torch

from alignment_bench.errors import Stopped
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.ppo import PPO
from alignment_bench.methods.rejection import RejectionSampling
from alignment_bench.methods.rloo import RLOO
from alignment_bench.models.network import Network
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Pair, Prompt
from alignment_bench.results.store import folder_digest, read_jsonl
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask, trained_policy

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11)) for i in range(8)]
PAIRS = [Pair(f"r{i}", p, chosen=(50, 51 + i, 1), rejected=(60, 1)) for i, p in enumerate(PROMPTS)]
ONE_TRUNK = {"critic_start": "policy", "samples_per_prompt": 2}


def by_length(generations):
    return [float(g.length + len(set(g.response))) for g in generations]


def make_task(sft, tuning, out, examples, *, reward=by_length, seed=0, prompts=PROMPTS, **more):
    out.mkdir(exist_ok=True)
    pairs = PairDataset(PAIRS, lambda: (torch.zeros(len(PAIRS)), torch.zeros(len(PAIRS))))
    return TrainingTask(sft, pairs, PromptDataset(prompts, 5), reward, Budget(examples), seed, out, tuning, **more)


def read_log(task):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(task.out / "metrics.jsonl")]


# --- the rate of each step


@pytest.fixture
def rates(monkeypatch):
    """The rates that Adam's steps really use, by optimizer in the order of their first steps: [steps][groups]."""
    seen, former = {}, torch.optim.AdamW.step

    def step(self, *args, **more):
        seen.setdefault(id(self), []).append([float(group["lr"]) for group in self.param_groups])
        return former(self, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return seen


def written_out(plain, peak, steps, rising):
    return [peak * plain.rate(step, steps, rising) for step in range(steps)]


def test_each_step_of_an_offline_training_has_the_rate_of_the_log(tiny, full, tmp_path, rates, plain):
    """43 examples in batches of 5 are 8 steps, of which the first 2 (0.2 * 8 = 1.6 of them) rise."""
    task = make_task(tiny, full, tmp_path / "t", 43)
    DPO(lr=1e-3, batch_size=5, warmup=0.2).train(task)
    expected = [1e-3 * share for share in (1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    assert written_out(plain, 1e-3, 8, 2) == pytest.approx(expected)
    (found,) = rates.values()
    assert [rate for (rate,) in found] == pytest.approx(expected)
    assert [row["lr"] for row in read_log(task)] == pytest.approx(expected)


def test_each_step_of_ppo_has_its_rate(tiny, full, tmp_path, rates, plain):
    """Four rounds of 8 in minibatches of 3, twice over: 6 steps a round. The critic learns in all four, the policy from
    the second on: 24 steps of which 3 rise (2.4), and 18 of which 2 (1.8). The log has 4 lines."""
    task = make_task(tiny, full, tmp_path / "t", 8 * 4)
    PPO(rollout_size=8, minibatch_size=3, epochs=2, lr=1e-3, critic_lr=4e-3, warmup=0.1).train(task)
    critic, policy = rates.values()
    assert [rate for (rate,) in critic] == pytest.approx(written_out(plain, 4e-3, 24, 3))
    assert [rate for (rate,) in policy] == pytest.approx(written_out(plain, 1e-3, 18, 2))
    assert [row["step"] for row in read_log(task)] == [6, 12, 18, 24]


def test_each_step_of_ppo_with_one_trunk_has_two_rates(tiny, full, tmp_path, rates, plain):
    """Rounds of 4 prompts with two responses each, minibatches of one prompt: 4 steps in each of 3 rounds."""
    method = PPO(rollout_size=8, minibatch_size=3, epochs=1, lr=1e-3, critic_lr=4e-3, warmup=0.25, **ONE_TRUNK)
    method.train(make_task(tiny, full, tmp_path / "t", 8 * 3))
    (found,) = rates.values()
    assert [policy for policy, _ in found] == pytest.approx(written_out(plain, 1e-3, 12, 3))
    assert [head for _, head in found] == pytest.approx(written_out(plain, 4e-3, 12, 3))


def test_each_step_of_the_others_has_its_rate(tiny, full, tmp_path, rates, plain):
    """Rounds of 3 prompts. RLOO: minibatches of 2 prompts, twice over: 4 steps in each of 3 rounds. Rejection: 2."""
    common = {"samples_per_prompt": 4, "rollout_size": 14, "lr": 1e-3, "warmup": 0.1}
    RLOO(minibatch_size=9, epochs=2, **common).train(make_task(tiny, full, tmp_path / "a", 12 * 3 + 11))
    RejectionSampling(minibatch_size=2, **common).train(make_task(tiny, full, tmp_path / "b", 12 * 3 + 11))
    for found, steps, rising in zip(rates.values(), (12, 6), (2, 1), strict=True):
        assert [rate for (rate,) in found] == pytest.approx(written_out(plain, 1e-3, steps, rising))


# --- fresh random numbers


@pytest.mark.parametrize(
    "method",
    [
        PPO(rollout_size=8, lr=1e-30, critic_lr=1e-30),
        RLOO(rollout_size=16, samples_per_prompt=2, lr=1e-30),
        RejectionSampling(rollout_size=16, samples_per_prompt=2, lr=1e-30),
    ],
    ids=["ppo", "rloo", "rejection"],
)
def test_no_response_is_drawn_with_the_numbers_of_another(tiny, full, tmp_path, method):
    """Three rounds over the same prompts by a policy that stays as it is: each response to a prompt is new, within a
    round, from round to round and from seed to seed. By chance, two of five bytes are alike hardly ever."""
    seen = {}

    def keep(generations):
        for g in generations:
            seen.setdefault(g.prompt_id, []).append(g.response)
        return by_length(generations)

    size = method.rollout_size
    for seed in range(2):
        method.train(make_task(tiny, full, tmp_path / str(seed), size * 3, reward=keep, seed=seed))
    assert sorted(seen) == [p.id for p in PROMPTS]
    for responses in seen.values():
        assert len(responses) == 2 * 3 * size // 8
        assert len(set(responses)) == len(responses)


def test_all_methods_draw_with_the_same_numbers(tiny, full, tmp_path):
    """A policy that stays as it is gives each prompt the same responses in the same order, in whatever rounds: PPO with
    one at a time, RLOO with two, rejection with three; and so in trainings of another size."""
    still = {"lr": 1e-30}
    seen = []
    for method, size in (
        (PPO(rollout_size=8, critic_lr=1e-30, **still), 8 * 6),
        (RLOO(rollout_size=12, samples_per_prompt=2, **still), 48),
        (RejectionSampling(rollout_size=24, samples_per_prompt=3, **still), 48),
        (RLOO(rollout_size=32, samples_per_prompt=4, **still), 32),
    ):
        found = {}

        def keep(generations, found=found):
            for g in generations:
                found.setdefault(g.prompt_id, []).append(g.response)
            return by_length(generations)

        method.train(make_task(tiny, full, tmp_path / str(len(seen)), size, reward=keep))
        seen.append(found)
    for found in seen:
        assert {name: responses[:4] for name, responses in found.items()} == {n: r[:4] for n, r in seen[0].items()}
    assert seen[0] == seen[1] == seen[2]


@pytest.fixture
def passes(monkeypatch):
    """Prompts of the policy's passes with gradients, in their order."""
    seen, former = [], Network.batches

    def batches(self, rows, sequences, **how):
        for batch in former(self, rows, sequences, **how):
            if torch.is_grad_enabled() and self.kind == "lm":
                found = dict(zip(rows, sequences, strict=True))
                seen.extend(prompt for row in batch.rows for prompt, _ in found[row])
            yield batch

    monkeypatch.setattr(Network, "batches", batches)
    return seen


def epochs_of(seen):
    """The order of each epoch, as places among the prompts."""
    places = {p.ids: i for i, p in enumerate(PROMPTS)}
    order = [places[prompt] for prompt in seen]
    return [tuple(order[i : i + 8]) for i in range(0, len(order), 8)]


@pytest.mark.parametrize(
    "method",
    [
        PPO(rollout_size=8, minibatch_size=1, epochs=3, critic_warmup=0),
        PPO(rollout_size=16, minibatch_size=1, epochs=3, critic_warmup=0, **ONE_TRUNK),
        RLOO(rollout_size=16, samples_per_prompt=2, minibatch_size=1, epochs=3),
        RejectionSampling(rollout_size=16, samples_per_prompt=2, minibatch_size=1),
    ],
    ids=["ppo", "one trunk", "rloo", "rejection"],
)
def test_each_epoch_of_each_round_has_an_order_of_its_own(tiny, full, tmp_path, passes, method):
    """Every response once an epoch (one prompt a step), and no order twice, in two rounds and two seeds."""
    for seed in range(2):
        method.train(make_task(tiny, full, tmp_path / str(seed), method.rollout_size * 2, seed=seed))
    two = getattr(method, "samples_per_prompt", 1) == 2 and not isinstance(method, RejectionSampling)
    found = epochs_of(passes[::2] if two else passes)  # responses to one prompt stand side by side
    assert len(found) == 2 * 2 * getattr(method, "epochs", 1)
    assert all(sorted(epoch) == list(range(8)) for epoch in found)
    assert len(set(found)) == len(found)


def test_rounds_take_the_prompts_in_shuffled_order(tiny, full, tmp_path):
    """Rounds of three prompts: those that Python's shuffle puts first, then the next, and so on into a new epoch."""
    seen = []

    def keep(generations):
        seen.append([g.prompt_id for g in generations])
        return by_length(generations)

    RLOO(rollout_size=6, samples_per_prompt=2).train(make_task(tiny, full, tmp_path / "t", 6 * 4, reward=keep, seed=7))
    rng, order = random.Random(7), []
    for _ in range(2):
        epoch = [p.id for p in PROMPTS]
        rng.shuffle(epoch)
        order += epoch
    assert seen == [[p for p in order[3 * i : 3 * i + 3] for _ in range(2)] for i in range(4)]


# --- on the way


def test_snapshots_are_saved_when_their_share_of_the_budget_is_spent(tiny, full, tmp_path):
    """Three marks on 48 examples, 50^(1/4) times one another: 2.6, 6.8 and 18.1. Rounds of 4 pass them at 4, 8 and 20;
    steps of 32 pass all at once, and what does not fill a step is not drawn. Each is the policy of its moment, so no
    two are the same."""
    rounds = make_task(tiny, full, tmp_path / "rounds", 48, along=3)
    RLOO(rollout_size=4, minibatch_size=4, samples_per_prompt=2, lr=1e-2).train(rounds)
    folders = sorted((rounds.out / "along").iterdir())
    assert [folder.name for folder in folders] == ["000000004", "000000008", "000000020"]
    assert len({folder_digest(folder) for folder in [*folders, rounds.out / "policy"]}) == 4
    steps = make_task(tiny, full, tmp_path / "steps", 48, along=3)
    DPO(batch_size=32, lr=1e-3).train(steps)
    assert [folder.name for folder in (steps.out / "along").iterdir()] == ["000000032"]


def test_costs_are_two_flops_a_weight_and_token_and_two_passes_back(tiny, full, tmp_path):
    """DPO on one pair at a time, all weights learning: 6 FLOPs for a token that is learnt, 2 for one of the probe's."""
    task = make_task(tiny, full, tmp_path / "t", 3)
    DPO(batch_size=1).train(task)
    cost = json.loads((task.out / "cost.json").read_text())
    weights = sum(p.numel() for p in Policy.open(tiny, full, trainable=True).network.model.parameters())
    assert cost["trained_tokens"] == 3 * (3 + 3 + 3 + 2)
    assert cost["flops"] == weights * 6 * cost["trained_tokens"] and cost["scored_tokens"] == 0
    looked = cost["looking_scored_tokens"] + cost["looking_generated_tokens"]
    assert looked > 0 and cost["looking_flops"] == weights * 2 * looked


def test_costs_of_an_adapter_count_it_and_no_other(tiny, full, tmp_path):
    """Under LoRA 2 FLOPs a weight of base and adapter forward and 2 back, and 2 into the adapter's gradients."""
    tuning = dataclasses.replace(full, lora_rank=2)
    another = Policy.open(tiny, tuning, trainable=True)  # on the same base, as a critic or reward model is
    task = make_task(tiny, tuning, tmp_path / "t", 3)
    DPO(batch_size=1).train(task)
    cost = json.loads((task.out / "cost.json").read_text())
    base = sum(p.numel() for p in Policy.open(tiny, full, trainable=True).network.model.parameters())
    adapter = sum(p.numel() for p in another.network.parameters)
    another.network.close()
    seen = cost["scored_tokens"] + cost["generated_tokens"]
    assert cost["flops"] == pytest.approx(
        cost["trained_tokens"] * (4 * (base + adapter) + 2 * adapter) + 2 * seen * (base + adapter)
    )


def test_a_trained_policy_is_saved_if_nothing_failed_and_let_go_either_way(tiny, tmp_path):
    """The adapter leaves the shared model; a training that failed leaves no policy."""
    tuning = Tuning(lora_rank=4, precision="fp32", device="cpu")
    for fails in (True, False):
        task = make_task(tiny, tuning, tmp_path / str(fails), 8)
        with contextlib.suppress(KeyError), trained_policy(task) as policy:
            own = policy.network.parameters
            if fails:
                raise KeyError
        names = {id(parameter) for parameter in policy.network.model.parameters()}
        assert own and not names & {id(parameter) for parameter in own}
        assert task.made.path.exists() != fails


# --- going on after a stop


@pytest.mark.parametrize(
    "method",
    [
        PPO(rollout_size=6, minibatch_size=2, epochs=2, lr=1e-2, critic_lr=1e-2, target_kl=0.5, kl_gain=2.0),
        PPO(rollout_size=6, minibatch_size=2, epochs=2, lr=1e-2, critic_lr=1e-2, **ONE_TRUNK),
        RLOO(rollout_size=6, samples_per_prompt=2, minibatch_size=2, lr=1e-2),
    ],
    ids=["ppo", "one trunk", "rloo"],
)
def test_a_training_that_was_stopped_ends_as_one_that_was_not(tiny, full, tmp_path, method):
    """Ctrl-C in the third of five rounds, whose rewards are normalized by the first; then again from the start, which
    goes on. The same weights, log and costs, and a snapshot half-way."""

    def stopping(generations):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return by_length(generations)

    whole = make_task(tiny, full, tmp_path / "whole", 6 * 5, along=9)
    torch.manual_seed(0)
    method.train(whole)
    calls = []
    again = make_task(tiny, full, tmp_path / "again", 6 * 5, reward=stopping, along=9)
    torch.manual_seed(0)
    with pytest.raises(Stopped, match="stopped after round 3 of 5"):
        method.train(again)
    assert len(read_log(again)) == 3
    torch.manual_seed(1)  # whatever the process drew in between
    method.train(again)
    assert len(calls) == 5
    assert read_log(again) == read_log(whole)
    for part in ("policy", "along"):
        assert folder_digest(again.out / part) == folder_digest(whole.out / part)
    costs = [json.loads((task.out / "cost.json").read_text()) for task in (whole, again)]
    for name in ("examples", "optimizer_steps", "trained_tokens", "scored_tokens", "generated_tokens", "flops"):
        assert costs[0][name] == costs[1][name] > 0
