"""Simulated rates of false claims of the sentence that says where a method gains."""

from typing import Any

import numpy as np
import pandas

from ...analysis.comparisons import LEVEL
from ...analysis.subsets import by_group
from .claims import rate_row

SENTENCE = "METHOD does not gain everywhere alike: it beats SFT on ...; no difference to SFT is shown on ..."
PROMPTS, SEEDS, SEED_SD = (48, 300), (1, 2, 3, 5), 0.2


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Three methods, three subsets of half, a quarter and a quarter, and two lengths.

    Designs: no difference to SFT anywhere (any sentence is false); the same gain everywhere (any is); and a gain on one
    subset alone (a sentence is false that shows a gain or a loss elsewhere, or tells lengths apart). A seed moves a
    policy's log-odds by a normal of standard deviation 0.2, the same for all prompts.
    """
    rng = np.random.default_rng(seed)
    designs = {
        "equal to SFT": (0.5, 0.5, 0.5),
        "70% everywhere": (0.7, 0.7, 0.7),
        "85% on one subset": (0.5, 0.5, 0.85),
    }
    return [
        rate_row(SENTENCE, f"{name}, {prompts} prompts, {seeds} seeds", _false(rng, rate, prompts, seeds, runs), runs)
        for prompts in PROMPTS
        for seeds in SEEDS
        for name, rate in designs.items()
    ]


def _false(rng: np.random.Generator, rate: tuple[float, ...], prompts: int, seeds: int, runs: int) -> int:
    """The number of simulated runs that print something false."""
    names = np.array(["helpful", "honest", "harmless"])[np.arange(prompts) % 4 // 2 + (np.arange(prompts) % 4 == 3)]
    ids = [f"p{i}" for i in range(prompts)]
    truth = dict(zip(("helpful", "honest", "harmless"), rate, strict=True))
    lengths = np.where(np.arange(prompts) < prompts // 2, "longer prompts", "shorter prompts")
    groups = {"subset": dict(zip(ids, names, strict=True)), "length": dict(zip(ids, lengths, strict=True))}
    odds = np.log([truth[name] / (1 - truth[name]) for name in names])
    return sum(_is_false(_simulated(rng, odds, seeds, ids), groups, truth) for _ in range(runs))


def _simulated(rng: np.random.Generator, odds: np.ndarray, seeds: int, ids: list[str]) -> pandas.DataFrame:
    frames = []
    for method in ("a", "b", "c"):
        moved = rng.normal(0, SEED_SD if seeds > 1 else 0.0, (seeds, 1))  # one seed speaks of its policy
        wins = (rng.random((seeds, len(ids))) < 1 / (1 + np.exp(-odds - moved))).astype(float)
        frame = pandas.DataFrame(wins, columns=ids).melt(var_name="prompt_id", ignore_index=False).reset_index()
        frames.append(frame.rename(columns={"index": "seed"}).assign(method=method, metric="win_rate.gold"))
    return pandas.concat(frames, ignore_index=True)


def _is_false(scores: pandas.DataFrame, groups: dict[str, dict[str, str]], truth: dict[str, float]) -> bool:
    """True for a run whose sentences, if any, say something that the design does not have."""
    found = by_group(scores, groups)
    differ = len(set(truth.values())) > 1
    for kind, methods in found["kinds"].items():
        for rows in methods.values():
            if not any(row["against_others"]["p_adjusted"] < LEVEL for row in rows.values()):
                continue
            if kind != "subset" or not differ:
                return True
            if any(row["p_adjusted"] < LEVEL and not _is_true(truth[name], row["mean"]) for name, row in rows.items()):
                return True
    return False


def _is_true(rate: float, mean: float) -> bool:
    return (rate > 0.5) if mean > 0.5 else (rate < 0.5)
