"""The samples of a report: responses of SFT and of every method to the same prompts, with what each evaluator says.

They go into the page as one block of JSON that the page's script shows a few at a time. The prompts are picked by place
and not by what they show: all of them, or every k-th where all would make the page too large.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.metric_names import evaluator
from .drawing import Style
from .reading import Trained
from .wording import natural, ordered

LIMIT = 1_000_000  # characters of JSON in one page


def samples(cells: Sequence[Trained], looks: Mapping[str, Style], limit: int = LIMIT) -> dict[str, Any]:
    """The script's data, and `prompts`, `shown` and `every` for the sentence that says how they were picked.

    A prompt's responses stand in the order of `methods`, a response's scores in that of `evaluators`: each [reward,
    outcome against SFT (1, 0.5, 0)], None where the evaluator says nothing.
    """
    first: dict[str, Trained] = {}
    for cell in cells:
        if cell.generations:
            first.setdefault(cell.method, cell)
    ids = natural(list(set.intersection(*(set(c.generations) for c in first.values())))) if first else []
    metrics = ordered({m for cell in first.values() for m in cell.scores})
    names = [
        name
        for name in dict.fromkeys(m.partition(".")[2] for m in metrics if m.split(".")[0] in ("win_rate", "reward"))
        if any(f"win_rate.{name}" in cell.scores for cell in first.values())
    ]
    rows = [
        {
            "id": prompt_id,
            "prompt": [
                [message["role"], message["content"]]
                for message in next(iter(first.values())).generations[prompt_id].prompt
            ],
            "responses": [_response(cell, prompt_id, names) for cell in first.values()],
        }
        for prompt_id in ids
    ]
    every = max(1, math.ceil(len(json.dumps(rows)) / limit))
    rows = rows[::every]
    return {
        "methods": [
            {"name": name, "seed": cell.seed, "colour": looks[name].colour, "glyph": looks[name].glyph}
            for name, cell in first.items()
        ],
        "evaluators": [evaluator(name) for name in names],
        "disagreements": _disagreements(names),
        "rows": rows,
        "prompts": len(ids),
        "shown": len(rows),
        "every": every,
    }


def _response(cell: Trained, prompt_id: str, names: Sequence[str]) -> dict[str, Any]:
    generation = cell.generations[prompt_id]
    return {
        "text": generation.response,
        "length": generation.length,
        "finished": generation.finished,
        "scores": [
            [
                _short(cell.scores.get(f"reward.{name}", {}).get(prompt_id)),
                None if cell.method == "sft" else cell.scores.get(f"win_rate.{name}", {}).get(prompt_id),
            ]
            for name in names
        ],
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _disagreements(names: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of evaluators of which one may say "wins" and the other "loses", the judge first."""
    order = [name for name in ("judge", "reward_model", "gold", "reward_model.training") if name in names]
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    return [
        {"text": f"{evaluator(a).capitalize()} and {evaluator(b)} disagree", "pair": [names.index(a), names.index(b)]}
        for a, b in pairs
    ]
