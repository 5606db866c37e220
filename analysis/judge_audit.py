"""The reliability of a judge, from its verdicts in a run: consistency, taste for length, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import NOT_DECIDED
from .judge_panel import ANSWERED
from .quantities import measured
from .statistics import interval

if TYPE_CHECKING:
    import pandas

FLIPS = 0.1  # share of verdicts that flip when responses are swapped, above which the judge is doubted
OTHERS = {"agreement_reward_model": "win_rate.reward_model", "agreement_gold": "win_rate.gold"}


def audit_judges(scores: pandas.DataFrame, lengths: Mapping[tuple[str, int, str], int]) -> dict[str, Any]:
    """{judge: {measure: {"mean", "low", "high", "n"}}} for `judge` and each member of a panel.

    `scores` has the columns method, seed, metric, prompt_id and value; lengths: tokens of a response by (method, seed,
    prompt), SFT's included. Measures, all shares: `coverage` (both answers valid, of the pairs that it was asked
    about), `flip` (the verdict changes when the responses are swapped), `self_consistency` (the same question gets the
    same verdict twice), `prefers_longer` (of verdicts on responses of unequal length, both orders agreeing), and
    agreement with the evaluation reward model and the true reward, each where both sides prefer one response. A
    prompt's value is its mean over methods and seeds, so the intervals are over prompts.
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
    answered = f"{ANSWERED}{member}"  # cells of older versions have no such column
    found = {"coverage": _share(table[answered] if answered in table else rate.notna().astype(float))}
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


def doubtful_judges(summary: Mapping[str, Any]) -> list[str]:
    """Judges that go by the place of a response more often than may be."""
    audits = (summary.get("judges") or {}).get("audit") or {}
    flips = {name: (row.get("flip") or {}).get("mean") for name, row in audits.items()}
    return [
        f"The {name.replace('.', ' ', 1)} changes its verdict on {value:.0%} of the pairs when the two responses are "
        f"swapped."
        for name, value in flips.items()
        if measured(value) and value > FLIPS
    ]


def judges_below_people(summary: Mapping[str, Any]) -> list[str]:
    """Judges that agree with a person less than people do with each other, the whole interval lying below."""
    judges = ((summary.get("judges") or {}).get("people") or {}).get("judges") or {}
    beside = {name: row.get("another_person") or {} for name, row in judges.items()}
    return [
        f"The judge {name} agrees with one person on {row['agreement']:.0%} of the pairs that people labelled, people "
        f"with each other on {row['people']:.0%}: {-100 * row['difference']:.0f} points below its ceiling "
        f"({-100 * row['high']:.0f} to {-100 * row['low']:.0f}), so trust its verdicts less than a person's."
        for name, row in beside.items()
        if measured(row.get("high")) and row["high"] < 0
    ]


def panel_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Members that do not count in a panel's mean, and decisions of the panel that hang on one member.

    What only some of the members decide is no decision of the panel, and is not said: with every member left out in
    turn, something would be decided by chance too often.
    """
    panel = (summary.get("judges") or {}).get("panel") or {}
    said = []
    for name, row in (panel.get("members") or {}).items():
        if row["left"] == "flips":
            said.append(
                f"The judge {name} is left out of the panel: it changes its verdict on {row['flip']:.0%} of the pairs "
                f"when the two responses are swapped, so it judges the place and not the response."
            )
        elif row["left"]:
            said.append(
                f"The judge {name} is left out of the panel: it gave a verdict on only {row['answered']:.0%} of the "
                f"pairs that it was asked about."
            )
    return said + [
        f"The panel's decision on {row['a']} against {'SFT' if row['b'] == 'sft' else row['b']} hangs on "
        f"{row['member']}: {row['with']} with it, {row['without']} without it."
        for row in panel.get("without") or []
        if row["with"] != NOT_DECIDED
    ]
