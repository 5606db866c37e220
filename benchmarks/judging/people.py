"""A judge beside people: its labels of pairs that people labelled, in `bench audit-judge` and in every run's report."""

from collections.abc import Callable, Sequence
from typing import Any

from ...analysis.agreement import clustered_share
from ...evaluators.judge import OPENAI, Judge, member_name, open_asker
from ...evaluators.judge_compare import by_points, combine
from ...evaluators.judge_question import both_orders, fill, is_pointwise, read_template
from ...evaluators.judge_verdict import WINS
from .bill import estimate
from .labels import (
    LabelledComparison,
    against_people,
    among_people,
    by_subset,
    known_alpha,
    outcome_label,
    over_subsets,
    read_labels,
)

Say = Callable[[str], None]


def label(judge: Judge, model: str, rows: Sequence[LabelledComparison], say: Say) -> tuple[list, dict[str, Any]]:
    """The labels of one of a judge's models, and what it shows of itself: flips, taste for the first place,
    self-consistency. Says what an endpoint is going to cost first; verdicts on disk are not asked again."""
    asker, name = open_asker(judge, model), member_name(model)
    alone = is_pointwise(read_template(judge.prompt))
    questions = _questions(judge, rows)
    again = questions[0 : 2 * judge.repeats : 2]
    if model.startswith(OPENAI) and (new := asker.unknown(questions)):
        say(f"judge {name}: {estimate(judge, [*new, *again])} ({len(questions) - len(new)} verdicts are on disk)")
    verdicts = asker.ask(questions)
    prompts = [str(row.prompt) for row in rows]
    second = asker.ask(again, repeat=1)
    repeated = [(x == y, p) for x, y, p in zip(verdicts[::2], second, prompts, strict=False) if x and y]
    both = list(zip(verdicts[::2], verdicts[1::2], strict=True))
    outcomes = [(by_points if alone else combine)(x, y) for x, y in both]
    own: dict[str, Any] = {"self_consistency": clustered_share(*_columns(repeated))}
    if not alone:  # each response is rated alone: there is no place to go by
        known = [(WINS[str(x)], WINS[str(y)], p) for (x, y), p in zip(both, prompts, strict=True) if x and y]
        firsts = [wins for verdict in verdicts if verdict and (wins := WINS[str(verdict)]) != 0.5]
        own |= {
            "flip": clustered_share(*_columns([(x != 1 - y, p) for x, y, p in known])),
            "chose_first": sum(firsts) / len(firsts) if firsts else None,
        }
    return [outcome_label(outcome) for outcome in outcomes], own


def compare(rows: Sequence[LabelledComparison], labels: dict[str, tuple[list, dict[str, Any]]]) -> dict[str, Any]:
    """{"people": ..., "judges": {name: ...}, "panel": ...} of labels by judge, each with what it shows of itself.

    `panel`, the judges' agreement with each other, exists only with two judges or more.
    """
    judges = {
        name: {
            **against_people(rows, given),
            **own,
            **({"over_subsets": over_subsets(rows, given)} if any(row.subset is not None for row in rows) else {}),
            "subsets": by_subset(rows, given),
        }
        for name, (given, own) in labels.items()
    }
    found = {"people": among_people(rows), "judges": judges}
    if len(labels) > 1:
        answered = [[one for one in each if one] for each in zip(*(given for given, _ in labels.values()), strict=True)]
        found["panel"] = {"alpha": known_alpha(answered)}
    return found


def read(judge: Judge, say: Say) -> list[LabelledComparison]:
    """The labelled pairs that a benchmark's judge is compared on; says what asking an endpoint about them takes."""
    if judge.labels is None:
        return []
    rows = read_labels(judge.labels)
    if endpoints := sum(model.startswith(OPENAI) for model in judge.models):
        questions = _questions(judge, rows)
        each = "" if endpoints == 1 else " for each endpoint"
        say(f"judge on {judge.labels}: {estimate(judge, [*questions, *questions[: judge.repeats]])}{each}")
    return rows


def in_run(judge: Judge, rows: Sequence[LabelledComparison], say: Say) -> dict[str, Any]:
    """For summary.json, `compare` for each member of a run's judge, and the file; each member's figures are said."""
    labels = {member_name(model): label(judge, model, rows, say) for model in judge.models}
    found = {"file": str(judge.labels), **compare(rows, labels)}
    alpha, kappa = (_number(found["people"][k]) for k in ("alpha", "kappa"))
    for name, row in found["judges"].items():
        own, accuracy = _number(row["kappa_person"]), _number(row["accuracy"]["mean"])
        say(
            f"judge {name} beside people ({judge.labels}): gives the majority's label in {accuracy} of "
            f"{row['accuracy']['n']} pairs, kappa with one person {own} (people {kappa}, their alpha {alpha})"
        )
    return found


def _questions(judge: Judge, rows: Sequence[LabelledComparison]) -> list[str]:
    template = read_template(judge.prompt)
    if is_pointwise(template):
        return [fill(template, row.prompt, text, "") for row in rows for text in (row.a, row.b)]
    return [q for row in rows for q in both_orders(template, row.prompt, row.a, row.b)]


def _columns(rows: list[tuple[bool, str]]) -> tuple[list[bool], list[str]]:
    return [value for value, _ in rows], [cluster for _, cluster in rows]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
