"""A run's findings on its judge: the audit, the bill of the whole run, and how far it agrees with people."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas

from ...analysis.grids import versus
from ...analysis.judge_audit import audit_judges
from ...analysis.judge_panel import WIN_RATE, Settled, settle
from ...evaluators.judge import Judge
from ...results.records import Generation
from ...results.run_folder import Run
from . import people
from .bill import bill, usage_of
from .labels import LabelledComparison

Responses = dict[tuple[str, int], list[Generation]]  # by row and seed


def settled(judge: Judge | None, scores: pandas.DataFrame) -> Settled:
    """A run's scores as its summary takes them; see `analysis.judge_panel.settle`."""
    return settle(scores, judge.member_weights, direct=judge.direct > 0) if judge else Settled(scores)


def judge_findings(
    run: Run, judge: Judge, scores: pandas.DataFrame, labelled: Sequence[LabelledComparison], say: people.Say
) -> dict[str, Any]:
    """The section `judges` of summary.json: audit, usage, and `people` where the benchmark names their labels.

    scores: all of the run's, as its cells have them. `usage` is of all cells of the run, whichever call made them; what
    this call asked is said.
    """
    cells = {(cell.method, cell.seed): cell.generations() for cell in run.cells()}
    lengths = {(*key, g.prompt_id): g.length for key, responses in cells.items() for g in responses}
    pairs = [(cells[m, s], cells["sft", s]) for m, s in cells if m != "sft"]
    found = {"audit": audit_judges(scores, lengths)}
    if labelled:
        found["people"] = people.in_run(judge, labelled, say)
    for name, used in judge.usage().items():
        say(f"judge {name}: {bill(judge, used)}")
    return {**found, "usage": usage_of(judge, judge.bill(pairs, _direct(cells, scores)))}


def _direct(cells: Responses, scores: pandas.DataFrame) -> Iterator[tuple[list[Generation], list[Generation]]]:
    """The responses of rows that the judge compared with each other."""
    asked = set(scores[["method", "seed", "metric"]].itertuples(index=False, name=None))
    for (method, seed), responses in cells.items():
        for (other, of_seed), others in cells.items():
            if seed == of_seed and (method, seed, versus(WIN_RATE, other)) in asked:
                yield responses, others
