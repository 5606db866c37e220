"""Names of metrics: by families, evaluators and single measures."""

# What a metric's family is called and how its value is written; `.` divides family from evaluator ("win_rate.gold").
# Families that are not here follow under their own names.
FAMILIES: dict[str, tuple[str, str]] = {
    "win_rate": ("Win rate against SFT", "share"),
    "reward": ("Mean reward", "number"),
    "measure": ("Mean", "number"),
    "versus": ("Win rate, directly compared", "share"),
    "kl": ("KL to SFT (nats)", "number"),
    "length": ("Length (tokens)", "tokens"),
    "eos_rate": ("Ended with EOS", "share"),
}
EVALUATORS = {
    "gold": "true reward",
    "people": "people",
    "reward_model": "reward model",
    "judge": "judge",
    "reward_model.training": "training reward",
    "judge_until_decided": "judge, until decided",
}
# Other metrics: name -> how they are called.
MEASURES = {
    "entropy": "Entropy (nats per token)",
    "distinct.1.across": "Distinct words, across responses",
    "distinct.2.across": "Distinct pairs of words, across responses",
    "distinct.1.within": "Distinct words, responses to one prompt",
    "distinct.2.within": "Distinct pairs of words, responses to one prompt",
    "self_bleu.across": "Self-BLEU, across responses",
    "self_bleu.within": "Self-BLEU, responses to one prompt",
    "repetition.3": "Repeated 3-grams",
    "implicit_reward.accuracy": "Implicit reward: accuracy on pairs",
    "implicit_reward.margin": "Implicit reward: margin (nats)",
    "implicit_reward.chosen": "Implicit reward: chosen replies (nats)",
    "judge.position_consistency": "Judge: same verdict when swapped",
    "judge.self_consistency": "Judge: same verdict twice",
    "judge.agreement": "Judge: members agree",
    "judge.answered": "Judge: gave a verdict where asked",
    "grade.judge": "Grade against SFT, −2 to 2 (judge)",
}


def evaluator(name: str) -> str:
    """An evaluator's name; a part of one is named by both: "true reward, harmless"; so is another row: "people:dpo"."""
    who, colon, row = name.partition(":")
    if colon and who in EVALUATORS:
        return f"{EVALUATORS[who]}, against {row}"
    head, dot, part = name.partition(".")
    if name not in EVALUATORS and dot and head in EVALUATORS:
        return f"{EVALUATORS[head]}, {part.replace('_', ' ')}"
    return EVALUATORS.get(name, name.replace("_", " "))


def title(metric: str) -> str:
    """A metric's name in words: "Win rate against SFT (true reward)"."""
    if metric in MEASURES:
        return MEASURES[metric]
    head, _, tail = metric.partition(".")
    name = FAMILIES[head][0] if head in FAMILIES else head.replace("_", " ").capitalize()
    return f"{name} ({evaluator(tail)})" if tail else name
