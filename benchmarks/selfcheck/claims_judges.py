"""The rate of false claims in the sentences about judges, by simulation.

A judge who labels as the people do is no worse than they; it is claimed to be below them where it seems so by chance. A
member that answers by the toss of a coin flips on half of the swaps: it does not judge the place, and is claimed to
where it flips on nearly all. Rows that are equal to SFT and to each other are claimed to differ, by a panel whose
decision is said to hang on one member.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas

from ...analysis.agreement import beside_another_person
from ...analysis.comparisons import NOT_DECIDED
from ...analysis.grids import versus
from ...analysis.judge_audit import judges_below_people, panel_sentences
from ...analysis.judge_panel import decisions, settle
from .claims import rate_row

PROMPTS, SEEDS = (23, 48, 300), (1, 2, 3, 5)
PEOPLE, RIGHT = 3, 0.75  # people's labels of a pair, and how often one is right
MEMBERS = {"x": 1.0, "y": 1.0, "z": 1.0}
ROWS = ("dpo", "ppo")
SPREAD = 0.05  # standard deviation between training runs of a member's win rate


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """The share of simulated runs in which each sentence was printed and false, with its 95% interval."""
    found: list[dict[str, Any]] = []
    for sentence, design, is_false in _designs():
        rng = np.random.default_rng([seed, len(found)])
        count = sum(is_false(rng) for _ in range(runs))
        found.append(rate_row(sentence, design, count, runs))
    return found


def _designs() -> Iterator[tuple[str, str, Callable[[np.random.Generator], bool]]]:
    for prompts in PROMPTS:
        size = f"{prompts} prompts"
        yield "below its ceiling", f"a judge like one more person, {size}", partial(_below, prompts)
        yield "judges the place", f"a member that tosses a coin, {size}", partial(_flips, prompts)
        for seeds in SEEDS:
            design = f"equal rows, a panel of {len(MEMBERS)}, {size}, {seeds} seed{'s' * (seeds > 1)}"
            yield "hangs on one member", design, partial(_hangs, prompts, seeds)


def _below(prompts: int, rng: np.random.Generator) -> bool:
    truth = rng.random(prompts) < 0.5
    labels = [["ab"[int(t == r)] for r in rng.random(PEOPLE + 1) < RIGHT] for t in truth]
    beside = beside_another_person(
        [own for own, *_ in labels], [rest for _, *rest in labels], list(map(str, range(prompts)))
    )
    return bool(judges_below_people({"judges": {"people": {"judges": {"m": {"another_person": beside}}}}}))


def _flips(prompts: int, rng: np.random.Generator) -> bool:
    same = (rng.random((2, prompts)) < 0.5).astype(float)  # of two rows
    scores = pandas.concat(
        [_frame(row, 0, "judge.position_consistency.x", values) for row, values in zip(ROWS, same, strict=True)]
    )
    settled = settle(scores, MEMBERS, direct=False)
    return any("judges the place" in said for said in panel_sentences({"judges": {"panel": settled.panel}}))


def _hangs(prompts: int, seeds: int, rng: np.random.Generator) -> bool:
    """Members' outcomes are wins, ties and losses around one half; prompts are easy or hard for all of them alike."""
    parts = []
    lean = rng.normal(0, 0.15, (3, prompts))
    for seed in range(seeds):
        for place, (row, metric) in enumerate(
            (("dpo", "win_rate.judge"), ("ppo", "win_rate.judge"), ("ppo", versus("win_rate.judge", "dpo")))
        ):
            shift = 0.0 if seeds == 1 else rng.normal(0, SPREAD)  # one seed speaks of the policy that was trained
            chance = np.clip(0.5 + lean[place] + shift, 0, 1)
            values = rng.binomial(2, chance, (len(MEMBERS), prompts)) / 2
            head, colon, other = metric.partition(":")
            for name, own in zip(MEMBERS, values, strict=True):
                parts.append(_frame(row, seed, f"{head}.{name}{colon}{other}", own))
            parts.append(_frame(row, seed, metric, values.mean(0)))
    scores = pandas.concat(parts, ignore_index=True)
    if set(decisions(scores).values()) <= {NOT_DECIDED}:  # the sentence is about decisions of the whole panel
        return False
    settled = settle(scores, MEMBERS)
    return any("hangs on" in said for said in panel_sentences({"judges": {"panel": settled.panel}}))


def _frame(row: str, seed: int, metric: str, values: np.ndarray) -> pandas.DataFrame:
    names = [f"p{i}" for i in range(len(values))]
    return pandas.DataFrame({"method": row, "seed": seed, "metric": metric, "prompt_id": names, "value": values})
