"""Losses against numbers derived by hand, brute force, and TRL."""

import math

import pytest
import torch

from alignment_bench.methods import losses
from alignment_bench.training.reward_model import reward_model


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_by_hand():
    """beta 0.5, policy margins (-1 - -3) = 2 against reference (-2 - -2) = 0: h = 1, loss log(1 + e^-1) = 0.313262."""
    loss = losses.dpo(t(-1.0), t(-3.0), t(-2.0), t(-2.0), beta=0.5)
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1))])
    smooth = losses.dpo(t(-1.0), t(-3.0), t(-2.0), t(-2.0), beta=0.5, label_smoothing=0.1)
    expected = 0.9 * math.log(1 + math.exp(-1)) + 0.1 * math.log(1 + math.exp(1))
    assert smooth.tolist() == pytest.approx([expected])


def test_dpo_at_the_reference_is_log_2():
    loss = losses.dpo(t(-5.0, -1.0), t(-7.0, -2.0), t(-5.0, -1.0), t(-7.0, -2.0), beta=0.1)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)


def test_dpo_gradient_by_hand():
    """d loss / d chosen logp = -beta sigmoid(-h), eq. below 7 of the paper; h = 1 and beta 0.5 here."""
    chosen = t(-1.0).requires_grad_()
    losses.dpo(chosen, t(-3.0), t(-2.0), t(-2.0), beta=0.5).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.5 / (1 + math.exp(1)))


def test_dpo_equals_trl(tmp_path, tiny, full):
    """The loss of one batch in TRL's own DPOTrainer, on the same model, pairs and token ids."""
    trl = pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from alignment_bench.models.policy import Policy

    rows = [((10, 11, 12), (20, 21, 22), (30, 31)), ((40, 41), (50,), (60, 61, 62, 63))]
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "<pad>"
    data = Dataset.from_list(
        [
            {
                "prompt": tokenizer.decode(p),
                "chosen": tokenizer.decode(c),
                "rejected": tokenizer.decode(r),
            }
            for p, c, r in rows
        ]
    )
    config = trl.DPOConfig(
        output_dir=str(tmp_path), beta=0.3, per_device_train_batch_size=2, max_steps=1, learning_rate=0.0, bf16=False,
        report_to=[], logging_steps=1, use_cpu=True, gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    reference = AutoModelForCausalLM.from_pretrained(tiny.path)
    policy = AutoModelForCausalLM.from_pretrained(tiny.path)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    ours = Policy.open(tiny, full, trainable=True)
    ours.network.model.load_state_dict(policy.state_dict())

    trainer = trl.DPOTrainer(
        model=policy, ref_model=reference, args=config, train_dataset=data, processing_class=tokenizer
    )
    theirs = trainer.train().training_loss
    batch = next(iter(trainer.get_train_dataloader()))
    ids = [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    answers = [int(m.sum()) for m in batch["completion_mask"]]
    sequences = [(tuple(i[:-n]), tuple(i[-n:])) for i, n in zip(ids, answers, strict=True)]  # chosen, then rejected
    frozen = Policy.open(tiny, full, trainable=False)
    logps, reference_logps = ours.total_logps(sequences), frozen.total_logps(sequences)
    mine = losses.dpo(logps[:2], logps[2:], reference_logps[:2], reference_logps[2:], beta=0.3).mean()
    assert mine.item() == pytest.approx(theirs, rel=1e-4)
    assert abs(theirs - math.log(2)) > 0.01  # not the trivial value at the reference


def test_robust_dpo_by_hand_and_unbiased():
    """h = 1 as above. And flipping a share e of the labels gives DPO's own loss in the mean, which is its point."""
    arguments = (t(-1.0), t(-3.0), t(-2.0), t(-2.0))
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    loss = losses.robust_dpo(*arguments, beta=0.5, flip_rate=0.1)
    assert loss.tolist() == pytest.approx([(0.9 * right - 0.1 * wrong) / 0.8])
    flipped = losses.robust_dpo(t(-3.0), t(-1.0), t(-2.0), t(-2.0), beta=0.5, flip_rate=0.1)
    assert (0.9 * loss + 0.1 * flipped).tolist() == pytest.approx([right])


def test_ipo_by_hand():
    """Margin 2, and 1 / (2 beta) = 0.5 at beta 1: (2 - 0.5)^2."""
    assert losses.ipo(t(1.0), t(-1.0), beta=1.0).tolist() == pytest.approx([2.25])


def test_dpop_by_hand():
    """Margin 2 - 1 = 1 at log-ratios 2 and 1: nothing lost. At -0.5 and -3: 2.5 less 4 times half a nat, 0.5."""
    loss = losses.dpop(t(2.0, -0.5), t(1.0, -3.0), beta=0.5, penalty=4.0)
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(-0.25))])


