"""The figures of results: win rates, reward against KL, gold against proxy, quality against cost, length, judges."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.grids import SFT
from ..analysis.metric_names import evaluator, title
from ..analysis.overoptimization import GOLD, NAMES, PROXY, STAND_IN
from ..analysis.quantities import measured
from ..analysis.verdict import leading
from .drawing import DASHED, INK, SIZE, Figure, Style, finish_chart, label_points, limits, new_canvas, rows_canvas
from .wording import JUDGE_MEASURES

Looks = Mapping[str, Style]
# What summary["changes"] calls the rewards that stand in a plot of gold against proxy.
AT_THE_END = {"reward.reward_model.training": PROXY, GOLD: GOLD, STAND_IN: STAND_IN}
# Kind of cost -> (in a word, on the axis, keys of summary["methods"][m]["cost"] that add up to it).
SPENT = {
    "seconds": ("time", "Training time (seconds)", ("seconds",)),
    "flops": ("compute", "Training compute (FLOP)", ("flops",)),
    "tokens": (
        "tokens",
        "Tokens trained on, generated and scored",
        ("trained_tokens", "generated_tokens", "scored_tokens"),
    ),
}

CROWD = 6  # methods; with more of them marks get smaller and intervals fainter, for they cost about the same


def win_rates(methods: Mapping[str, Any], looks: Looks, names: Mapping[str, str]) -> Figure | None:
    """Win rate against SFT with its interval, a chart an evaluator; None if nothing was scored.

    methods: summary["methods"]. names: metric -> title of its chart, in order of appearance.
    """
    found = {}
    for metric, name in names.items():
        cells = {m: row["metrics"][metric] for m, row in methods.items() if m != SFT and metric in row["metrics"]}
        cells = {m: c for m, c in cells.items() if measured(c.get("mean"))}
        if metric.startswith("win_rate.") and cells:
            found[metric] = name, cells
    if not found:
        return None
    ends = [v for _, cells in found.values() for c in cells.values() for v in limits(c)]
    low = max(0.0, math.floor(min([*ends, 0.4]) * 10) / 10)
    high = min(1.0, math.ceil(max([*ends, 0.6]) * 10) / 10)
    charts = []
    for metric, (name, cells) in found.items():
        canvas, axes = rows_canvas(list(cells))
        axes.axvline(0.5, color=INK, linewidth=1, linestyle=DASHED)
        for place, (method, cell) in enumerate(cells.items()):
            _dot(axes, place, cell, looks[method])
            _beside(axes, place, f"{100 * cell['mean']:.1f}%")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter(_percent)
        text = "; ".join(
            f"{m} {100 * c['mean']:.1f}% ({100 * limits(c)[0]:.1f} to {100 * limits(c)[1]:.1f})"
            for m, c in cells.items()
        )
        charts.append(finish_chart(canvas, metric, name, f"{name}: {text}"))
    return Figure(
        "Win rate against SFT",
        "Share of held-out prompts on which the method's response beats the SFT response (a tie counts half). "
        "Dot: mean; line: 95% interval; dashed: 50%, no better than SFT.",
        charts,
    )


def frontier(
    methods: Mapping[str, Any],
    seeds: Mapping[str, Sequence[Mapping[str, float | None]]],
    looks: Mapping[str, Style],
    names: Mapping[str, str],
) -> Figure | None:
    """Reward against KL to SFT: a small mark a seed, a large one with whiskers for the mean.

    seeds: method -> per seed {metric: mean over prompts}. SFT stands at a KL of zero by definition.
    """
    charts = []
    for metric, name in names.items():
        means, drawn = {}, []
        for method, row in methods.items():
            kl = {"mean": 0.0} if method == "sft" else row["metrics"].get("kl", {})
            reward = row["metrics"].get(metric, {})
            if measured(kl.get("mean")) and measured(reward.get("mean")):
                means[method] = kl, reward
        if not metric.startswith("reward.") or not set(means) - {"sft"}:
            continue
        canvas, axes = new_canvas(3.5)
        for method, (kl, reward) in means.items():
            look = looks[method]
            for seed in seeds.get(method, ()):
                x = 0.0 if method == "sft" else seed.get("kl")
                if measured(x) and measured(seed.get(metric)):
                    axes.plot([x], [seed[metric]], look.marker, color=look.colour, markersize=4.5, alpha=0.5)
            centre = kl["mean"], reward["mean"]
            axes.plot(limits(kl), [centre[1]] * 2, color=look.colour, linewidth=1.4)
            axes.plot([centre[0]] * 2, limits(reward), color=look.colour, linewidth=1.4)
            axes.plot(*[[c] for c in centre], look.marker, color=look.colour, markersize=9)
            drawn.append((method, *centre))
        axes.set_xlabel("KL to SFT (nats per response)")
        axes.margins(x=0.16, y=0.14)
        label_points(axes, drawn)
        text = "; ".join(f"{m}: KL {kl['mean']:.2f}, reward {r['mean']:.2f}" for m, (kl, r) in means.items())
        charts.append(finish_chart(canvas, f"frontier-{metric}", name, f"{name} against KL to SFT. {text}"))
    if not charts:
        return None
    return Figure(
        "Reward against distance from SFT",
        "Higher is a better reward, further right is further from the SFT model: a method is preferable when it lies "
        "above another at the same KL. Large mark: mean with 95% interval; small marks: single seeds. Where a true "
        "reward is known, a proxy that rises while the true reward falls is over-optimization.",
        charts,
    )


def gold_against_proxy(summary: Mapping[str, Any], looks: Looks) -> Figure | None:
    """The reward that was not trained on against the one that was, both over SFT's, from SFT to the end of training.

    With checkpoints along training every one is a point, else the end alone; None where one of the two is not there.
    """
    paths = _paths(summary)
    if not paths:
        return None
    gold = GOLD if any(GOLD in point for points in paths.values() for point in points) else STAND_IN
    canvas, axes = new_canvas(3.5)
    axes.axhline(0, color=INK, linewidth=1, linestyle=DASHED)
    ends, spoken = [], []
    for method, points in paths.items():
        cells = [(p[PROXY], p[gold]) for p in points if PROXY in p and gold in p]
        cells = [(x, y) for x, y in cells if measured(x["mean"]) and measured(y["mean"])]
        if not cells:
            continue
        look = looks[method]
        xs, ys = ([0.0, *(pair[i]["mean"] for pair in cells)] for i in (0, 1))
        axes.plot(xs, ys, color=look.colour, linewidth=1.6, alpha=0.8)
        axes.plot(xs[1:-1], ys[1:-1], look.marker, color=look.colour, markersize=4.5)
        last_x, last_y = cells[-1]
        axes.plot(limits(last_x), [ys[-1]] * 2, color=look.colour, linewidth=1.4)
        axes.plot([xs[-1]] * 2, limits(last_y), color=look.colour, linewidth=1.4)
        axes.plot([xs[-1]], [ys[-1]], look.marker, color=look.colour, markersize=9)
        ends.append((method, xs[-1], ys[-1]))
        spoken.append(f"{method} ends at {NAMES[PROXY]} {xs[-1]:+.2f}, {NAMES[gold]} {ys[-1]:+.2f}")
    if not ends:
        return None
    axes.set_xlabel("Training reward model, over SFT")
    axes.margins(x=0.1, y=0.14)
    label_points(axes, ends)
    name = f"{NAMES[gold].removeprefix('the ').capitalize()}, over SFT"
    along = any(len(points) > 1 for points in paths.values())
    between = "Small marks: checkpoints along training. " if along else "No checkpoints along training were scored. "
    return Figure(
        "Gold against proxy along training",
        f"Each line runs from SFT (0, 0) to the end of training. {between}A line that bends down to the right gains "
        "reward that is not there: what is trained on rises, what is meant falls.",
        [finish_chart(canvas, "gold-against-proxy", name, "; ".join(spoken))],
    )


def _paths(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Method -> its points in order of training: metric -> {"mean", "low", "high"}, over SFT's."""
    along = summary.get("overoptimization") or {}
    if along:
        return {method: [point["reward"] for point in row["points"]] for method, row in along.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for metric, name in AT_THE_END.items():
        for method, row in ((summary.get("changes") or {}).get(metric) or {}).items():
            end = found.setdefault(method, [{}])[0]
            end[name] = {"mean": row["difference"], "low": row["low"], "high": row["high"]}
    return {method: points for method, points in found.items() if PROXY in points[0]}


def quality_against_cost(summary: Mapping[str, Any], looks: Looks) -> Figure | None:
    """The win rate that stands first against time, compute and tokens, with the Pareto front; a chart a cost."""
    methods, quality = summary.get("methods") or {}, leading(summary) if summary else None
    if quality is None:
        return None
    charts = []
    for kind, (word, axis, keys) in SPENT.items():
        points = {}
        for method, row in methods.items():
            spent = [(row.get("cost") or {}).get(key) for key in keys]
            cell = row.get("metrics", {}).get(quality, {})
            if method != SFT and measured(cell.get("mean")) and any(measured(v) for v in spent):
                points[method] = sum(v for v in spent if measured(v)), cell
        if not any(spent for spent, _ in points.values()):
            continue
        charts.append(_cost_chart(kind, word, axis, quality, points, looks))
    if not charts:
        return None
    return Figure(
        "Quality against cost",
        f"{title(quality)} with its 95% interval, against what one seed's training spends; what the methods share "
        "(SFT, reward models) is left out, and so are methods that train nothing. Line: the Pareto front, those that "
        "none beats for less; its steps are as uncertain as the means. Dashed: SFT, which costs nothing more.",
        charts,
    )


def opening(found: Figure | None) -> tuple[Figure | None, Figure | None]:
    """The picture of the first screen, one chart of quality against cost, and what is left of these."""
    if found is None:
        return None, None
    first, *rest = found.charts
    caption = "A dot a method with its 95% interval; dashed: SFT. Line: those that none beats for less."
    return Figure(first.title, caption, [first]), Figure(found.title, found.caption, rest) if rest else None


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, quality) that no other one beats in both, cheapest first; of equal ones the first."""
    front: list[str] = []
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not front or quality > points[front[-1]][1]:
            front.append(name)
    return front


def _cost_chart(
    kind: str, word: str, axis: str, quality: str, points: Mapping[str, tuple[float, Any]], looks: Looks
) -> Any:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    spent = [value for value, _ in points.values()]
    canvas, axes = new_canvas(3.2)
    if min(spent) > 0 and max(spent) > 5 * min(spent):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.16, y=0.14)
    else:
        axes.set_xlim(0, 1.2 * max(spent))
        axes.margins(y=0.14)
    axes.axhline(0.5, color=INK, linewidth=1, linestyle=DASHED)
    front = pareto({SFT: (0.0, 0.5), **{m: (value, cell["mean"]) for m, (value, cell) in points.items()}})
    steps = [(points[m][0], points[m][1]["mean"]) for m in front if m != SFT]
    if steps:
        end = axes.get_xlim()[1] if axes.get_xscale() == "linear" else max(spent) * (max(spent) / min(spent)) ** 0.16
        xs, ys = [x for x, _ in steps], [y for _, y in steps]
        axes.step([xs[0], *xs, end], [0.5, *ys, ys[-1]], where="post", color=INK, linewidth=1, alpha=0.55)
    for method, (value, cell) in points.items():
        look = looks[method]
        axes.plot([value] * 2, limits(cell), color=look.colour, linewidth=1.4, alpha=0.4 if len(points) > CROWD else 1)
        axes.plot([value], [cell["mean"]], look.marker, color=look.colour, markersize=9 if len(points) <= CROWD else 7)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(axis)
    axes.yaxis.set_major_formatter(_percent)
    label_points(axes, [(m, value, cell["mean"]) for m, (value, cell) in points.items()])
    text = "; ".join(f"{m} {value:.3g} for {cell['mean']:.1%}" for m, (value, cell) in points.items())
    on = ", ".join(m for m in front if m != SFT) or "no method, SFT is as good"
    return finish_chart(
        canvas, f"cost-{kind}", f"{title(quality)}, by {word}", f"{axis}: {text}. On the Pareto front: {on}"
    )


def length(summary: Mapping[str, Any], methods: Mapping[str, Any], looks: Looks) -> Figure | None:
    """Mean length of the responses, and win rates as they are beside what they were at equal length."""
    charts = []
    cells = {m: row["metrics"].get("length", {}) for m, row in methods.items()}
    cells = {m: c for m, c in cells.items() if measured(c.get("mean"))}
    if cells:
        canvas, axes = rows_canvas(list(cells))
        for place, (method, cell) in enumerate(cells.items()):
            _dot(axes, place, cell, looks[method])
            _beside(axes, place, f"{cell['mean']:.1f}")
        axes.set_xlim(left=0)
        text = "; ".join(f"{m} {c['mean']:.1f} tokens" for m, c in cells.items())
        charts.append(finish_chart(canvas, "length", "Mean length (tokens)", f"Mean length: {text}"))
    for name, rows in (summary.get("equal_length") or {}).items():
        metric = f"win_rate.{name}"
        rows = {
            m: c for m, c in rows.items() if measured(c.get("mean")) and metric in methods.get(m, {}).get("metrics", {})
        }
        if not rows:
            continue
        canvas, axes = rows_canvas(list(rows))
        axes.axvline(0.5, color=INK, linewidth=1, linestyle=DASHED)
        spoken = []
        for place, (method, cell) in enumerate(rows.items()):
            raw = methods[method]["metrics"][metric]["mean"]
            _dot(axes, place, cell, looks[method])
            axes.plot(
                [raw], [place], looks[method].marker, color=looks[method].colour, markersize=7.5, fillstyle="none"
            )
            spoken.append(f"{method} {raw:.1%}, at equal length {cell['mean']:.1%}")
        axes.xaxis.set_major_formatter(_percent)
        axes.margins(x=0.08)
        heading = f"Win rate by {evaluator(name)}, at equal length"
        charts.append(finish_chart(canvas, f"length-{name}", heading, f"{heading}: {'; '.join(spoken)}"))
    if not charts:
        return None
    return Figure(
        "Length",
        "Mean length of the responses with 95% intervals; then win rates against SFT by a regression on length: "
        "filled, what they would be if both responses were equally long; hollow, as they are.",
        charts,
    )


def judges(audit: Mapping[str, Any]) -> Figure | None:
    """The measures of the audit of judges, a chart a judge; audit: summary["judges"]["audit"]."""
    charts = []
    for name, measures in audit.items():
        cells = {JUDGE_MEASURES[k]: c for k, c in measures.items() if k in JUDGE_MEASURES and measured(c.get("mean"))}
        if not cells:
            continue
        canvas, axes = rows_canvas(list(cells))
        axes.axvline(0.5, color=INK, linewidth=1, linestyle=DASHED)
        for place, cell in enumerate(cells.values()):
            _dot(axes, place, cell, Style(INK, "o", "●"))
            _beside(axes, place, f"{100 * cell['mean']:.0f}%")
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(_percent)
        text = "; ".join(f"{measure} {100 * cell['mean']:.0f}%" for measure, cell in cells.items())
        charts.append(finish_chart(canvas, f"judge-{name}", name, f"{name}: {text}"))
    if not charts:
        return None
    return Figure(
        "Audit of the judges",
        "Shares with 95% intervals over prompts. A judge that flips often, or prefers longer responses far more than "
        "half of the time, measures itself; agreement is with the other evaluators, where both prefer one response.",
        charts,
    )


def _dot(axes: Any, place: int, cell: Mapping[str, Any], look: Style) -> None:
    """A mean with its interval in a row."""
    axes.plot(limits(cell), [place, place], color=look.colour, linewidth=2.2, solid_capstyle="round")
    axes.plot([cell["mean"]], [place], look.marker, color=look.colour, markersize=7.5)


def _beside(axes: Any, place: int, text: str) -> None:
    """Text to the right of a row."""
    axes.annotate(
        text, (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0),
        textcoords="offset points", va="center", color=INK, size=SIZE, annotation_clip=False,
    )  # fmt: skip


def _percent(value: float, _: Any) -> str:
    return f"{100 * value:.3g}%"
