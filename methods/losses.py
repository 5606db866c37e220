"""Losses of the alignment methods as pure functions of log-probabilities."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, stable at both ends.

    Maechler (2012), "Accurately computing log(1 - exp(-|a|))", eq. 7: switch at x = -log 2.
    """
    small = x > -math.log(2.0)  # near 0, where exp(x) is close to 1
    near = torch.log(-torch.expm1(torch.where(small, x, torch.full_like(x, -1.0))))
    far = torch.log1p(-torch.exp(torch.where(small, torch.full_like(x, -1.0), x)))
    return torch.where(small, near, far)


def log_ratio_margin(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
) -> Tensor:
    """The policy's preference of chosen to rejected beyond the reference's, in nats. All tensors [batch]."""
    return (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)


def dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimization: -log sigmoid of the difference of implicit rewards. All tensors [batch].

    Log-probs are sums over the response's tokens. Rafailov et al. (2023, arXiv:2305.18290), eq. 7; with label
    smoothing e the conservative form, -(1 - e) log sigmoid(h) - e log sigmoid(-h), Mitchell (2023), eq. 3.
    """
    margin = beta * log_ratio_margin(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def robust_dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
    flip_rate: float,
) -> Tensor:
    """DPO's loss made unbiased for labels of which a share is flipped. All tensors [batch].

    ((1 - e) l(h) - e l(-h)) / (1 - 2 e) with l DPO's loss and e the flip rate, 0 to below 0.5.
    Chowdhury et al. (2024, arXiv:2403.00409).
    """
    margin = beta * log_ratio_margin(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return (flip_rate * F.logsigmoid(-margin) - (1 - flip_rate) * F.logsigmoid(margin)) / (1 - 2 * flip_rate)


def ipo(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float) -> Tensor:
    """Identity preference optimization: squared distance of the log-ratio margin from 1 / (2 beta). All [batch].

    Azar et al. (2024, arXiv:2310.12036), eq. 17, whose tau is beta. The log-ratios are of whole responses or their
    means over tokens.
    """
    return (chosen_log_ratios - rejected_log_ratios - 1 / (2 * beta)) ** 2


def dpop(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float, penalty: float) -> Tensor:
    """DPO-Positive: DPO whose margin shrinks with what the chosen response lost against the reference. All [batch].

    -log sigmoid(beta (h - penalty max(0, -c))) with c the log-ratio log pi - log pi_SFT of the chosen response and h
    the margin of both. Pal et al. (2024, arXiv:2402.13228).
    """
    lost = (-chosen_log_ratios).clamp(min=0)
    return -F.logsigmoid(beta * (chosen_log_ratios - rejected_log_ratios - penalty * lost))


def hinge(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - beta (margin of the log-ratios)). All tensors [batch].

    The hinge of Zhao et al. (2023, arXiv:2305.10425) on likelihoods relative to the reference, as in Liu et al. (2024,
    arXiv:2309.06657).
    """
    return (1 - beta * (chosen_log_ratios - rejected_log_ratios)).clamp(min=0)


