"""More mistakes of mutants.py: in methods that differ from another by a term, and in who draws with which numbers."""

from mistakes import LOSSES, PAIRWISE_ROUND, SAMPLING, of

BY_HAND = {
    name: f"{LOSSES}::test_{name}_by_hand" for name in ("dpop", "hinge", "exo", "sppo", "apo", "alpha_reward")
} | {"ends": f"{LOSSES}::test_the_two_ends_of_a_clip_by_hand"}
RELATIVES, GROUPED = "tests/methods/test_ppo_relatives.py", "tests/methods/test_grouped.py"
ROUND_OF = f"{PAIRWISE_ROUND}::test_pairs_are_learnt_as_the_method_written_out_learns_them"

MUTANTS = [
    *of(
        "methods/losses.py",
        LOSSES,
        ("DPOP pays for what chosen gained", "(-chosen_log_ratios).clamp", "chosen_log_ratios.clamp", BY_HAND["dpop"]),
        ("DPOP forgets the penalty's weight", "- penalty * lost", "- lost", BY_HAND["dpop"]),
        ("the hinge's margin has the wrong sign", "return (1 - beta *", "return (1 + beta *", BY_HAND["hinge"]),
        (
            "EXO's label chances are swapped",
            "first.exp() * (first - kept)",
            "first.exp() * (first - flipped)",
            BY_HAND["exo"],
        ),
        ("EXO is the forward KL", "first.exp() * (first", "(first", BY_HAND["exo"]),
        ("SPPO's goals are alike", "(rejected_log_ratios + goal)", "(rejected_log_ratios - goal)", BY_HAND["sppo"]),
        (
            "APO-zero lowers chosen",
            "sigmoid(-beta * chosen_log_ratios)",
            "sigmoid(beta * chosen_log_ratios)",
            BY_HAND["apo"],
        ),
        ("APO-down turns its margin round", "torch.sigmoid(-margin)", "torch.sigmoid(margin)", BY_HAND["apo"]),
        (
            "AlphaPO's reward has the wrong sign",
            "return -torch.expm1(-alpha",
            "return torch.expm1(-alpha",
            BY_HAND["alpha_reward"],
        ),
        (
            "both ends of a clip are the lower one's",
            "1 + (clip if clip_high is None else clip_high)",
            "1 + clip",
            BY_HAND["ends"],
        ),
    ),
    *of(
        "methods/grpo_terms.py",
        f"{GROUPED}::test_grpos_relatives_by_hand",
        ("Dr. GRPO divides by each length", "return group.longest", "return super().tokens(group)"),
        (
            "Dr. GRPO scales its advantages",
            "return rewards - rewards.mean(1, keepdim=True)",
            "return super().advantages(rewards, log_ratios)",
        ),
        (
            "GSPO's ratio is the product",
            "/ mask.sum(1, keepdim=True)",
            "",
            f"{GROUPED}::test_gspo_has_one_ratio_a_response_by_hand",
        ),
        (
            "CISPO's weight has a gradient",
            "log_ratios.detach().exp()",
            "log_ratios.exp()",
            f"{GROUPED}::test_cispo_weighs_log_probs_by_capped_ratios_without_their_gradient",
        ),
    ),
    *of(
        "methods/dpo_terms.py",
        ROUND_OF,
        (
            "R-DPO rewards length",
            "+ self.length_weight * longer",
            "- self.length_weight * longer",
            f"{ROUND_OF}[r_dpo-20]",
        ),
        (
            "RPO's NLL has the wrong sign",
            "- self.nll_weight * logps.chosen.mean()",
            "+ self.nll_weight * logps.chosen.mean()",
            f"{ROUND_OF}[rpo-20]",
        ),
        (
            "length-normalized DPO sums",
            "chosen, rejected = logps.mean_log_ratios",
            "chosen, rejected = logps.log_ratios",
            f"{ROUND_OF}[dpo_norm-20]",
        ),
    ),
    *of(
        "methods/wpo.py",
        f"{PAIRWISE_ROUND}::test_wpo_weighs_pairs_as_written_out",
        ("WPO's weights are of sums", "(both.mean() - expected.mean())", "(both.sum() - expected.sum())"),
        ("WPO is not aligned", "(2 * logits.float().log_softmax(-1))", "(logits.float().log_softmax(-1))"),
    ),
    *of(
        "methods/iterative_dpo.py",
        GROUPED,
        (
            "the second best is rejected",
            "groups.argmin(1)",
            "groups.topk(2).indices[:, 1]",
            f"{GROUPED}::test_iterative_dpo_pairs_the_best_with_the_worst_in_as_many_rounds_as_it_says",
        ),
        (
            "the last round is no reference",
            "reference=group.old",
            "reference=group.reference",
            f"{GROUPED}::test_iterative_dpos_reference_is_sft_or_who_sampled",
        ),
    ),
    *of(
        "methods/ppo_ensemble.py",
        f"{RELATIVES}::test_ensemble_rewards_by_hand",
        ("the ensemble's best counts", "scores.amin(1)", "scores.amax(1)"),
        ("disagreement is rewarded", "scores.mean(1) - variance_weight", "scores.mean(1) + variance_weight"),
        (
            "models count from 0",
            "scores - torch.tensor(self.means)",
            "scores",
            f"{RELATIVES}::test_an_ensembles_models_count_from_their_means_on_sfts_responses",
        ),
    ),
    *of(
        "methods/ppo_lagrangian.py",
        f"{RELATIVES}::test_a_response_is_worth_its_reward_less_its_cost",
        ("costs are rewarded", "(final - self.multiplier * costs", "(final + self.multiplier * costs"),
        (
            "the multiplier falls beyond the limit",
            "math.exp(self.method.multiplier_lr",
            "math.exp(-self.method.multiplier_lr",
        ),
        (
            "at_least is at_most",
            'self.method.side == "at_most"',
            "self.method.side",
            f"{RELATIVES}::test_the_multiplier_grows_while_the_mean_is_beyond_the_limit",
        ),
    ),
    *of(
        "models/sampling.py",
        f"{SAMPLING}::test_a_response_has_the_numbers_of_its_prompt_wherever_it_stands",
        ("several responses have the same numbers", "append(seen[prompt.id])", "append(0)"),
        ("prompts share their numbers", 'f"{number} {prompt.id}"', 'f"{number}"'),
        ("a response's number is not used", 'f"{number} {prompt.id}"', "prompt.id"),
    ),
]
