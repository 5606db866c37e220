"""The reliability of a judge, from its verdicts in a run: consistency, taste for length, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from .statistics import interval

if TYPE_CHECKING:
    import pandas

OTHERS = {"agreement_reward_model": "win_rate.reward_model", "agreement_gold": "win_rate.gold"}


def audit_judges(scores: pandas.DataFrame, lengths: Mapping[tuple[str, int, str], int]) -> dict[str, Any]:
    """{judge: {measure: {"mean", "low", "high", "n"}}} for `judge` and each member of a panel.

    `scores` has the columns method, seed, metric, prompt_id and value; lengths: tokens of a response by (method, seed,
    prompt), SFT's included. Measures, all shares: `coverage` (both answers valid), `flip` (the verdict changes when
    the responses are swapped), `self_consistency` (the same question gets the same verdict twice), `prefers_longer` (of
    verdicts on responses of unequal length, both orders agreeing), and agreement with the evaluation reward model and
    the true reward, each where both sides prefer one response. A prompt's value is its mean over methods and seeds, so
    the intervals are over prompts.
    """
    rows = scores[scores["method"] != "sft"].drop_duplicates(["method", "seed", "metric", "prompt_id"])
    table = rows.pivot(index=["method", "seed", "prompt_id"], columns="metric", values="value").astype(float)
    names = [
        m.removeprefix("win_rate.") for m in table.columns if m == "win_rate.judge" or m.startswith("win_rate.judge.")
    ]
    judged = {n: rows.loc[rows["metric"] == f"win_rate.{n}", ["method", "seed", "prompt_id"]] for n in names}
    index = {name: list(part.itertuples(index=False, name=None)) for name, part in judged.items()}
    return {n: measures for n in names if (measures := _measures(table.loc[index[n]], n, lengths))}


def _measures(table: pandas.DataFrame, name: str, lengths: Mapping[tuple[str, int, str], int]) -> dict[str, Any]:
    rate = table[f"win_rate.{name}"]
    member = name.removeprefix("judge")  # "" or ".MEMBER"
    found = {"coverage": _share(rate.notna().astype(float))}
    for measure, metric, turn in (
        ("flip", f"judge.position_consistency{member}", lambda v: 1 - v),
        ("self_consistency", f"judge.self_consistency{member}", lambda v: v),
        ("panel_agreement", "judge.agreement" if name == "judge" else "", lambda v: v),
    ):
        if metric in table:
            found[measure] = _share(turn(table[metric]))
    decided = rate[rate.notna() & (rate != 0.5)]
    longer = {
        row: lengths[row] - lengths["sft", row[1], row[2]]
        for row in decided.index
        if row in lengths and ("sft", row[1], row[2]) in lengths
    }
    unequal = decided.loc[[row for row, gap in longer.items() if gap]]
    gaps = np.array([longer[row] for row in unequal.index])
    found["prefers_longer"] = _share(((unequal > 0.5) == (gaps > 0)).astype(float))
    for measure, metric in OTHERS.items():
        if metric in table:
            other = table[metric][decided.index]
            both = other[other.notna() & (other != 0.5)].index
            found[measure] = _share(((decided[both] > 0.5) == (other[both] > 0.5)).astype(float))
    return {measure: cell for measure, cell in found.items() if cell["n"]}


def _share(values: pandas.Series) -> dict[str, Any]:
    """Mean and 95% interval over prompts of values indexed by (method, seed, prompt)."""
    by_prompt = values.dropna().groupby(level="prompt_id").mean()
    return describe(by_prompt.to_numpy()) | {"n": int(values.notna().sum())}


def describe(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """{"mean", "low", "high", "n"} of shares, one a prompt; None where there are too few values."""
    shares = np.asarray(values, dtype=float)
    if not len(shares):
        return {"mean": None, "low": None, "high": None, "n": 0}
    found = interval(shares[None, :], bounds=(0.0, 1.0))
    low, high = (float(v) if isfinite(v) else None for v in (found.low, found.high))
    return {"mean": float(found.mean), "low": low, "high": high, "n": len(values)}
