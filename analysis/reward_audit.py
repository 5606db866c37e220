"""The reliability of a reward model, from its scores of labelled pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import atanh, exp, sqrt, tanh
from typing import Any

import numpy as np

from ..results.records import win
from .agreement import clustered_share, cohen_kappa
from .statistics import t_squared

BINS = 5  # of confidence between one half and one
MATCHED = 0.1  # of the longer reply's tokens, by which the lengths of a matched pair may differ


@dataclass(frozen=True)
class ScoredPair:
    """A reward model's scores of a pair of which people preferred the first; lengths in tokens."""

    prompt_id: str
    subset: str | None
    chosen: float
    rejected: float
    chosen_length: int
    rejected_length: int


def audit_reward_model(pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    """Accuracy, calibration and length bias of one reward model on labelled pairs.

    `accuracy`: share of pairs ordered as labelled, ties half, with an interval for pairs of one prompt hanging
    together; `ties` counts equal scores. `ece` and `bins`: see `calibration`. `length_correlation`: Pearson's r of the
    score difference with the length difference of a pair, and its 95% interval. `prefers_longer` beside
    `people_prefer_longer`, on pairs of unequal length. `subsets`: accuracy and ties by subset.

    `length_rule`: the accuracy of "take the longer reply" on the same pairs, equal lengths half. `beyond_length`: how
    much higher the model's is, paired. `matched`: its accuracy on pairs whose lengths differ by a tenth at most.
    """
    found = {
        "pairs": len(pairs),
        "accuracy": _accuracy(pairs),
        "ties": sum(pair.chosen == pair.rejected for pair in pairs),
        **calibration(pairs),
        "length_correlation": _length_correlation(pairs),
        "prefers_longer": _longer([p for p in pairs if p.chosen != p.rejected], lambda p: p.chosen > p.rejected),
        "people_prefer_longer": _longer(pairs, lambda p: True),
        "length_rule": clustered_share([_by_length(p) for p in pairs], [p.prompt_id for p in pairs]),
        "beyond_length": _beyond_length(pairs),
        "matched": _accuracy([p for p in pairs if _is_matched(p)]),
    }
    names = sorted({pair.subset for pair in pairs if pair.subset is not None})
    parts = {name: [pair for pair in pairs if pair.subset == name] for name in names}
    found["subsets"] = {
        name: {"accuracy": _accuracy(part), "ties": sum(p.chosen == p.rejected for p in part)}
        for name, part in parts.items()
    }
    return found


def calibration(pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3) and the bins behind it.

    By the Bradley-Terry model the reply with the higher score is preferred with probability sigmoid(difference), the
    confidence, between one half and one; right is 1, wrong 0, a tie one half. A bin: {"confidence", "accuracy", "n"}.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for pair in pairs:
        gap = abs(pair.chosen - pair.rejected)
        confidence = 1 / (1 + exp(-gap))
        place = min(int((confidence - 0.5) * 2 * BINS), BINS - 1)
        bins[place].append((confidence, win(pair.chosen, pair.rejected)))
    filled = [
        {
            "confidence": sum(c for c, _ in part) / len(part),
            "accuracy": sum(r for _, r in part) / len(part),
            "n": len(part),
        }
        for part in bins
        if part
    ]
    error = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in filled)
    return {"ece": error / len(pairs) if pairs else None, "bins": filled}


def compare_reward_models(one: Sequence[ScoredPair], other: Sequence[ScoredPair]) -> dict[str, Any]:
    """The rate at which two reward models order pairs alike, Cohen's kappa over chosen, rejected and tie, and phi.

    `phi`: Pearson's r of their mistakes (1 for a pair ordered against people, 0.5 for a tie): 0 where one's mistakes
    tell nothing of the other's, 1 where they make the same. Its interval is Fisher's for as many pairs as there are
    prompts.
    """
    sides = [[_side(pair) for pair in pairs] for pairs in (one, other)]
    same = [a == b for a, b in zip(*sides, strict=True)]
    found = {"agreement": clustered_share(same, [p.prompt_id for p in one]), "kappa": cohen_kappa(*sides)}
    mistakes = [[1 - win(p.chosen, p.rejected) for p in pairs] for pairs in (one, other)]
    prompts = len({p.prompt_id for p in one})
    if prompts < 4 or any(len(set(values)) < 2 for values in mistakes):
        return found | {"phi": {"mean": None, "low": None, "high": None, "n": len(one)}}
    phi = float(np.corrcoef(np.array(mistakes))[0, 1])
    low, high = _fisher(phi, prompts)
    return found | {"phi": {"mean": phi, "low": low, "high": high, "n": len(one)}}


