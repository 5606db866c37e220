"""Estimates beside means and comparisons: ratings and win rates at equal length, by evaluator."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from .equal_length import at_equal_length
from .grids import SFT, WIN_RATE, Grids, aligned
from .ratings import all_pairs, bradley_terry
from .sequential import UNTIL_DECIDED


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
            outcomes = all_pairs(aligned({m: grids[m, reward] for m in scored}))
        else:
            scored = [m for m in methods if m != SFT and (m, metric) in grids]
            outcomes = {(m, SFT): wins for m, wins in aligned({m: grids[m, metric] for m in scored}).items()}
        if len(set(scored) - {SFT}) >= 2 and next(iter(outcomes.values())).size:
            found[evaluator] = {m: asdict(rating) for m, rating in bradley_terry(outcomes, SFT).items()}
    return found


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


def _win_rates(grids: Grids) -> list[str]:
    """Overall win rates of evaluators that scored every prompt: stopping early would bias what is fitted here."""
    names = {metric for _, metric in grids}
    return sorted(m for m in names if m.startswith(WIN_RATE) and m.count(".") == 1 and m != UNTIL_DECIDED)


def _mean_of(tables: list[np.ndarray]) -> np.ndarray:
    """The mean over methods of a response's win rate; one half where no other method has one."""
    stacked = np.stack(tables)
    known = np.isfinite(stacked).sum(0)
    totals = np.nansum(stacked, axis=0)
    return np.where(known > 0, totals / np.maximum(known, 1), 0.5)
