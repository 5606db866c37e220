"""Training curves: a line a method, the mean over seeds, with a band from the lowest to the highest seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.quantities import measured
from .drawing import DASHED, INK, Chart, Figure, Style, finish_chart, literal, new_canvas

BINS = 40  # a curve is drawn through at most this many points

KL_ESTIMATE = "kl_estimate"
# Metrics of a training log by the figure they stand in, and how they are called; all others follow in a last figure.
MAIN = {
    "loss": "Loss",
    "implicit_accuracy": "Preference accuracy against SFT, same pairs",
    "implicit_margin": "Margin against SFT, same pairs (nats)",
    "reward": "Training reward",
    "kl": "KL to SFT, exact, same prompts (nats)",
    KL_ESTIMATE: "KL to SFT, estimated from each round (nats)",
    "entropy": "Entropy (nats per token)",
    "chosen_logps": "Log-probability, chosen",
    "rejected_logps": "Log-probability, rejected",
}
SIGNALS = {
    "chosen_displacement": "Chosen replies, log-probability over SFT (nats)",
    "rejected_displacement": "Rejected replies, log-probability over SFT (nats)",
    "length": "Length of sampled responses (tokens)",
    "eos_rate": "Share that ends by itself",
    "repetition": "Share of repeated 4-grams",
}
BATCHES = {
    "accuracy": "Preference accuracy against SFT, training batches",
    "margin": "Margin against SFT, training batches (nats)",
    "logp_accuracy": "Preference accuracy by log-probability alone, training batches",
    "logp_margin": "Margin of log-probabilities, training batches (nats)",
}
AXES = {"examples": "Examples (pairs, or sampled responses)", "step": "Optimizer step"}
NOT_CURVES = {"step", "examples", "epoch", "seconds", "seed", "lr"}
Logs = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]  # method -> per seed the rows of its training log
CAPTION = (
    "Line: mean over seeds; band: from the lowest to the highest seed; long logs are averaged over at most "
    f"{BINS} stretches."
)


def training(logs: Logs, looks: Mapping[str, Style]) -> Figure | None:
    """The main metrics of the logs."""
    more = (
        " Losses of different methods are on different scales and do not compare. What is of the same pairs or prompts "
        "was measured alike for every method; the estimated KL is the mean log-ratio of a round's few responses, which "
        "may lie below 0, and has an axis of its own."
    )
    return _figure("Training curves", CAPTION + more, MAIN, logs, looks)


def signals(logs: Logs, looks: Mapping[str, Style]) -> Figure | None:
    """The signals of a training gone wrong, along training."""
    more = " The same pairs and prompts for every method. Below 0, the replies became less likely than under SFT."
    return _figure("Signals along training", CAPTION + more, SIGNALS, logs, looks)


def further(logs: Logs, looks: Mapping[str, Style]) -> Figure | None:
    """All other metrics that were logged."""
    rest = sorted(_logged(logs) - set(MAIN) - set(SIGNALS) - NOT_CURVES)
    names = {m: BATCHES.get(m, m.replace("_", " ").capitalize()) for m in rest}
    return _figure("Further training metrics", CAPTION, names, logs, looks)


def _logged(logs: Logs) -> set[str]:
    return {k for rows in logs.values() for log in rows for row in log for k, v in row.items() if measured(v)}


def _figure(
    title: str, caption: str, names: Mapping[str, str], logs: Logs, looks: Mapping[str, Style]
) -> Figure | None:
    logged = _logged(logs)
    axis = "examples" if all("examples" in row for rows in logs.values() for log in rows for row in log) else "step"
    charts = [_curve(metric, name, axis, logs, looks) for metric, name in names.items() if metric in logged]
    return Figure(title, caption, charts) if charts else None


def _curve(metric: str, title: str, axis: str, logs: Logs, looks: Mapping[str, Style]) -> Chart:
    import numpy

    canvas, axes = new_canvas(2.5)
    spoken = []
    for method, rows in logs.items():
        logged = [
            [(r.get(axis), r[metric]) for r in log if measured(r.get(metric)) and measured(r.get(axis))] for log in rows
        ]
        points = [numpy.array(p, float) for p in logged if p]
        if not points:
            continue
        look = looks[method]
        steps = numpy.unique(numpy.concatenate([p[:, 0] for p in points]))
        groups = numpy.array_split(steps, min(BINS, len(steps)))
        middle = [g.mean() for g in groups]
        lines = numpy.full((len(points), len(groups)), numpy.nan)
        for seed, p in enumerate(points):
            for place, group in enumerate(groups):
                inside = (p[:, 0] >= group[0]) & (p[:, 0] <= group[-1])
                if inside.any():
                    lines[seed, place] = p[inside, 1].mean()
        mean = numpy.nanmean(lines, axis=0)
        if len(points) > 1:
            low, high = numpy.nanmin(lines, axis=0), numpy.nanmax(lines, axis=0)
            axes.fill_between(middle, low, high, color=look.colour, alpha=0.2, linewidth=0)
        axes.plot(
            middle, mean, color=look.colour, linewidth=1.8, marker=look.marker, markersize=5.5, markevery=[-1],
            label=literal(method),
        )  # fmt: skip
        spoken.append(f"{method} from {mean[0]:.3g} to {mean[-1]:.3g}")
    if metric.endswith("displacement") or metric == KL_ESTIMATE:
        axes.axhline(0, color=INK, linewidth=1, linestyle=DASHED)
    axes.set_xlabel(AXES[axis])
    axes.margins(x=0.03)
    return finish_chart(canvas, f"curve-{metric}", title, f"{title} during training: {'; '.join(spoken)}")
