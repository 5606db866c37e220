"""A reward model's choice of the best of several replies, as RewardBench 2 counts it, and means over subsets."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..results.records import LabelledPair
from .agreement import clustered_share
from .reward_audit import ScoredPair


def best_of(pairs: Sequence[LabelledPair], scored: Sequence[ScoredPair]) -> dict[str, Any]:
    """{"sets", "replies", "accuracy", "subsets"} of pairs that share prompt and chosen reply, each a set.

    A set is right where the chosen reply has the highest score of all, one over their number where
    several have it; Malik et al. (2025, arXiv:2506.01937). `replies`: to a set, on average; by chance one over them is
    right. Pairs whose chosen reply meets one rejected reply alone are no set.
    """
    sets: dict[tuple[str, str | None, str], list[ScoredPair]] = {}
    for pair, row in zip(pairs, scored, strict=True):
        sets.setdefault((pair.prompt_id, pair.subset, pair.chosen), []).append(row)
    several = {key: rows for key, rows in sets.items() if len(rows) > 1}
    right = [(prompt, subset, _share_of_best(rows)) for (prompt, subset, _), rows in several.items()]
    names = sorted({subset for _, subset, _ in right if subset})
    return {
        "sets": len(several),
        "replies": sum(1 + len(rows) for rows in several.values()) / len(several) if several else None,
        "accuracy": clustered_share([value for *_, value in right], [prompt for prompt, *_ in right]),
        "subsets": {
            name: clustered_share([v for _, s, v in right if s == name], [p for p, s, _ in right if s == name])
            for name in names
        },
    }


def mean_of_subsets(accuracies: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The mean of the subsets' accuracies, each counting once however many pairs it has; None without subsets."""
    means = [cell["mean"] for cell in accuracies.values() if cell["mean"] is not None]
    return sum(means) / len(means) if means else None


def _share_of_best(rows: Sequence[ScoredPair]) -> float:
    """1 for a chosen reply above all others, 0 for one below any, else one over those that are equally high."""
    chosen = rows[0].chosen
    if any(row.rejected > chosen for row in rows):
        return 0.0
    return 1 / (1 + sum(row.rejected == chosen for row in rows))
