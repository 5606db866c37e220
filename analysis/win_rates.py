"""Comparisons beyond means and differences: ratings, head-to-head, equal length, a judge asked until decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from .equal_length import at_equal_length
from .ratings import all_pairs, bradley_terry
from .sequential import UNTIL_DECIDED, asking_order, confidence_sequence, p_value
from .statistics import Interval, compare, holm, interval

if TYPE_CHECKING:
    import pandas

SFT = "sft"
WIN_RATE = "win_rate."
Grids = Mapping[tuple[str, str], "pandas.DataFrame"]  # (method, metric) -> a row a seed, a column a prompt


def ratings(grids: Grids, methods: list[str]) -> dict[str, dict[str, Any]]:
    """Bradley-Terry ratings in Elo points by evaluator, SFT at 0.

    Every pair of methods is compared where the evaluator gives each response a reward; a judge compares with SFT only.
    Uses the seeds and prompts that all methods share; an evaluator with fewer than two methods beside SFT is left out,
    for its ratings would be its win rates once more.
    """
    found = {}
    for metric in _win_rates(grids):
        evaluator = metric.removeprefix(WIN_RATE)
        reward = f"reward.{evaluator}"
        scored = [m for m in methods if (m, reward) in grids]
        if SFT in scored:
            outcomes = all_pairs(_aligned({m: grids[m, reward] for m in scored}))
        else:
            scored = [m for m in methods if m != SFT and (m, metric) in grids]
            outcomes = {(m, SFT): wins for m, wins in _aligned({m: grids[m, metric] for m in scored}).items()}
        if len(set(scored) - {SFT}) >= 2 and next(iter(outcomes.values())).size:
            found[evaluator] = {m: asdict(rating) for m, rating in bradley_terry(outcomes, SFT).items()}
    return found


def head_to_head(grids: Grids, methods: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The win rate of each method against each other, by evaluator: rows of a, b, mean, low, high, p, p_adjusted.

    `mean` is the share of prompts that a wins against b, ties half; p tests it against one half, with Holm's correction
    over the pairs of an evaluator. Each pair is compared on the seeds and prompts that both have. A judge has only its
    comparisons with SFT.
    """
    found = {}
    for metric in _win_rates(grids):
        reward = f"reward.{metric.removeprefix(WIN_RATE)}"
        scored = [m for m in methods if (m, reward) in grids]
        if SFT in scored:
            pairs = {(a, b): {a: grids[a, reward], b: grids[b, reward]} for a, b in combinations(scored, 2)}
            outcomes = {pair: all_pairs(_aligned(frames))[pair] for pair, frames in pairs.items()}
        else:
            outcomes = {
                (m, SFT): grids[m, metric].to_numpy(float) for m in methods if m != SFT and (m, metric) in grids
            }
        rows = [_won(a, b, wins) for (a, b), wins in outcomes.items()]
        tested = [row for row in rows if np.isfinite(row["p"])]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = p
        if rows:
            found[metric.removeprefix(WIN_RATE)] = rows
    return found


def _won(a: str, b: str, wins: np.ndarray) -> dict[str, Any]:
    p = compare(wins, np.full(wins.shape, 0.5), bounds=(-0.5, 0.5)).p
    return {"a": a, "b": b, **asdict(interval(wins, bounds=(0.0, 1.0))), "p": p, "p_adjusted": nan}


def equal_length(grids: Grids, methods: list[str]) -> dict[str, dict[str, Any]]:
    """Win rates at equal length by evaluator and method, with the effect of length on the evaluator's log-odds."""
    found: dict[str, dict[str, Any]] = {}
    if (SFT, "length") not in grids:
        return found
    for metric in _win_rates(grids):
        wins = {m: grids[m, metric] for m in methods if m != SFT and (m, metric) in grids and (m, "length") in grids}
        for method, ours in wins.items():
            longer = (grids[method, "length"] - grids[SFT, "length"]).reindex_like(ours)
            rest = [wins[m].reindex_like(ours).to_numpy() for m in wins if m != method]
            others = _mean_of(rest) if rest else None
            fitted = at_equal_length(ours.to_numpy(), longer.to_numpy(), others)
            if np.isfinite(fitted.win_rate.mean):
                row = asdict(fitted.win_rate) | {"length_effect": asdict(fitted.length_effect), "near": fitted.near}
                found.setdefault(metric.removeprefix(WIN_RATE), {})[method] = row
    return found


def until_decided(grid: pandas.DataFrame) -> tuple[Interval, float]:
    """The win rate of a method whose judge stopped when decided, and p that every one of its policies differs from SFT.

    Each seed's policy has its own confidence sequence, at a level that makes all of them hold together; the limits of
    the mean are the means of theirs. They are about these trained policies, not about the next training run. Policies
    that differ in opposite directions give p = 1.
    """
    sequences, p, signs = [], 0.0, set()
    for _, row in grid.iterrows():
        values = row.loc[asking_order(row.index)].dropna().to_numpy()
        sequences.append(confidence_sequence(values, 1 - 0.05 / len(grid)))
        p = max(p, p_value(values))
        signs.add(np.sign(sequences[-1].mean - 0.5))
    mean, low, high = (float(np.mean([getattr(s, name) for s in sequences])) for name in ("mean", "low", "high"))
    n = sum(s.n for s in sequences)
    return Interval(mean, low, high, n), (nan if not n else p if len(signs) == 1 else 1.0)


def _win_rates(grids: Grids) -> list[str]:
    """Overall win rates of evaluators that scored every prompt: stopping early would bias what is fitted here."""
    names = {metric for _, metric in grids}
    return sorted(m for m in names if m.startswith(WIN_RATE) and m.count(".") == 1 and m != UNTIL_DECIDED)


def _aligned(frames: Mapping[str, pandas.DataFrame]) -> dict[str, np.ndarray]:
    """The values on the seeds and prompts that all frames have."""
    seeds = sorted(set.intersection(*(set(f.index) for f in frames.values()))) if frames else []
    prompts = sorted(set.intersection(*(set(f.columns) for f in frames.values()))) if frames else []
    return {name: frame.loc[seeds, prompts].to_numpy(dtype=float) for name, frame in frames.items()}


def _mean_of(tables: list[np.ndarray]) -> np.ndarray:
    """The mean over methods of a response's win rate; one half where no other method has one."""
    stacked = np.stack(tables)
    known = np.isfinite(stacked).sum(0)
    totals = np.nansum(stacked, axis=0)
    return np.where(known > 0, totals / np.maximum(known, 1), 0.5)
