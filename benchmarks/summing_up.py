"""The summary of a run from what lies in its folder: scores, costs, checkpoints along training, people's labels."""

from typing import Any

from ..analysis.changes import differences_to_sft, ties
from ..analysis.comparisons import MARGIN
from ..analysis.costs import RESPONSE, shared_costs
from ..analysis.elsewhere import elsewhere
from ..analysis.equal_style import equal_style
from ..analysis.hacking import hacking, optimized_rows
from ..analysis.judge_panel import settle
from ..analysis.learnt_scorer import far_shares
from ..analysis.picked import picked_checkpoints
from ..analysis.subject import data_of
from ..analysis.summary import plain, summarize
from ..errors import InputError
from ..preferences.run_pairs import read_people
from ..reports.render import render
from ..results.progress import CELL
from ..results.run_folder import Run


def sum_up(run: Run, scores: Any, *, gates: list[dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    """The content of summary.json as far as the folder tells it; people's labels of other responses become a warning.

    scores: the run's, as its judge was settled. gates: those of the run.
    notes: what else is to be told among the warnings; kept in the summary as `notes`.
    """
    import pandas

    costs: dict[str, list[dict[str, float]]] = {}
    along, picks = [], dict[str, dict[int, Any]]()
    for cell in run.cells():
        if pick := cell.picked():
            picks.setdefault(cell.method, {})[cell.seed] = pick
        if (checkpoints := cell.along()) is not None:
            along.append(checkpoints.assign(method=cell.method, seed=cell.seed))
        spent = cell.cost() | {f"{RESPONSE}{name}": value for name, value in cell.inference().items()}
        if spent:
            costs.setdefault(cell.method, []).append(spent)
    scored_along = pandas.concat(along, ignore_index=True) if along else None
    warnings = [*notes]
    try:
        people = read_people(run)
    except InputError as refused:
        people = None
        warnings.append(f"people's labels are left out: {refused}")
    summary = summarize(
        run_id=run.record["run_id"],
        run_dir=str(run.path.resolve()),
        benchmark=run.record["benchmark"],
        contract=run.record["contract"],
        scores=pandas.concat([scores, people.scores], ignore_index=True) if people else scores,
        costs=costs,
        along=scored_along,
        gates=gates,
        warnings=warnings,
        owners={label: row["name"] for label, row in run.record["methods"].items()},
        margin=run.record["contract"].get("margin", MARGIN),
        elsewhere=elsewhere(run.record["methods"]),
    )
    return summary | {
        "data": data_of(run.record),
        "notes": notes,
        "people": plain(people.about) if people else None,
        "far": far_shares(scores),
        "hacking": plain(hacking(scores, optimized_rows(run.record["methods"]))),
        "equal_style": plain(equal_style(scores, {(c.method, c.seed): c.generations() for c in run.cells()})),
        "changes": differences_to_sft(scores),
        "ties": ties(scores),
        "shared": shared_costs(run.record),
        **({"checkpoints": plain(picked_checkpoints(picks, scored_along))} if picks else {}),
    }


def so_far(run: Run) -> dict[str, Any]:
    """The summary of a run that is not finished, of the cells that are there; `unfinished` says how far it is.

    Rows are not compared: that is for the cells that were planned, when all of them are there.
    """
    record, progress = run.record, run.progress
    cells = [f"{cell.method}{CELL}{cell.seed}" for cell in run.cells()] if record.get("methods") else []
    there = ", ".join(cells) or "none"
    said = progress.sentence() if progress else f"the run is not finished; cells that are there: {there}"
    found: dict[str, Any] = {name: record.get(name) for name in ("run_id", "benchmark")}
    found |= {"contract": record.get("contract") or {}, "methods": {}, "data": data_of(record)}
    if cells:
        try:
            scores = settle(run.scores(), {}, direct=False).scores
            found = sum_up(run, scores, gates=[], notes=[])
        except InputError as damage:
            said += f"; figures are left out: {damage}"
    return found | {"unfinished": said, "comparisons": [], "warnings": [], "gates": []}


def take_in_labels(run: Run) -> dict[str, Any]:
    """Write a finished run's summary and report anew with people's labels in them; trains and scores nothing."""
    with run.held():
        old = run.summary
        members = (old.get("judges") or {}).get("panel", {}).get("members", {})
        judged = settle(run.scores(), {name: row["weight"] for name, row in members.items()}, direct=False)
        found = sum_up(run, judged.scores, gates=old["gates"], notes=old.get("notes", old["warnings"]))
        found["warnings"] = list(dict.fromkeys(found["warnings"]))  # an older run's notes hold them all
        summary = run.write_summary(old | found)
        render([run])
    return summary