def exo(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """Reverse KL of the policy's preference of two responses to the labels', smoothed. All tensors [batch].

    q = sigmoid(beta margin) is the policy's chance for the chosen one, and the labels' is 1 - label_smoothing, which
    must be above 0. Ji et al. (2024, arXiv:2402.00856), eq. 16.
    """
    margin = beta * (chosen_log_ratios - rejected_log_ratios)
    first, second = F.logsigmoid(margin), F.logsigmoid(-margin)
    kept, flipped = math.log1p(-label_smoothing), math.log(label_smoothing)
    return first.exp() * (first - kept) + second.exp() * (second - flipped)


def sppo(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float) -> Tensor:
    """Squared distances of both log-ratios from +1 / (2 beta) and -1 / (2 beta). All tensors [batch].

    Wu et al. (2024, arXiv:2405.00675), eq. 4.7, whose eta is 1 / beta, with a win probability of 1 or 0 for a label.
    """
    goal = 1 / (2 * beta)
    return (chosen_log_ratios - goal) ** 2 + (rejected_log_ratios + goal) ** 2


def apo_zero(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float) -> Tensor:
    """Anchored preference optimization that raises chosen and lowers rejected responses. All tensors [batch].

    D'Oosterlinck et al. (2024, arXiv:2408.06266), eq. 7.
    """
    return torch.sigmoid(-beta * chosen_log_ratios) + torch.sigmoid(beta * rejected_log_ratios)


def apo_down(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float) -> Tensor:
    """Anchored preference optimization that lowers both, rejected responses more. All tensors [batch].

    D'Oosterlinck et al. (2024, arXiv:2408.06266), eq. 8.
    """
    margin = beta * (chosen_log_ratios - rejected_log_ratios)
    return torch.sigmoid(beta * chosen_log_ratios) + torch.sigmoid(-margin)


def alpha_reward(mean_logps: Tensor, *, alpha: float) -> Tensor:
    """(1 - p^-alpha) / alpha of mean probabilities p given as logs, elementwise; the log itself at alpha 0.

    Gupta et al. (2025, arXiv:2501.03884): alpha above 0 bends the reward so that unlikely responses weigh more.
    """
    return -torch.expm1(-alpha * mean_logps) / alpha if alpha else mean_logps


def simpo(chosen_mean_logps: Tensor, rejected_mean_logps: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Simple preference optimization: the margin of mean log-probs must exceed a target. All tensors [batch].

    Meng et al. (2024, arXiv:2405.14734), eq. 6.
    """
    return -F.logsigmoid(beta * (chosen_mean_logps - rejected_mean_logps) - gamma)


def cpo(chosen_logps: Tensor, rejected_logps: Tensor, chosen_nll: Tensor, *, beta: float, nll_weight: float) -> Tensor:
    """Contrastive preference optimization: DPO without a reference, plus the NLL of chosen. All tensors [batch].

    Xu et al. (2024, arXiv:2401.08417), section 3.
    """
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps)) + nll_weight * chosen_nll


def kto(policy_logps: Tensor, reference_logps: Tensor, baseline: Tensor, *, beta: float, desirable: bool) -> Tensor:
    """Kahneman-Tversky optimization: how far single responses fall short of full utility. Tensors [batch].

    1 - sigmoid(beta (r - z)) for desirable responses, 1 - sigmoid(beta (z - r)) for the others, with
    r = log pi - log pi_ref (sums) and the scalar baseline z, the policy's KL to the reference, without gradient.
    Ethayarajh et al. (2024, arXiv:2402.01306), eq. 7.
    """
    gain = beta * (policy_logps - reference_logps - baseline)
    return 1 - torch.sigmoid(gain if desirable else -gain)


def orpo(chosen_mean_logps: Tensor, rejected_mean_logps: Tensor, chosen_nll: Tensor, *, weight: float) -> Tensor:
    """Odds-ratio preference optimization: NLL of the chosen response plus the odds-ratio term. All tensors [batch].

    Mean log-probs per response token (below 0); odds(p) = p / (1 - p).
    Hong et al. (2024, arXiv:2403.07691), eqs. 4 to 7: L = NLL + weight * -log sigmoid(log odds_w - log odds_l).
    """
    # a mean log-prob of exactly 0 (a response the policy is certain of in floating point) has infinite odds
    chosen, rejected = chosen_mean_logps.clamp(max=-1e-7), rejected_mean_logps.clamp(max=-1e-7)
    log_odds = (chosen - log1mexp(chosen)) - (rejected - log1mexp(rejected))
    return chosen_nll - weight * F.logsigmoid(log_odds)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens; values and mask [batch, time], mask true on real tokens."""
    return (values * mask).sum() / mask.sum()


def kl_estimate(logps: Tensor, reference_logps: Tensor, kind: KLEstimator) -> Tensor:
    """Estimate of KL(pi || pi_ref) from tokens sampled from pi, elementwise.

    With d = log pi - log pi_ref: k1 = d (unbiased, may be negative), k2 = d^2 / 2 (biased, low variance),
    k3 = exp(-d) - 1 + d (unbiased, never negative). Schulman (2020), "Approximating KL divergence".
    """
    difference = logps - reference_logps
    if kind == "k1":
        return difference
    return difference**2 / 2 if kind == "k2" else torch.expm1(-difference) + difference


def clipped_surrogate(log_ratios: Tensor, advantages: Tensor, *, clip: float, clip_high: float | None = None) -> Tensor:
    """max(-A r, -A clip(r, 1 - c, 1 + c)) with r = exp(log-ratio), elementwise; to be minimized.

    Schulman et al. (2017, arXiv:1707.06347), eq. 7. clip_high: c of the upper end, where it is another.
    """
    ratio = torch.exp(log_ratios)
    highest = 1 + (clip if clip_high is None else clip_high)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, highest))


@torch.no_grad()
def outside_clip(log_ratios: Tensor, *, clip: float, clip_high: float | None = None) -> Tensor:
    """1 where the ratio exp(log-ratio) is outside 1 - clip to 1 + clip (or clip_high), else 0, elementwise."""
    beyond = torch.exp(log_ratios) - 1
    return ((beyond < -clip) | (beyond > (clip if clip_high is None else clip_high))).float()


def ppo_policy(new_logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, *, clip: float) -> Tensor:
    """The clipped surrogate's mean over real tokens, a scalar; tensors [batch, time]."""
    return masked_mean(clipped_surrogate((new_logps - old_logps) * mask, advantages, clip=clip), mask)


def truncated_importance(logps: Tensor, drawn_logps: Tensor, cap: float) -> Tensor:
    """The ratio of a token's probability to that with which it was drawn, at most `cap`, elementwise."""
    return (logps - drawn_logps).exp().clamp(max=cap)


def ppo_value(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float) -> Tensor:
    """Clipped value loss: the mean over real tokens of half the larger of both squared errors.

    Tensors [batch, time]; returns a scalar. Values may move by at most `clip` from the old ones in the clipped
    error, as in OpenAI's PPO code (Huang et al., 2022, "The 37 implementation details of PPO", detail 9).
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return masked_mean(0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and returns (advantage + value), each [batch, time].

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, with nothing bootstrapped after the
    last real token; zero on padding. The mask is true on a prefix of each row.
    Schulman et al. (2016, arXiv:1506.02438), eq. 16.
    """
    real = mask.to(values.dtype)
    values = values * real
    none = torch.zeros_like(values[:, :1])
    next_values = torch.cat([values[:, 1:], none], 1)
    deltas = rewards + gamma * next_values - values  # at once: each operation is a launch on a GPU
    following, found = none[:, 0], []
    for delta, counts in zip(reversed(deltas.unbind(1)), reversed(real.unbind(1)), strict=True):
        following = (delta + gamma * lam * following) * counts
        found.append(following)
    advantages = torch.stack(found[::-1], 1)
    return advantages, (advantages + values) * real
