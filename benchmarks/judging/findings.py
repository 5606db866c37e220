"""A run's findings on its judge: the audit, the bill of the whole run, and how far it agrees with people."""

from collections.abc import Sequence
from typing import Any

import pandas

from ...analysis.judge_audit import audit_judges
from ...evaluators.judge import Judge
from ...results.run_folder import Run
from . import people
from .bill import bill, usage_of
from .labels import LabelledComparison


def judge_findings(
    run: Run, judge: Judge, scores: pandas.DataFrame, labelled: Sequence[LabelledComparison], say: people.Say
) -> dict[str, Any]:
    """The section `judges` of summary.json: audit, usage, and `people` where the benchmark names their labels.

    `usage` is of all cells of the run, whichever call made them; what this call asked is said.
    """
    cells = {(cell.method, cell.seed): cell.generations() for cell in run.cells()}
    lengths = {(*key, g.prompt_id): g.length for key, responses in cells.items() for g in responses}
    pairs = [(cells[m, s], cells["sft", s]) for m, s in cells if m != "sft"]
    found = {"audit": audit_judges(scores, lengths)}
    if labelled:
        found["people"] = people.in_run(judge, labelled, say)
    for name, used in judge.usage().items():
        say(f"judge {name}: {bill(judge, used)}")
    return {**found, "usage": usage_of(judge, judge.bill(pairs))}
