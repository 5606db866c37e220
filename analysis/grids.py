"""Scores as tables: one per method and metric, a row a seed, a column a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas

SFT = "sft"
WIN_RATE = "win_rate."
VERSUS = "versus."  # the family of direct comparisons, `versus.judge:OTHER`
Grids = Mapping[tuple[str, str], "pandas.DataFrame"]  # (method, metric) -> a row a seed, a column a prompt


def versus(metric: str, other: str) -> str:
    """The name of a scorer's metric where the other side is another row: of win_rate.judge it is versus.judge:OTHER."""
    return f"{VERSUS}{metric.removeprefix(WIN_RATE)}:{other}"


def is_versus(metric: str) -> bool:
    """True for a metric of a direct comparison, which is no column of a table."""
    return metric.startswith(VERSUS)


def grid_of(rows: pandas.DataFrame) -> pandas.DataFrame:
    """One method's values on one metric: a row a seed, a column a prompt, NaN for a missing value."""
    return rows.pivot(index="seed", columns="prompt_id", values="value").astype(float)


def grids_of(scores: pandas.DataFrame) -> Grids:
    """One table per method and metric, metrics sorted: a row a seed, a column a prompt, NaN for a missing value."""
    values = scores.assign(value=scores["value"].astype(float))
    return {
        (str(method), str(metric)): grid_of(part)
        for (metric, method), part in values.groupby(["metric", "method"], sort=True)
    }


def aligned(frames: Mapping[str, pandas.DataFrame]) -> dict[str, np.ndarray]:
    """The values on the seeds and prompts that all frames have."""
    seeds = sorted(set.intersection(*(set(f.index) for f in frames.values()))) if frames else []
    prompts = sorted(set.intersection(*(set(f.columns) for f in frames.values()))) if frames else []
    return {name: frame.loc[seeds, prompts].to_numpy(dtype=float) for name, frame in frames.items()}
