"""The figure of over-optimization: reward over SFT against distance from SFT, at checkpoints along training."""

from collections.abc import Mapping
from typing import Any

from ..analysis.overoptimization import NAMES, value
from .drawing import Figure, Style, finish_chart, literal, new_canvas

CURVE_POINTS = 60


def reward_along(found: Mapping[str, Any], looks: Mapping[str, Style]) -> Figure | None:
    """A chart a reward: checkpoints with their intervals, and the fitted curve; None without checkpoints.

    found: summary["overoptimization"].
    """
    import numpy

    charts = []
    for metric, name in NAMES.items():
        drawn = {m: row for m, row in found.items() if any(metric in p["reward"] for p in row["points"])}
        if not drawn:
            continue
        drawing, axes = new_canvas(3.0)
        axes.axhline(0, color=looks["sft"].colour, linewidth=1)
        spoken = []
        for method, row in drawn.items():
            look, points = looks[method], row["points"]
            for p in points:
                cell, d = p["reward"][metric], p["distance"]
                if cell["low"] is not None:
                    axes.plot([d, d], [cell["low"], cell["high"]], color=look.colour, linewidth=1.2, alpha=0.6)
                axes.plot([d], [cell["mean"]], look.marker, color=look.colour, markersize=6)
            if fitted := row["fits"].get(metric):
                curve = numpy.linspace(fitted["end"] / CURVE_POINTS, fitted["end"], CURVE_POINTS)
                axes.plot(
                    curve, [value(fitted, d) for d in curve], color=look.colour, linewidth=1.6, label=literal(method)
                )
            spoken.append(f"{method} ends at {points[-1]['reward'][metric]['mean']:+.2f}")
        axes.set_xlabel("Square root of the KL to SFT (nats)")
        title = name[0].upper() + name[1:]
        charts.append(
            finish_chart(drawing, f"along-{metric}", title, f"{title}, over SFT's, along training: {'; '.join(spoken)}")
        )
    if not charts:
        return None
    return Figure(
        "Reward along training, against distance from SFT",
        "Mark: a checkpoint's mean reward less SFT's, with its 95% interval; line: of three forms the one that fits "
        "best, d (alpha - beta d) and d (alpha - beta log d) of Gao et al. (2022), d the square root of the KL, and "
        "alpha (1 - exp(-d / beta)), which levels off. A line is drawn for the eye: over-optimized is what is shown to "
        "lie below an earlier checkpoint in the true reward while the training reward rises.",
        charts,
    )
