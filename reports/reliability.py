"""The reliability plot of reward models: how often they are right, by how sure they are."""

from collections.abc import Mapping
from typing import Any

from . import drawing

# Colours are the methods': reward models are told apart by line and marker. Role -> (line, fill of the marker).
LOOKS = {"training": ("-", "full"), "evaluation": (drawing.DASHED, "none")}


def reliability(audit: Mapping[str, Any]) -> drawing.Figure | None:
    """A chart a set of pairs (held-out, external), a line a reward model; None where nothing was audited.

    audit: summary["reward_models"].
    """
    charts = []
    for name, part in audit.items():
        models = {role: row["bins"] for role, row in part.get("models", {}).items() if row.get("bins")}
        if not models:
            continue
        canvas, axes = drawing.new_canvas(3.2)
        axes.plot([0.5, 1], [0.5, 1], color=drawing.INK, linewidth=1, alpha=0.4)
        spoken = []
        for (role, bins), marker in zip(models.items(), drawing.MARKERS, strict=False):
            line, fill = LOOKS.get(role, (":", "full"))
            axes.plot(
                [row["confidence"] for row in bins], [row["accuracy"] for row in bins],
                marker, linestyle=line, fillstyle=fill, color=drawing.INK, markersize=7, linewidth=1.8, label=role,
            )  # fmt: skip
            points = ", ".join(f"{r['confidence']:.2f} sure {r['accuracy']:.2f} right (n={r['n']})" for r in bins)
            spoken.append(f"{role}: {points}")
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("Confidence that the reply with the higher score is preferred")
        axes.legend(frameon=False, labelcolor=drawing.INK, fontsize=drawing.SIZE, loc="lower right")
        title = "Share of pairs ordered as labelled" + ("" if name == "heldout" else f" ({name} pairs)")
        charts.append(drawing.finish_chart(canvas, f"reliability-{name}", title, f"{title}. {'; '.join(spoken)}"))
    if not charts:
        return None
    caption = "On the thin line a reward model is as often right as it is sure; below it, it is too sure of itself."
    return drawing.Figure("Reliability of the reward models", caption, charts)
