"""The mistakes of mutants.py: wrong signs, missing masks, swapped arguments, settings that nothing uses, off by one."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A mistake: one place of a file, what stands there instead, and the tests that ought to notice."""

    name: str
    file: str
    old: str
    """Found exactly once in the file."""
    new: str
    tests: tuple[str, ...]
    """Test files or test ids, in pytest's form."""


def of(file: str, tests: str, *rows: tuple[str, ...]) -> list[Mutant]:
    """Mutants of one file; a row is (name, old, new) and may name its own tests in place of `tests`."""
    return [Mutant(name, file, old, new, tuple((own or [tests])[0].split())) for name, old, new, *own in rows]


PPO_ROUND, GROUPED_ROUND, PAIRWISE_ROUND, COURSE, PAIRWISE, LOSSES = (
    f"tests/methods/test_{name}.py" for name in "ppo_round grouped_round pairwise_round course pairwise losses".split()
)
POLICY, SAMPLING = "tests/models/test_policy.py", "tests/models/test_sampling.py"
PROBE, RESUME = "tests/training/test_probe.py", "tests/training/test_resume.py"
STOPPED = f"{COURSE}::test_a_training_that_was_stopped_ends_as_one_that_was_not"
STAGES = "tests/benchmarks/stages/test_trained.py"

