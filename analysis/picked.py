"""The checkpoints that were evaluated where a rule picked them, and what the pick gained against the last ones.

The rule looked at tuning prompts alone, so the gain is that on prompts which it has not seen: how often a response of
the picked checkpoint has a higher reward than the last one's of the same training to the same prompt, ties one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from .overoptimization import GOLD, NAMES, STAND_IN
from .quantities import measured
from .statistics import interval
from .tuning import rule_in_words

if TYPE_CHECKING:
    import pandas

Pick = Mapping[str, Any]  # {"by", "kl", "examples", "last", "points"}
BY_KL = "kl"


def picked_checkpoints(picks: Mapping[str, Mapping[int, Pick]], along: pandas.DataFrame | None) -> dict[str, Any]:
    """For summary.json: the rule, and of each row the examples of the picked checkpoints by seed, and their gains.

    picks: by row and seed. along: columns method, seed, examples, metric, prompt_id, value of checkpoints on held-out
    prompts. `gains`: by reward, empty where every seed kept its last. `had_choice` is false for a row of one policy.
    """
    rule = next(iter(next(iter(picks.values())).values()))
    rows = {}
    for label, by_seed in picks.items():
        moved = any(pick["examples"] != pick["last"] for pick in by_seed.values())
        rows[label] = {
            "examples": [pick["examples"] for pick in by_seed.values()],
            "last": max(pick["last"] for pick in by_seed.values()),
            "had_choice": any(pick["points"] for pick in by_seed.values()),
            "gains": _gains(by_seed, along[along["method"] == label]) if moved and along is not None else {},
        }
    return {"by": rule["by"], "kl": rule["kl"], "rows": rows}


def _gains(by_seed: Mapping[int, Pick], along: pandas.DataFrame) -> dict[str, Any]:
    found = {}
    for metric in (GOLD, STAND_IN):
        part = along[along["metric"] == metric]
        if part.empty:
            continue
        table = part.pivot(index=["seed", "examples"], columns="prompt_id", values="value").astype(float)
        ours, last = (
            table.loc[[(seed, pick[which]) for seed, pick in by_seed.items()]].to_numpy()
            for which in ("examples", "last")
        )
        found[metric] = asdict(interval(0.5 + 0.5 * np.sign(ours - last), bounds=(0.0, 1.0)))
    return found


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """By which rule checkpoints were picked, what that gained, and which rows had none to pick from."""
    if not (found := summary.get("checkpoints")):
        return []
    if found["by"] == BY_KL:
        rule = f"the first whose KL to SFT reaches {found['kl']:g} nat{'s' * (found['kl'] != 1)} on the tuning prompts"
    else:
        asked = rule_in_words({"by": found["by"], "at_most_kl": found["kl"], "margin": 0.0})
        rule = f"the best on the tuning prompts by {asked}"
    rows = found["rows"]
    said = [f"Of each training the checkpoint was evaluated that is {rule}."]
    said += [_row(label, row) for label, row in rows.items() if row["gains"]]
    if kept := [label for label, row in rows.items() if row["had_choice"] and not row["gains"]]:
        said.append(f"That is the last one of {', '.join(kept)}.")
    if alone := [label for label, row in rows.items() if not row["had_choice"]]:
        said.append(f"{', '.join(alone)} saved no checkpoints to pick from, so the last policy was evaluated.")
    return said


def _row(label: str, row: Mapping[str, Any]) -> str:
    parts = []
    for metric, cell in row["gains"].items():
        limits = f" ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})" if measured(cell["low"]) else ""
        parts.append(f"{100 * cell['mean']:.1f}%{limits} by {NAMES[metric]}")
    where = ", ".join(f"{examples:,}" for examples in dict.fromkeys(row["examples"]))
    return (
        f"{label} after {where} of {row['last']:,} examples wins against its last policy on held-out prompts: "
        f"{', '.join(parts)}; 50% is no gain."
    )
