"""What a run says about its judge: the audit, the bill of the whole run, and how far it agrees with people."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from ..evaluators.judge import Judge
from ..results.checkpoint import Checkpoint
from ..results.judge_audit import audit_judges
from ..results.run_folder import Run
from . import judge_people
from .judge_bill import bill, usage_of
from .judge_labels import LabelledComparison

DETERMINES = ("url", "prompt")  # the settings that a verdict depends on, beside the model


def identity(settings: Mapping[str, Any], judges: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """What determines a judge's verdicts: verdicts of two that differ in it never share a column of the table.

    settings: as the benchmark has them. judges: its local models by name; an endpoint has none.
    """
    models = [settings["model"]] if isinstance(settings["model"], str) else list(settings["model"])
    known = {name: settings[name] for name in DETERMINES if name in settings}
    return {"model": models, "weights": {m: judges[m].key for m in models if m in judges}, **known}


def judge_findings(
    run: Run, judge: Judge, scores: pandas.DataFrame, labelled: Sequence[LabelledComparison], say: judge_people.Say
) -> dict[str, Any]:
    """The section `judges` of summary.json: audit, usage, and `people` where the benchmark names their labels.

    `usage` is of all cells of the run, whichever call made them; what this call asked is said.
    """
    cells = {(cell.method, cell.seed): cell.generations() for cell in run.cells()}
    lengths = {(*key, g.prompt_id): g.length for key, answers in cells.items() for g in answers}
    pairs = [(cells[m, s], cells["sft", s]) for m, s in cells if m != "sft"]
    found = {"audit": audit_judges(scores, lengths)}
    if labelled:
        found["people"] = judge_people.in_run(judge, labelled, say)
    for name, used in judge.usage().items():
        say(f"judge {name}: {bill(judge, used)}")
    return {**found, "usage": usage_of(judge, judge.bill(pairs))}
