"""A report's order of metrics and its words for their values and intervals."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.metric_names import EVALUATORS, FAMILIES
from ..analysis.quantities import COSTS, MISSING, measured, number, share

# The audit of judges: key in summary["judges"]["audit"][NAME] -> how it is called.
JUDGE_MEASURES = {
    "coverage": "Valid verdicts",
    "flip": "Flips when swapped",
    "self_consistency": "Same verdict twice",
    "prefers_longer": "Prefers longer",
    "agreement_reward_model": "Agrees with reward model",
    "agreement_gold": "Agrees with true reward",
    "panel_agreement": "Members agree",
}
# Judges beside people: key in summary["judges"]["people"]["judges"][NAME] -> how it is called.
PEOPLE_SHARES = {
    "accuracy": "Majority's label",
    "decided_accuracy": "Ties left out",
}
PEOPLE_KAPPAS = {"kappa": "Kappa, majority", "kappa_person": "Kappa, one person"}


def is_headline(metric: str) -> bool:
    """True for a metric of an evaluator as a whole, and not of a part of it (a facet, a panel's member)."""
    return metric.partition(".")[2] in ("", *EVALUATORS) or metric.count(".") == 1


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
    if not measured(amount):
        return MISSING
    text = share(amount) if is_share else f"{amount:,.1f}" if kind == "tokens" else number(amount)
    if sign:
        text = ("+" if amount > 0 else "") + text.replace("%", " pp")
    return text.replace("-", "−")


def bracket(cell: Mapping[str, Any], metric: str) -> str:
    """An interval beside a value that bears the unit: "[64.9, 77.1]"; "" where there is none or it has no width."""
    if not measured(cell.get("low")) or not measured(cell.get("high")) or cell["low"] == cell["high"]:
        return ""
    return f"[{value(cell['low'], metric)}, {value(cell['high'], metric)}]".replace("%", "")


def markdown(text: Any) -> str:
    """Text that stands for itself within a Markdown paragraph or table cell: no HTML, no markup, one line."""
    text = re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"<(?=[^\s\d=])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))


def split(sentence: str) -> tuple[str, str]:
    """A sentence's statement and, after its colon, the numbers behind it."""
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


def code_in_words(record: Mapping[str, Any]) -> str:
    """The parts of a study's or tuning's code with their hashes, shortened; empty where an older record has none."""
    return ", ".join(f"{part} {digest[:12]}" for part, digest in (record.get("code") or {}).items())
