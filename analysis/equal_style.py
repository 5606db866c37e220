"""Win rate at equal length and Markdown: what a judge would prefer if both responses were laid out alike.

The regression of equal_length.py with a covariate for headers, list items and bold text each: the difference of the
two responses' counts over their sum, 0 where neither has any, as in Arena-Hard's and Chatbot Arena's style control
(Li et al. 2024, "Does style matter?"), which fit it to battles of many models; here it is one method against SFT.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..results.records import Generation
from .equal_length import at_equal_length
from .grids import SFT, grid_of
from .sequential import UNTIL_DECIDED

if TYPE_CHECKING:
    import pandas

MARKDOWN = {
    "headers": re.compile(r"^ {0,3}#{1,6}\s+\S", re.MULTILINE),
    "lists": re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+\S", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}
CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)  # a comment there is no header
Responses = Mapping[tuple[str, int], Sequence[Generation]]  # by method and seed


def markdown(text: str) -> dict[str, int]:
    """The number of headers, list items and bold passages of a text, those in blocks of code left out."""
    plain = CODE.sub("", text)
    return {name: len(pattern.findall(plain)) for name, pattern in MARKDOWN.items()}


def equal_style(scores: pandas.DataFrame, responses: Responses) -> dict[str, dict[str, dict[str, Any]]]:
    """{evaluator: {method: {mean, low, high, n}}} of overall win rates; empty where no response has any Markdown.

    scores: columns method, seed, metric, prompt_id, value. A method without a number is left out.
    """
    styles = _styles(responses)
    if not styles[[*MARKDOWN]].to_numpy().any():
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    names = {m for m in scores["metric"] if m.startswith("win_rate.") and m.count(".") == 1} - {UNTIL_DECIDED}
    for metric, method in itertools.product(sorted(names), [m for m in scores["method"].unique() if m != SFT]):
        part = scores[(scores["metric"] == metric) & (scores["method"] == method)]
        grid = grid_of(part)
        ours, theirs = (styles[styles["method"] == name].set_index(["seed", "prompt_id"]) for name in (method, SFT))
        ours, theirs = (side[["length", *MARKDOWN]] for side in (ours, theirs))
        gap = ours - theirs
        share = gap / (ours + theirs).clip(lower=1)  # counts: 0 where neither has any
        longer, *beside = (
            side.unstack("prompt_id").reindex_like(grid).to_numpy()
            for side in (gap["length"], *(share[name] for name in MARKDOWN))
        )
        fitted = at_equal_length(grid.to_numpy(), longer, beside=beside).win_rate
        if np.isfinite(fitted.mean):
            found.setdefault(metric.removeprefix("win_rate."), {})[method] = asdict(fitted)
    return found


def _styles(responses: Responses) -> pandas.DataFrame:
    """A row a response: method, seed, prompt_id, length, and its counts of Markdown."""
    import pandas

    rows = [
        {"method": method, "seed": seed, "prompt_id": g.prompt_id, "length": g.length, **markdown(g.response)}
        for (method, seed), given in responses.items()
        for g in given
    ]
    return pandas.DataFrame(rows, columns=["method", "seed", "prompt_id", "length", *MARKDOWN])
