"""`bench audit-reward`: a run's reward models beside people's labels, each other, length, and the truth where known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import InputError


def audit_reward(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON alone on stdout.")] = False,
) -> None:
    """Say how far a run's reward models can be trusted: accuracy, length, shared mistakes, rows known to be ruined.

    Example: bench audit-reward results/runs/quick
    """
    from ...analysis.learnt_scorer import beside_the_truth
    from ...results.run_folder import find_run

    summary = find_run(run, finished=True).summary
    if not summary.get("reward_models"):
        raise InputError(f"{run} has no audit of its reward models; give its `bench run` command again to add one")
    found = {"pairs": summary["reward_models"], "rows": beside_the_truth(summary)}
    if brought := (summary.get("contract") or {}).get("training_reward"):
        found["training_reward"] = brought["name"]
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


def lines(found: Mapping[str, Any]) -> list[str]:
    """The findings as text for a terminal."""
    from ...analysis.reward_audit import length_text, share_text

    said = []
    called = {"training": "training reward"} if found.get("training_reward") else {}
    for name, part in found["pairs"].items():
        said.append("held-out pairs" if name == "heldout" else f"pairs from {part['source']}")
        for role, row in part["models"].items():
            title = called.get(role, f"{role} reward model")
            said.append(f"  {title}: accuracy {share_text(row['accuracy'])} of {row['pairs']} pairs")
            if "length_rule" in row:
                said.append(f"    {length_text(row)}")
            said += [f"    {facet}: {share_text(cell['accuracy'])}" for facet, cell in row["subsets"].items()]
        if phi := part.get("phi"):
            said.append(f"  mistakes of the two correlate by phi = {share_text(phi)} (0: unrelated, 1: the same)")
    rows = found["rows"]
    if rows["rows"]:
        said += ["", "win rates against SFT: evaluation reward model, true reward"]
    for row in rows["rows"]:
        ruined = "  RUINED: below SFT by the true reward" if row["is_ruined"] else ""
        ruined += ", above it by the reward model" if row["is_missed"] else ""
        said.append(f"  {row['row']:<30} {row['learnt']:.3f}  {row['truth']:.3f}{ruined}")
    if rows["tau"] is not None:
        said.append(f"  Kendall's tau over these rows: {rows['tau']:.2f}")
    return said
