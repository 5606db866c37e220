"""A judge's scores from its verdicts: of pairs in both orders, of responses one by one, and of a panel."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Protocol

from ..analysis.judge_panel import ANSWERED, POOLED, WIN_RATE, weighted_mean
from ..analysis.sequential import asking_order
from ..results.records import Generation, Score, win
from .judge_question import both_orders, fill, is_graded, is_pointwise
from .judge_verdict import GRADES, WINS, Verdict

Pair = tuple[Generation, Generation]


class Questioned(Protocol):
    """Whoever answers questions, each repetition of one apart."""

    def ask(self, prompts: list[str], repeat: int = 0) -> list[Verdict | None]: ...


def judge_pairs(asker: Questioned, template: str, pairs: Sequence[Pair]) -> Iterator[Score]:
    """The scores of pairs (ours, baseline's) by the kind of question that the template asks."""
    yield from (rate if is_pointwise(template) else compare)(asker, template, pairs)


def compare(asker: Questioned, template: str, pairs: Sequence[Pair]) -> Iterator[Score]:
    """Judge each pair (ours, baseline's) in both orders.

    `win_rate.judge` is the mean over the two orders of 1 (win), 0 (loss) and, in a graded question, one half (A=B), so
    a judge that picks by position gives 0.5; None if either answer holds no verdict; 0.5 for identical responses, which
    are not asked about. `judge.answered`, of the pairs that were asked about, is 1 where both answers hold a verdict,
    else 0. `judge.position_consistency` is 1 if both orders prefer the same response, else 0, where both do. A graded
    question gives `grade.judge` as well, the mean grade of ours over the two orders, from -2 (A>>B against it) to 2.
    """
    graded = is_graded(template)
    questions = []
    for ours, theirs in pairs:
        if ours.response != theirs.response:
            questions += both_orders(template, ours.prompt, ours.response, theirs.response)
    answers = iter(asker.ask(questions) if questions else [])
    for ours, theirs in pairs:
        name = ours.prompt_id
        if ours.response == theirs.response:
            yield Score(WIN_RATE, name, 0.5)
            if graded:
                yield Score("grade.judge", name, 0.0)
            continue
        given, swapped = next(answers), next(answers)
        outcome = combine(given, swapped)
        yield Score(WIN_RATE, name, outcome)
        yield Score(ANSWERED, name, float(outcome is not None))
        if graded:
            grade = None if outcome is None else (GRADES[str(given)] - GRADES[str(swapped)]) / 2
            yield Score("grade.judge", name, grade)
        if outcome is not None:
            yield Score("judge.position_consistency", name, float(WINS[str(given)] == 1 - WINS[str(swapped)]))


def combine(given: Verdict | None, swapped: Verdict | None) -> float | None:
    """The outcome for the first response from the verdicts of `both_orders`: 1 win, 0 loss, 0.5 contradiction.

    None if either is none, which is neither a tie nor a loss.
    """
    return None if given is None or swapped is None else (WINS[str(given)] + 1 - WINS[str(swapped)]) / 2


def rate(asker: Questioned, template: str, pairs: Sequence[Pair]) -> Iterator[Score]:
    """Have each response of the pairs rated alone, and compare the points.

    `reward.judge`: the points of ours, None where the answer holds none; `win_rate.judge`: 1 where ours has more, 0.5
    for as many, None where either has none; `judge.answered` is 1 where both have points, else 0.
    """
    questions = [fill(template, response.prompt, response.response, "") for pair in pairs for response in pair]
    points = iter(asker.ask(questions) if questions else [])
    for ours, _ in pairs:
        own, other = next(points), next(points)
        outcome = by_points(own, other)
        yield Score("reward.judge", ours.prompt_id, None if own is None else float(own))
        yield Score(WIN_RATE, ours.prompt_id, outcome)
        yield Score(ANSWERED, ours.prompt_id, float(outcome is not None))


def by_points(own: Verdict | None, other: Verdict | None) -> float | None:
    """The outcome for the response that has the first of two numbers of points; None if either is none."""
    return None if own is None or other is None else win(float(own), float(other))


def ask_again(asker: Questioned, template: str, pairs: Sequence[Pair], repeats: int) -> list[Score]:
    """`judge.self_consistency` for some prompts: 1 if the same question gets the same verdict twice, else 0."""
    different = [(ours, theirs) for ours, theirs in pairs if ours.response != theirs.response]
    kept = set(asking_order([ours.prompt_id for ours, _ in different])[:repeats])
    asked = [pair for pair in different if pair[0].prompt_id in kept]
    if not asked:
        return []
    questions = [fill(template, ours.prompt, ours.response, theirs.response) for ours, theirs in asked]
    both = zip(asked, asker.ask(questions), asker.ask(questions, repeat=1), strict=True)
    return [
        Score("judge.self_consistency", ours.prompt_id, float(one == two))
        for (ours, _), one, two in both
        if one is not None and two is not None
    ]


def pool(members: Mapping[str, Sequence[Score]], weights: Mapping[str, float]) -> Iterator[Score]:
    """The scores of a panel's members under names of their own, and the panel's.

    `win_rate.judge` (and points, and grade): mean of the members' by their weights, None unless all of them answered,
    so that every prompt has the same panel. `judge.answered`: 1 where all of them answered. `judge.agreement`: share of
    pairs of members with the same outcome (win, tie, loss), where at least two answered and the responses differ.
    """
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    for name, scores in members.items():
        for score in scores:
            yield Score(f"{score.metric}.{name}", score.prompt_id, score.value)
            found.setdefault((score.metric, score.prompt_id), {})[name] = score.value
    for (metric, prompt_id), values in found.items():
        if metric in POOLED:
            yield Score(metric, prompt_id, weighted_mean(values, weights))
        if metric == ANSWERED:
            yield Score(ANSWERED, prompt_id, float(all(values.values())))
            outcomes = [v for v in found[WIN_RATE, prompt_id].values() if v is not None]
            if len(outcomes) > 1:
                same = [a == b for a, b in combinations(outcomes, 2)]
                yield Score("judge.agreement", prompt_id, sum(same) / len(same))


def renamed(scores: Sequence[Score], part: str) -> Iterator[Score]:
    """The scores of one facet, under names that end with it; what shows a panel's members apart is left out."""
    for score in scores:
        if score.metric in (*POOLED, ANSWERED, "judge.position_consistency"):
            yield Score(f"{score.metric}.{part}", score.prompt_id, score.value)