def test_hinge_by_hand():
    """Margins 1 and 3 at beta 0.5: 1 - 0.5, and beyond 1 / beta nothing."""
    assert losses.hinge(t(2.0, 2.0), t(1.0, -1.0), beta=0.5).tolist() == pytest.approx([0.5, 0.0])


def test_exo_by_hand():
    """h = log 3 gives the policy's chances 3/4 and 1/4, against 4/5 and 1/5; nothing where they are the labels' own."""
    loss = losses.exo(t(math.log(9)), t(0.0), beta=0.5, label_smoothing=0.2)
    assert loss.tolist() == pytest.approx([0.75 * math.log(0.75 / 0.8) + 0.25 * math.log(0.25 / 0.2)])
    assert losses.exo(t(math.log(4)), t(0.0), beta=1.0, label_smoothing=0.2).tolist() == pytest.approx([0.0], abs=1e-12)


def test_sppo_by_hand():
    """Goals 1 and -1 at beta 0.5: (2 - 1)^2 + (1 + 1)^2."""
    assert losses.sppo(t(2.0), t(1.0), beta=0.5).tolist() == pytest.approx([5.0])


def test_apo_by_hand():
    """Beta 0.5, log-ratios log 9 and -log 4: chances 3/4 and 1/3 of the sides, 6/7 of the margin. Zero pays for 1 - 3/4
    and 1/3; down for 3/4 and 1 - 6/7."""
    ratios = t(math.log(9)), t(-math.log(4))
    assert losses.apo_zero(*ratios, beta=0.5).tolist() == pytest.approx([1 / 4 + 1 / 3])
    assert losses.apo_down(*ratios, beta=0.5).tolist() == pytest.approx([3 / 4 + 1 / 7])


def test_alpha_reward_by_hand():
    """(1 - 4^0.5) / 0.5 = -2 at p = 1/4; (1 - 4^-0.5) / -0.5 = -1 at alpha -0.5; and the log at 0, its limit."""
    quarter = t(math.log(0.25))
    assert losses.alpha_reward(quarter, alpha=0.5).tolist() == pytest.approx([-2.0])
    assert losses.alpha_reward(quarter, alpha=-0.5).tolist() == pytest.approx([-1.0])
    assert losses.alpha_reward(quarter, alpha=0.0).tolist() == quarter.tolist()
    assert losses.alpha_reward(quarter, alpha=1e-7).tolist() == pytest.approx(quarter.tolist(), rel=1e-6)


def test_the_two_ends_of_a_clip_by_hand():
    """Ratios 2, 1.25 and 0.5 at A 1 and -1 with ends 0.8 and 1.3: -1.3, -1.25, and max(0.5, 0.8)."""
    ratios, advantages = t(2.0, 1.25, 0.5).log(), t(1.0, 1.0, -1.0)
    loss = losses.clipped_surrogate(ratios, advantages, clip=0.2, clip_high=0.3)
    assert loss.tolist() == pytest.approx([-1.3, -1.25, 0.8])
    assert losses.outside_clip(ratios, clip=0.2, clip_high=0.3).tolist() == [1.0, 0.0, 1.0]


def test_simpo_by_hand():
    """Mean probabilities 1/2 and 1/5, beta 2, gamma log 2: sigmoid of log(6.25 / 2) is 3.125 / 4.125."""
    loss = losses.simpo(t(math.log(0.5)), t(math.log(0.2)), beta=2.0, gamma=math.log(2))
    assert loss.tolist() == pytest.approx([math.log(4.125 / 3.125)])


def test_cpo_by_hand():
    loss = losses.cpo(t(-1.0), t(-3.0), t(0.7), beta=0.5, nll_weight=2.0)
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1)) + 1.4])


def test_kto_by_hand():
    """beta 0.5, log-ratio 3, baseline 1: gain 1. Desirable 1 - sigmoid(1), undesirable 1 - sigmoid(-1) = sigmoid(1)."""
    sigmoid = 1 / (1 + math.exp(-1))
    for desirable, expected in ((True, 1 - sigmoid), (False, sigmoid)):
        loss = losses.kto(t(-1.0), t(-4.0), torch.tensor(1.0), beta=0.5, desirable=desirable)
        assert loss.tolist() == pytest.approx([expected])


def test_orpo_by_hand():
    """Mean probabilities 1/2 and 1/5: odds 1 and 1/4, log ratio log 4; -log sigmoid(log 4) = log(5/4)."""
    loss = losses.orpo(t(math.log(0.5)), t(math.log(0.2)), t(2.0), weight=0.3)
    assert loss.tolist() == pytest.approx([2.0 + 0.3 * math.log(1.25)])