def share_text(cell: Mapping[str, Any]) -> str:
    """A share with its interval: "0.769 [0.743, 0.794]"."""
    if cell["mean"] is None:
        return "not measured"
    limits = "" if cell["low"] is None else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    return f"{cell['mean']:.3f}{limits}"


def length_text(audit: Mapping[str, Any]) -> str:
    """What length alone explains of a reward model's accuracy, and what is left on pairs of like length."""
    matched = audit["matched"]
    left = f"{share_text(matched)} of {matched['n']} pairs of like length"
    left = left if matched["n"] else "was not tried at like length"
    r = audit["length_correlation"]["mean"]
    related = "" if r is None else f"; its score goes with length by r = {r:.2f}".replace("-", "−")
    return f"taking the longer reply alone {share_text(audit['length_rule'])}, the model {left}{related}"


def _accuracy(pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    return clustered_share([win(p.chosen, p.rejected) for p in pairs], [p.prompt_id for p in pairs])


def _by_length(pair: ScoredPair) -> float:
    """1 where people prefer the longer reply."""
    return win(pair.chosen_length, pair.rejected_length)


def _is_matched(pair: ScoredPair) -> bool:
    lengths = pair.chosen_length, pair.rejected_length
    return max(lengths) - min(lengths) <= MATCHED * max(lengths)


def _beyond_length(pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    """The model's accuracy less the length rule's, with Student's interval; prompts are its clusters."""
    gains: dict[str, list[float]] = {}
    for pair in pairs:
        gains.setdefault(pair.prompt_id, []).append(win(pair.chosen, pair.rejected) - _by_length(pair))
    if len(gains) < 2:
        return {"mean": None, "low": None, "high": None, "n": len(pairs)}
    mean = sum(map(sum, gains.values())) / len(pairs)
    squares = sum((sum(of) - len(of) * mean) ** 2 for of in gains.values())
    half = sqrt(t_squared(len(gains), 0.05) * len(gains) / (len(gains) - 1) * squares) / len(pairs)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(pairs)}


def _longer(pairs: Sequence[ScoredPair], chosen_first: Callable[[ScoredPair], bool]) -> dict[str, Any]:
    unequal = [p for p in pairs if p.chosen_length != p.rejected_length]
    right = [chosen_first(p) == (p.chosen_length > p.rejected_length) for p in unequal]
    return clustered_share(right, [p.prompt_id for p in unequal])


def _length_correlation(pairs: Sequence[ScoredPair]) -> dict[str, float | None]:
    from scipy.stats import pearsonr

    gaps = [float(p.chosen - p.rejected) for p in pairs]
    lengths = [float(p.chosen_length - p.rejected_length) for p in pairs]
    # the sign of a pair (which reply stands first) is arbitrary, so each counts both ways: the mean is then zero
    if len(pairs) < 4 or not any(gaps) or not any(lengths):
        return {"mean": None, "low": None, "high": None, "n": len(pairs)}
    r = float(pearsonr([*gaps, *(-g for g in gaps)], [*lengths, *(-v for v in lengths)]).statistic)
    low, high = _fisher(r, len(pairs))
    return {"mean": r, "low": low, "high": high, "n": len(pairs)}


def _fisher(r: float, n: int) -> tuple[float, float]:
    """Fisher's 95% interval of a correlation of n pairs."""
    if abs(r) >= 1:
        return r, r
    half = 1.959964 / sqrt(n - 3)
    return tanh(atanh(r) - half), tanh(atanh(r) + half)


def _side(pair: ScoredPair) -> str:
    return "tie" if pair.chosen == pair.rejected else "chosen" if pair.chosen > pair.rejected else "rejected"
