"""What metrics are called in a report, and how their values and intervals are written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..results.quantities import COSTS, MISSING, known, number, share

# What a metric's family is called and how its value is written; `.` divides family from evaluator ("win_rate.gold").
# Families that are not here follow under their own names.
FAMILIES: dict[str, tuple[str, str]] = {
    "win_rate": ("Win rate against SFT", "share"),
    "reward": ("Mean reward", "number"),
    "kl": ("KL to SFT (nats)", "number"),
    "length": ("Length (tokens)", "tokens"),
    "eos_rate": ("Ended with EOS", "share"),
}
EVALUATORS = {
    "gold": "true reward",
    "reward_model": "reward model",
    "judge": "judge",
    "reward_model.training": "training reward model",
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
    "judge.position_consistency": "Judge: same verdict when swapped",
    "judge.self_consistency": "Judge: same answer twice",
    "judge.agreement": "Judge: members agree",
}
# The audit of judges: key in summary["judges"]["audit"][NAME] -> how it is called.
JUDGE_MEASURES = {
    "coverage": "Valid verdicts",
    "flip": "Flips when swapped",
    "self_consistency": "Same answer twice",
    "prefers_longer": "Prefers longer",
    "agreement_reward_model": "Agrees with reward model",
    "agreement_gold": "Agrees with true reward",
    "panel_agreement": "Members agree",
}


def evaluator(name: str) -> str:
    """What an evaluator is called; a part of one by both: "true reward, harmless"."""
    head, dot, part = name.partition(".")
    if name not in EVALUATORS and dot and head in EVALUATORS:
        return f"{EVALUATORS[head]}, {part.replace('_', ' ')}"
    return EVALUATORS.get(name, name.replace("_", " "))


def is_headline(metric: str) -> bool:
    """Whether a metric is of an evaluator as a whole, and not of a part of it (a facet, a panel's member)."""
    return metric.partition(".")[2] in ("", *EVALUATORS) or metric.count(".") == 1


def title(metric: str) -> str:
    """A metric's name in words: "Win rate against SFT (true reward)"."""
    if metric in MEASURES:
        return MEASURES[metric]
    head, _, tail = metric.partition(".")
    name = FAMILIES[head][0] if head in FAMILIES else head.replace("_", " ").capitalize()
    return f"{name} ({evaluator(tail)})" if tail else name


def cost_title(key: str) -> str:
    return COSTS.get(key, key.replace("_", " ").capitalize())


def ordered(names: Any) -> list[str]:
    """Metrics, families in the order of FAMILIES, the true reward before its proxies."""
    family, order = list(FAMILIES), list(EVALUATORS)

    def place(name: str) -> tuple[Any, ...]:
        head, _, tail = name.partition(".")
        return (
            family.index(head) if head in family else len(family),
            order.index(tail) if tail in order else len(order),
            name,
        )

    return sorted(names, key=place)


def value(amount: Any, metric: str, sign: bool = False) -> str:
    """A metric's value as its family is written; `sign` for differences, of shares in percentage points."""
    kind = FAMILIES.get(metric.partition(".")[0], ("", "number"))[1]
    is_share = kind == "share" or metric.endswith(("_rate", "accuracy"))
    if not known(amount):
        return MISSING
    text = share(amount) if is_share else f"{amount:,.1f}" if kind == "tokens" else number(amount)
    if sign:
        text = ("+" if amount > 0 else "") + text.replace("%", " pp")
    return text.replace("-", "−")


def bracket(cell: Mapping[str, Any], metric: str) -> str:
    """An interval beside a value that bears the unit: "[64.9, 77.1]"; "" where there is none or it has no width."""
    if not known(cell.get("low")) or not known(cell.get("high")) or cell["low"] == cell["high"]:
        return ""
    return f"[{value(cell['low'], metric)}, {value(cell['high'], metric)}]".replace("%", "")


def markdown(text: Any) -> str:
    """Text that stands for itself within a Markdown paragraph or table cell: no HTML, no markup, one line."""
    text = re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"<(?=[^\s\d=])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))


def split(sentence: str) -> tuple[str, str]:
    """What a sentence says and, after its colon, the numbers behind it."""
    head, colon, tail = sentence.partition(": ")
    return (head, f": {tail}") if colon else ("", sentence)


def flat(found: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of (dotted name, value)."""
    if isinstance(found, Mapping) and found:
        return [row for key, inner in found.items() for row in flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(found, list) and not any(isinstance(v, dict | list) for v in found):
        found = ", ".join(str(v) for v in found) or "none"
    return [(name, "none" if found is None or found == {} else str(found))]


def natural(names: Sequence[str]) -> list[str]:
    """Sorted, numbers within names counting as numbers, so that "p-10" follows "p-9"."""
    return sorted(
        names, key=lambda i: [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in re.split(r"(\d+)", i)]
    )
