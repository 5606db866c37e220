"""PPO beside TRL's own trainer as it last was: what `recorded/record_ppo.py` saw of it, without TRL."""

import json
from pathlib import Path

import pytest
import torch

from alignment_bench.benchmarks.definition.proof import PARITY, PUBLISHED
from alignment_bench.methods import losses
from alignment_bench.methods.ppo import token_rewards, whiten

FOUND = json.loads((Path(__file__).parent / "recorded" / "ppo.json").read_text())
SETTINGS = FOUND["settings"]


def learn(one, **changes):
    """Advantages and returns of a round that TRL sampled, by our functions in the order of `ppo.Trainer.score`."""
    settings = {**SETTINGS, **changes}
    old, reference, values, scores = (
        torch.tensor(one[name]) for name in ("logps", "reference_logps", "values", "scores")
    )
    mask = torch.ones_like(old, dtype=torch.bool)
    rewards = token_rewards(scores, losses.kl_estimate(old, reference, "k1"), mask, beta=settings["kl_coef"])
    advantages, returns = losses.gae(rewards, values, mask, gamma=settings["gamma"], lam=settings["lam"])
    count = mask.sum()  # TRL divides the variance by one less
    return whiten(advantages, mask) * ((count - 1) / count).sqrt(), returns, old, values, mask


def differences(**changes):
    """The largest relative difference of TRL's sum of both losses, and of its gradients, over all recorded steps."""
    found = []
    for one in FOUND["rounds"]:
        advantages, returns, old, values, mask = learn(one, **changes)
        for step in one["steps"]:
            rows = [one["ids"].index(ids) for ids in step["ids"]]
            logps, new = (torch.tensor(step[name]).requires_grad_() for name in ("new_logps", "new_values"))
            clip, value_clip = ({**SETTINGS, **changes}[name] for name in ("cliprange", "cliprange_value"))
            part = mask[rows]
            policy = losses.ppo_policy(logps, old[rows], advantages[rows], part, clip=clip)
            value = losses.ppo_value(new, values[rows], returns[rows], part, clip=value_clip)
            loss = policy + SETTINGS["vf_coef"] * value
            loss.backward()
            found.append(abs(loss.item() - step["loss"]) / abs(step["loss"]))
            for ours, name in ((logps.grad, "logp_gradient"), (new.grad, "value_gradient")):
                theirs = torch.tensor(step[name])
                found.append(float((ours - theirs).norm() / theirs.norm()))
    return max(found)


def test_losses_and_gradients_are_those_of_trls_last_ppo():
    """Two rounds of two epochs in two minibatches: eight steps, most with clipped tokens on both sides."""
    assert FOUND["versions"]["trl"] == "1.12.0" and sum(len(one["steps"]) for one in FOUND["rounds"]) == 8
    published = json.loads((PUBLISHED / PARITY).read_text())["ppo"]["difference"]
    assert differences() < 1e-4 > published > differences() / 10


@pytest.mark.parametrize(
    "changes", [{"kl_coef": 0.29}, {"gamma": 1.0}, {"lam": 0.91}, {"cliprange": 0.06}, {"cliprange_value": 0.06}]
)
def test_each_setting_is_seen(changes):
    assert differences(**changes) > 1e-3