MUTANTS = [
    *of(
        "methods/ppo.py",
        PPO_ROUND,
        ("the KL weighs nothing", "penalty, mask, beta=self.beta)", "penalty, mask, beta=0.0)"),
        ("the adaptive beta is not used", "penalty, mask, beta=self.beta)", "penalty, mask, beta=method.beta)"),
        (
            "the policy is its own reference",
            "reference = Policy.open(task.sft, task.tuning, trainable=False)",
            "reference = policy",
        ),
        ("gamma and lambda are swapped", "gamma=method.gamma, lam=method.lam", "gamma=method.lam, lam=method.gamma"),
        ("advantages are not whitened", "advantages=whiten(advantages, mask)", "advantages=advantages"),
        ("beta falls where the KL is too high", "min(0.2, max(-0.2, error))", "-min(0.2, max(-0.2, error))"),
        ("beta starts anew each round", "self.beta *= 1 +", "self.beta = self.method.beta + self.method.beta *"),
        ("kl_gain is not used", "self.method.kl_gain * min(", "0.1 * min("),
        ("kl_estimator is not used", "reference.values, method.kl_estimator)", 'reference.values, "k1")'),
        (
            "the penalty's sides are swapped",
            "losses.kl_estimate(old.values, reference.values,",
            "losses.kl_estimate(reference.values, old.values,",
        ),
        ("old log-probs are SFT's", "old_logps=old.values", "old_logps=reference.values"),
        ("old values are 0", "old_values=values,", "old_values=values * 0,"),
        ("warm-up is a round longer", "number >= self.method.critic_warmup", "number > self.method.critic_warmup"),
        (
            "the policy's schedule counts the critic's rounds",
            "method.lr, per_round * learning)",
            "method.lr, per_round * self.rounds)",
            COURSE,
        ),
        ("the critic learns at the policy's rate", "critic, method.critic_lr,", "critic, method.lr,"),
        (
            "new log-probs are at temperature 1",
            "self.policy.logps(layout, self.method.temperature)",
            "self.policy.logps(layout)",
        ),
        (
            "one trunk's log-probs are at temperature 1",
            "self.policy.logps_of(states, layout, self.method.temperature)",
            "self.policy.logps_of(states, layout)",
        ),
        (
            "value_clip is not used",
            "part.returns, part.mask, clip=self.method.value_clip)",
            "part.returns, part.mask, clip=self.method.clip)",
        ),
        ("the last token has no penalty", "last] += final", "last] = final"),
        ("the score comes a token early", "last = mask.sum(1) - 1", "last = (mask.sum(1) - 2).clamp(min=0)"),
        (
            "micro-batches weigh as their rows",
            "weight = sum(lengths[i] for i in batch.rows) / tokens",
            "weight = len(batch.rows) / len(rows)",
        ),
        ("value_weight is not used", "return loss + self.method.value_weight * error", "return loss + error"),
        ("whitening sees padding", "mean = losses.masked_mean(values, mask)\n", "mean = values.mean()\n"),
        (
            "a critic from the reward model is not scaled",
            "values = (values - self.scale[0]) / self.scale[1]",
            "values = values - self.scale[0]",
        ),
        ("beta starts anew after a stop", 'self.beta = state["beta"]', "self.beta = self.method.beta", STOPPED),
        ("the critic starts anew after a stop", '"critic": Weights(self.critic.parameters),', "", STOPPED),
        ("the critic's Adam starts anew", '"critic_optimizer": self.critic_optimizer,', "", STOPPED),
    ),
    *of(
        "methods/online.py",
        PPO_ROUND,
        (
            "each round draws with the same numbers",
            "numbers=[epoch * k + j for epoch, _ in drawn for j in range(k)],",
            "",
            f"{COURSE}::test_no_response_is_drawn_with_the_numbers_of_another",
        ),
        (
            "each epoch has the same order",
            "torch.randperm(count, generator=self.permutations)",
            "torch.randperm(count, generator=torch.Generator().manual_seed(self.task.seed))",
            f"{COURSE}::test_each_epoch_of_each_round_has_an_order_of_its_own",
        ),
        ("EOS is penalized", "(~finished)", "finished"),
        ("each round has a scale of its own", "if self.scale is None:", "if self.method.normalize_reward:"),
        ("the scale is the sample's deviation", "raw.std(correction=0)", "raw.std()"),
        ("the reference is never asked", "last_epoch == 0", "last_epoch >= 0"),
        ("log-probs are at temperature 1", "policy.logps(layout, self.method.temperature)", "policy.logps(layout)"),
        ("prompts are drawn again after a stop", "first * self.prompts_per_round", "first", STOPPED),
        ("the probe looks a round late", "watch((number + 1) / self.rounds)", "watch(number / self.rounds)", PROBE),
        ("warmup is not used", "warmup=self.method.warmup,", "warmup=0.0,", COURSE),
        ("max_grad_norm is not used", "max_grad_norm=self.method.max_grad_norm,", "max_grad_norm=1.0,"),
        (
            "responses are drawn at temperature 1",
            "temperature=self.method.temperature,\n                value_head",
            "temperature=1.0,\n                value_head",
            GROUPED_ROUND,
        ),
        ("permutations start anew after a stop", 'self.permutations.set_state(state["permutations"])', "pass", STOPPED),
        (
            "the scale is measured anew after a stop",
            'tuple(state["scale"]) if state["scale"] else None',
            "None",
            STOPPED,
        ),
    ),
    *of(
        "methods/losses.py",
        LOSSES,
        ("PPO takes the better of both", "torch.maximum(-advantages * ratio", "torch.minimum(-advantages * ratio"),
        ("PPO's clip has no lower end", "ratio.clamp(1 - clip, highest)", "ratio.clamp(max=highest)"),
        ("the smaller value error counts", "torch.maximum((values - returns)", "torch.minimum((values - returns)"),
        ("values are clipped around the return", "clipped = old_values + (values", "clipped = returns + (values"),
        ("GAE forgets gamma", "delta + gamma * lam * following", "delta + lam * following"),
        ("GAE's next value is not discounted", "gamma * next_value", "next_value"),
        ("returns lack the value", "(advantages + values) * real", "advantages * real"),
        ("means count padding", "(values * mask).sum() / mask.sum()", "(values * mask).sum() / mask.numel()"),
        ("k3 is of the other direction", "expm1(-difference) + difference", "expm1(difference) - difference"),
        ("IPO aims twice as far", "- 1 / (2 * beta)", "- 1 / beta"),
        ("SimPO's target has the wrong sign", "rejected_mean_logps) - gamma", "rejected_mean_logps) + gamma"),
        ("CPO forgets the NLL's weight", "+ nll_weight * chosen_nll", "+ chosen_nll"),
        ("ORPO's odds are p (1 - p)", "(chosen - log1mexp(chosen))", "(chosen + log1mexp(chosen))"),
        ("KTO's sides are swapped", "gain if desirable else -gain", "-gain if desirable else gain"),
        (
            "robust DPO adds the flipped loss",
            "(flip_rate * F.logsigmoid(-margin)",
            "(-flip_rate * F.logsigmoid(-margin)",
        ),
        (
            "the reference pulls away",
            "policy_chosen_logps - reference_chosen_logps",
            "policy_chosen_logps + reference_chosen_logps",
        ),
    ),
    *of(
        "training/loop.py",
        PAIRWISE_ROUND,
        ("the log has the next step's rate", "lr=lr_now", "lr=optimizer.lr"),
        ("the probe looks a step late (offline)", "watch((number + 1) / steps)", "watch(number / steps)", PROBE),
        ("the rate stays", "self.schedule.step()", "pass"),
        ("warm-up is rounded down", "math.ceil(warmup * total_steps)", "math.floor(warmup * total_steps)"),
        ("micro-batches weigh alike", "return losses.sum() / batch_size", "return losses.mean()"),
        ("gradients are not clipped", "nn.utils.clip_grads_with_norm_(updated, self.max_grad_norm, norm)", "pass"),
        ("gradients pile up", "self.adam.zero_grad(set_to_none=True)", "pass"),
        ("nothing is prepared", "objective.prepare(batch)\n", "pass\n"),
        (
            "what does not fill a batch is a step",
            "steps = recipe.examples // batch_size",
            "steps = -(-recipe.examples // batch_size)",
        ),
        (
            "weight_decay is not used",
            "weight_decay=weight_decay,\n            fused",
            "weight_decay=0.0,\n            fused",
        ),
        (
            "fit does not pass weight_decay on",
            "weight_decay=recipe.weight_decay",
            "weight_decay=0.0",
        ),
        ("epsilon is not used", "eps=epsilon", "eps=1e-8", PPO_ROUND),
        ("rows are drawn again after a stop", "first * batch_size, None", "first, None", RESUME),
        ("the rate is the peak after a stop", 'group["lr"] = rate', "pass", RESUME),
        ("Adam starts anew after a stop", "for i, found in moments.items():", "for i, found in ():", RESUME),
        ("the head has the policy's rate", '"lr": head_lr', '"lr": lr', PPO_ROUND),
        ("metrics are sums", "value / batch_size for name", "value for name"),
    ),
    *of(
        "models/sampler_torch.py",
        f"{SAMPLING} {POLICY}",
        ("the sampler ignores the temperature", "logits.float() / self.temperature, dim", "logits.float(), dim"),
        (
            "kept log-probs are at temperature 1",
            "chances.gather(1, tokens).log()",
            "logits.float().log_softmax(-1).gather(1, tokens)",
            PPO_ROUND,
        ),
        ("positions stand still", "self.positions + 1", "self.positions"),
        (
            "padding counts as position",
            "(real.long().cumsum(1) - 1)",
            "torch.arange(width).expand(len(real), -1)",
        ),
        ("rows take the numbers of others", "self.numbers[keep]", "self.numbers[: len(keep)]"),
        ("all seeds draw alike", "np.array([seed, stream]", "np.array([0, stream]"),
        ("every response ended", "ids, ids[-1] in self.stops, logps", "ids, True, logps"),
        ("the nucleus loses its last token", "ordered.cumsum(-1) - ordered", "ordered.cumsum(-1)"),
        ("the nucleus is not used", "chances = nucleus(chances, self.top_p)", "pass"),
        ("shared prompts give all rows the first one's", "[row_of[ids] for ids in asked]", "[0 for ids in asked]"),
    ),
    *of(
        "methods/grouped.py",
        GROUPED_ROUND,
        ("new log-probs are at temperature 1 (grouped)", "batch.layout, self.method.temperature)", "batch.layout)"),
        ("micro-batches weigh alike (grouped)", "each.sum() / len(prompts), means", "each.mean(), means"),
        (
            "old log-probs are SFT's (grouped)",
            "old=old.values",
            "old=reference.values",
        ),
        ("the log-ratio has the wrong sign", "(old.values - reference.values)", "(reference.values - old.values)"),
        ("the schedule forgets epochs", "self.rounds * method.epochs *", "self.rounds *", COURSE),
        ("advantages are of the first groups", "advantages[batch.rows],", "advantages[: len(batch.rows)],"),
    ),
    *of(
        "methods/rloo.py",
        GROUPED_ROUND,
        ("the mean holds the response itself", " * k / (k - 1)", ""),
        ("RLOO pays for the KL", "rewards - self.beta * log_ratios", "rewards + self.beta * log_ratios"),
    ),
    *of(
        "methods/grpo.py",
        GROUPED_ROUND,
        ("GRPO's KL is to the old policy", "(new, group.reference,", "(new, group.old,"),
        ("GRPO's mean counts padding", "return group.new.mask.sum(1)", "return group.new.mask.shape[1]"),
    ),
    *of(
        "methods/online_dpo.py",
        GROUPED_ROUND,
        ("the worse of two is preferred", "rewards[:, :1] - rewards[:, 1:]", "rewards[:, 1:] - rewards[:, :1]"),
    ),
    *of(
        "methods/rejection.py",
        GROUPED_ROUND,
        ("the worst is kept", ".argmax(1)", ".argmin(1)"),
        (
            "rejection learns at temperature 1",
            "self.policy.logps(batch.layout, self.method.temperature)",
            "self.policy.logps(batch.layout)",
        ),
    ),
    *of(
        "methods/pairwise.py",
        PAIRWISE_ROUND,
        (
            "the reference's sides are swapped",
            "reference_chosen, reference_rejected, prompt)",
            "reference_rejected, reference_chosen, prompt)",
        ),
        ("reference log-probs are other pairs'", "part[places].to", "part[: len(places)].to"),
        ("the logged margin adds the reference", "margin - (reference_chosen", "margin + (reference_chosen"),
        ("lengths of the rejected are the chosen's", "both.mask[n:]", "both.mask[:n]"),
        ("the prompt's end is a token late", "pair.prompt.ids) - 1 for", "pair.prompt.ids) for", PAIRWISE),
        ("every seed has the same order", "seed=task.seed,\n", "seed=0,\n"),
    ),
    *of(
        "methods/kto.py",
        f"{PAIRWISE_ROUND}::test_kto_is_learnt_as_written_out {PAIRWISE}",
        (
            "weights of good and other replies are swapped",
            "method.desirable_weight * desirable, method.undesirable_weight * undesirable",
            "method.undesirable_weight * desirable, method.desirable_weight * undesirable",
        ),
        (
            "replies stand after their own couple's prompt",
            "[*replies[2:], *replies[:2]]",
            "[*replies[1:], *replies[:1]]",
        ),
        (
            "the drift has the wrong sign",
            "return (ours - theirs).mean()",
            "return (theirs - ours).mean()",
        ),
        ("the drift may be negative", "(ours - theirs).mean().clamp(min=0)", "(ours - theirs).mean()"),
        ("the drift is not used", "reference, drift, beta=", "reference, drift * 0, beta="),
        (
            "unpaired replies are not shuffled by the seed",
            "shuffled(len(task.unpaired), task.seed)",
            "shuffled(len(task.unpaired), 0)",
        ),
    ),
    *of(
        "training/probe.py",
        PROBE,
        ("accuracy counts the wrong pairs", "(chosen > rejected)", "(chosen < rejected)"),
        ("sides are mixed up", ".view(-1, 2).T", ".view(2, -1)"),
        (
            "SFT is not taken off",
            "self.policy.total_logps(self.sides, together=True) - self.start",
            "self.policy.total_logps(self.sides, together=True)",
        ),
        ("the probe looks a step late", "share < self.shares[0]", "share <= self.shares[0]"),
        ("entropy is a response's", "-sum(logps) / sum(len(s.ids) for s in samples)", "-sum(logps) / len(samples)"),
        ("the KL is a token's", "sum(kls) / len(kls)", "sum(kls) / sum(len(s.ids) for s in samples)"),
        ("repetition counts the last n-gram out", "range(len(ids) - n + 1)", "range(len(ids) - n)"),
    ),
    *of(
        "models/policy.py",
        POLICY,
        ("the KL is of the other direction", "(shares * (ours - theirs))", "(theirs.exp() * (theirs - ours))"),
        (
            "the KL is sampled",
            "kls = (shares * (ours - theirs)).sum(-1)",
            "kls = (ours - theirs).gather(1, tokens[:, None])[:, 0]",
        ),
        ("means divide by the longest", "self.values.sum(1) / self.mask.sum(1)", "self.values.mean(1)", PAIRWISE_ROUND),
    ),
    *of(
        "evaluators/divergence.py",
        "tests/evaluators/test_divergence.py",
        ("the KL is the baseline's", "for ours in responses", "for ours in baseline"),
    ),
    *of(
        "models/reward_model.py",
        f"tests/evaluators/test_reward_model.py {STAGES}",
        ("a score is read a token early", "(layout, layout.last)", "(layout, layout.last - 1)"),
    ),
    *of(
        "training/reward_model.py",
        STAGES,
        (
            "the reward model prefers the rejected",
            "(chosen_scores - rejected_scores)",
            "(rejected_scores - chosen_scores)",
            LOSSES,
        ),
        (
            "the reward model learns the rejected",
            "return reward_model(chosen, rejected)",
            "return reward_model(rejected, chosen)",
        ),
        (
            "the gate knows one reply's length only",
            "len(pair.chosen), len(pair.rejected)",
            "len(pair.rejected), len(pair.rejected)",
        ),
        ("the gate counts the wrong pairs", "scores[::2], scores[1::2]", "scores[1::2], scores[::2]"),
        (
            "a pair's sides come from different pairs",
            "model.scores(batch.layout).view(-1, 2).unbind(1)",
            "model.scores(batch.layout).view(2, -1)",
        ),
    ),
    *of(
        "training/sft.py",
        STAGES,
        ("SFT teaches brevity", "logps(batch.layout).sum() / self.tokens", "logps(batch.layout).mean()"),
        (
            "SFT imitates the rejected",
            "pair.chosen if place < len(pairs) else",
            "pair.rejected if place < len(pairs) else",
        ),
        ("SFT's gate is a sum", "-total / len(e.response)", "-total"),
    ),
    *of(
        "training/resume.py",
        RESUME,
        ("random numbers start anew after a stop", '{**parts, "random": RandomState()}', "{**parts}"),
        ("one checkpoint is kept", "KEPT = 2", "KEPT = 1"),
        ("another training's checkpoint is taken", '["phase"] == self.phase:', '["phase"]:'),
        ("the log keeps what was done again", "shutil.copyfile(folder / METRICS, self.out / METRICS)", "pass"),
        ("a step is done twice after a stop", "done = number + 1", "done = number"),
        ("damage is not looked for", "if not is_whole(folder):", "if False:"),
        ("the oldest checkpoint is taken", 'glob("[0-9]*"), reverse=True)', 'glob("[0-9]*"))'),
        ("weights are not put back", "parameter.copy_(divided_like", "(divided_like"),
    ),
    *of(
        "training/task.py",
        f"{COURSE} {PAIRWISE}",
        ("every seed shuffles alike", "rng = random.Random(seed)", "rng = random.Random(0)"),
        (
            "every epoch has the first one's order",
            "    while True:\n        order",
            "    while rng.seed(seed) is None:\n        order",
        ),
    ),
    *of(
        "training/ledger.py",
        f"{COURSE} {PAIRWISE}",
        (
            "FLOPs forget the pass forward",
            "forward * (2 + self.trainable_share)",
            "forward * (1 + self.trainable_share)",
        ),
        ("snapshots come at every step", "self.marks = [mark for mark in self.marks if mark > examples]", "pass"),
    ),
]