def test_orpo_stays_finite_at_the_ends():
    certain = torch.zeros(1, requires_grad=True)
    loss = losses.orpo(certain, torch.tensor([-50.0]), torch.zeros(1), weight=1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(certain.grad).all()


def test_log1mexp_against_high_precision():
    """Values of log(1 - e^x) to 12 digits, from the series -e^x - e^2x/2 for small e^x and log(-x) + x/2 near 0."""
    x = torch.tensor([-1e-12, -math.log(2), -40.0], dtype=torch.float64, requires_grad=True)
    expected = [math.log(1e-12) - 0.5e-12, math.log(0.5), -math.exp(-40)]
    assert losses.log1mexp(x).tolist() == pytest.approx(expected, rel=1e-12)
    losses.log1mexp(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_reward_model_by_hand():
    assert reward_model(t(1.0, 0.0), t(0.0, 0.0)).tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)])


def test_kl_estimates_against_the_exact_kl():
    """Expectations over a vocabulary of three: k1 and k3 give the KL; k2 gives half the mean squared difference."""
    p, q = t(0.5, 0.3, 0.2), t(0.2, 0.5, 0.3)
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    squares = sum(a * math.log(a / b) ** 2 / 2 for a, b in zip(p.tolist(), q.tolist(), strict=True))
    for kind, expected in (("k1", exact), ("k2", squares), ("k3", exact)):
        assert float((p * losses.kl_estimate(p.log(), q.log(), kind)).sum()) == pytest.approx(expected)
    assert (losses.kl_estimate(p.log(), q.log(), "k3") > 0).all()


def test_ppo_policy_by_hand():
    """clip 0.2. Token 1: ratio 2, A 1: max(-2, -1.2) = -1.2. Token 2: ratio 2, A -1: max(2, 1.2) = 2.
    Token 3: ratio 1/2, A -1: max(0.5, 0.8) = 0.8. Token 4 is padding. Mean of three: (-1.2 + 2 + 0.8) / 3."""
    new = torch.log(t(2.0, 2.0, 0.5, 9.0))[None]
    mask = torch.tensor([[True, True, True, False]])
    loss = losses.ppo_policy(new, torch.zeros(1, 4), t(1.0, -1.0, -1.0, 5.0)[None], mask, clip=0.2)
    assert loss.item() == pytest.approx((-1.2 + 2 + 0.8) / 3)


def test_ppo_value_by_hand():
    """clip 0.2, old 0. Value 1, return 1: clipped 0.2 errs 0.8, larger: 0.5 * 0.64 = 0.32.
    Value -1, return 1: errors 2 and 1.2, 0.5 * 4 = 2. Padding counts nothing. Mean 1.16."""
    mask = torch.tensor([[True, True, False]])
    loss = losses.ppo_value(t(1.0, -1.0, 7.0)[None], torch.zeros(1, 3), t(1.0, 1.0, 0.0)[None], mask, clip=0.2)
    assert loss.item() == pytest.approx((0.32 + 2.0) / 2)


def brute_force_gae(rewards, values, length, gamma, lam):
    """A_t as the lambda-weighted mixture of n-step advantages, from its definition (eq. 16 before simplification)."""
    out = []
    for start in range(length):
        remaining = length - start
        n_step = []
        for n in range(1, remaining + 1):
            total = sum(gamma**k * rewards[start + k] for k in range(n))
            if start + n < length:
                total += gamma**n * values[start + n]
            n_step.append(total - values[start])
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, remaining)] + [lam ** (remaining - 1)]
        out.append(sum(w * a for w, a in zip(weights, n_step, strict=True)))
    return out


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (1.0, 0.0)])
def test_gae_equals_brute_force(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(3, 6, generator=generator), torch.randn(3, 6, generator=generator)
    lengths = [6, 3, 1]
    mask = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
    advantages, returns = losses.gae(rewards * mask, values, mask, gamma=gamma, lam=lam)
    for row, length in enumerate(lengths):
        expected = brute_force_gae(rewards[row].tolist(), values[row].tolist(), length, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)  # terms of about 1
        assert returns[row, :length].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values[row].tolist(), strict=False)], rel=1e-5, abs=1e-5
        )
        assert advantages[row, length:].abs().sum() == 0 == returns[row, length:].abs().sum()


def test_gae_at_lambda_1_is_monte_carlo():
    """gamma = lambda = 1: advantage is the sum of rewards to come minus the value; rewards 1, 2, 4 and values 0.5."""
    advantages, _ = losses.gae(
        t(1.0, 2.0, 4.0)[None], torch.full((1, 3), 0.5), torch.ones(1, 3, dtype=torch.bool), gamma=1.0, lam=1.0
    )
    assert advantages[0].tolist() == pytest.approx([6.5, 5.5, 3.5])
