"""The best of several replies, counted by hand."""

from alignment_bench.analysis.best_of import best_of, mean_of_subsets
from alignment_bench.analysis.reward_audit import ScoredPair
from alignment_bench.results.records import LabelledPair


def pairs_of(*sets):
    """Sets: (prompt, subset, chosen reply, its score, scores of the rejected)."""
    rows = [(p, s, c, score, r) for p, s, c, score, others in sets for r in others]
    labelled = [LabelledPair(p, (), c, f"no {i}", s) for i, (p, s, c, _, _) in enumerate(rows)]
    return labelled, [ScoredPair(p, s, score, r, 5, 5) for p, s, _, score, r in rows]


def test_best_of_four_by_hand():
    """Right; beaten by one of three; equal to one of them, one half; and a pair alone, which is no set."""
    found = best_of(
        *pairs_of(
            ("p", "math", "yes", 2.0, [1.0, 0.0, -1.0]),
            ("q", "math", "yes", 2.0, [1.0, 3.0, -1.0]),
            ("r", "focus", "yes", 2.0, [2.0, 0.0, 1.0]),
            ("s", "focus", "yes", 2.0, [9.0]),
        )
    )
    assert (found["sets"], found["replies"], found["accuracy"]["mean"]) == (3, 4.0, 0.5)
    assert {name: cell["mean"] for name, cell in found["subsets"].items()} == {"math": 0.5, "focus": 0.5}


def test_two_chosen_replies_to_a_prompt_are_two_sets():
    found = best_of(*pairs_of(("p", None, "one", 2.0, [1.0, 0.0]), ("p", None, "two", -2.0, [1.0, 0.0])))
    assert (found["sets"], found["replies"], found["accuracy"]["mean"], found["subsets"]) == (2, 3.0, 0.5, {})


def test_pairs_alone_are_no_sets():
    found = best_of(*pairs_of(("p", "math", "yes", 2.0, [1.0]), ("q", "math", "yes", 2.0, [1.0])))
    assert (found["sets"], found["replies"], found["accuracy"]["mean"]) == (0, None, None)


def test_each_subset_counts_once_however_large():
    assert mean_of_subsets({"a": {"mean": 0.9, "n": 900}, "b": {"mean": 0.5, "n": 10}}) == 0.7
    assert mean_of_subsets({}) is None
