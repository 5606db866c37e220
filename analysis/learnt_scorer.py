"""A learnt reward model as the headline: who optimized its like, how far responses went, who else agrees.

Where no true reward is known the verdict goes by the evaluation reward model. It was made as the training reward model
was, from other pairs of the same labellers, and errs where that one errs: so rows that optimized one may gain by the
other what people would not see, the more so the farther they went from SFT. All sentences are functions of
summary.json; `claims_learnt_scorer.py` simulates those that claim something.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot
from typing import TYPE_CHECKING, Any

from scipy.stats import kendalltau, norm

from .comparisons import LEVEL
from .elsewhere import elsewhere
from .grids import SFT
from .metric_names import evaluator
from .quantities import measured, share
from .reward_audit import length_text

if TYPE_CHECKING:
    import pandas

GOLD, LEARNT, JUDGE, KL = "win_rate.gold", "win_rate.reward_model", "win_rate.judge", "kl"
GATE, NOT_PASSED = "reward_model.evaluation", ", whose gate is not passed"
FAR, VERY_FAR = 2.0, 8.0  # nats of a response's KL to SFT
# No winner is named beyond these shares of a row's responses. In the built-in world a reward model's win rates were too
# high by 20 to 24 points between 2 and 4 nats and by 42 to 44 above 8 (results/published/contrast.json); with contrast
# pairs by 7 to 8, and not at all, but that is one world.
MANY_FAR, MANY_VERY_FAR = 0.2, 0.1
LONG = 0.5  # correlation of a score with length from which on length is spoken of


def far_shares(scores: pandas.DataFrame) -> dict[str, dict[str, float]]:
    """Of each row the shares of its responses that lie more than FAR and VERY_FAR nats from SFT, and their number.

    scores: columns method, seed, metric, prompt_id, value. Empty where no KL was measured.
    """
    part = scores[(scores["metric"] == KL) & (scores["method"] != SFT)].dropna(subset="value")
    return {
        str(row): {
            "far": float((values > FAR).mean()),
            "very_far": float((values > VERY_FAR).mean()),
            "responses": len(values),
        }
        for row, values in part["value"].astype(float).groupby(part["method"], sort=False)
    }


def is_headline(summary: Mapping[str, Any]) -> bool:
    """True where the verdict goes by the evaluation reward model."""
    metrics = {row["metric"] for row in summary["comparisons"]}
    is_tested = any(row["metric"] == LEARNT and row.get("verdict") for row in summary["comparisons"])
    return is_tested and GOLD not in metrics


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The cautions about learnt scorers; those about length also where the true reward is known."""
    said = length_sentences(summary)
    if is_headline(summary):
        said = [
            *_shared_mistakes(summary),
            *_accuracy(summary),
            *_distance(summary),
            *disagreements(summary),
            *said,
        ]
    return said


def fails_gate(summary: Mapping[str, Any], metric: str) -> bool:
    """Whether a win rate is by an evaluation reward model that does not pass its gate."""
    gates = summary.get("gates", ())
    return metric == LEARNT and any(gate["name"] == GATE and not gate["passed"] for gate in gates)


def no_winner(summary: Mapping[str, Any], metric: str) -> str | None:
    """The reason why no winner is named by this metric, as a sentence; None where one may be named."""
    if metric != LEARNT:
        return None
    far = {
        row: shares
        for row, shares in (summary.get("far") or {}).items()
        if shares["far"] > MANY_FAR or shares["very_far"] > MANY_VERY_FAR
    }
    if not far:
        return None
    listed = "; ".join(_far_text(row, shares) for row, shares in far.items())
    return (
        f"No winner is named by the evaluation reward model alone, for many responses lie where reward models err "
        f"most, more than {FAR:g} nats from SFT: {listed}."
    )


def beside_the_truth(summary: Mapping[str, Any], scorer: str = LEARNT) -> dict[str, Any]:
    """Each row's win rate by a learnt scorer, the evaluation reward model or the judge, beside that by the true reward.

    A row is ruined where the true reward shows it to be worse than SFT, its whole interval below one half; it is missed
    where the scorer shows the opposite. `tau`: Kendall's over the rows, None below three.
    """
    found = []
    for name, made in summary["methods"].items():
        ours, true = (made["metrics"].get(metric) or {} for metric in (scorer, GOLD))
        if name == SFT or not measured(ours.get("mean")) or not measured(true.get("mean")):
            continue
        ruined = measured(true["high"]) and true["high"] < 0.5
        found.append(
            {
                "row": name,
                "learnt": ours["mean"],
                "truth": true["mean"],
                "is_ruined": ruined,
                "is_missed": ruined and measured(ours["low"]) and ours["low"] > 0.5,
            }
        )
    tau = None
    if len(found) > 2:
        tau = float(kendalltau([row["learnt"] for row in found], [row["truth"] for row in found]).statistic)
    return {"rows": found, "tau": tau if measured(tau) else None}


def length_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Reward models that are not shown to know more than "take the longer reply", or whose score goes with length."""
    models = _audit(summary).get("models") or {}
    said = []
    for role, row in models.items():
        beyond, r = row.get("beyond_length") or {}, row["length_correlation"]["mean"]
        if not measured(beyond.get("low")):
            continue
        if beyond["low"] <= 0 or (measured(r) and r > LONG):
            opening = "is not shown to know more than length" if beyond["low"] <= 0 else "goes with length"
            right = share(row["accuracy"]["mean"])
            said.append(
                f"The {reward_called(summary, role)} {opening}: it orders {right} of held-out pairs as labelled "
                f"({length_text(row)})."
            )
    return said


def disagreements(summary: Mapping[str, Any]) -> list[str]:
    """Rows whose win rate by another scorer is shown to be of another size than by the reward model.

    The two intervals are taken as independent, though both are of the same prompts, which makes the test careful; all
    rows and scorers of a run are one family (Bonferroni).
    """
    rows = {
        name: made["metrics"] for name, made in summary["methods"].items() if name != SFT and LEARNT in made["metrics"]
    }
    others = [
        (name, metric)
        for name, metrics in rows.items()
        for metric in metrics
        if metric.startswith("win_rate.") and metric.count(".") == 1 and metric != LEARNT
    ]
    said = []
    for name, metric in others:
        ours, theirs = rows[name][LEARNT], rows[name][metric]
        if not all(measured(cell[side]) for cell in (ours, theirs) for side in ("mean", "low", "high")):
            continue
        apart = ours["mean"] - theirs["mean"]
        higher, lower = (ours, theirs) if apart >= 0 else (theirs, ours)
        # an interval is not symmetric near 0 and 1: its side that looks at the other counts
        near = higher["mean"] - higher["low"], lower["high"] - lower["mean"]
        half = hypot(*near) * float(norm.isf(LEVEL / 2 / len(others)) / norm.isf(0.025))
        if abs(apart) > half:
            said.append(
                f"{name} wins {share(ours['mean'])} by the evaluation reward model and {share(theirs['mean'])} by the "
                f"{evaluator(metric.removeprefix('win_rate.'))}: {100 * abs(apart):.0f} points apart, at least "
                f"{100 * (abs(apart) - half):.0f}."
            )
    return said


def reward_called(summary: Mapping[str, Any], role: str) -> str:
    """What the reward of a role is called: one that methods are trained on may be brought, and no model."""
    contract = summary["contract"] if isinstance(summary["contract"], Mapping) else {}
    is_brought = role == "training" and contract.get("training_reward")
    return "training reward" if is_brought else f"{role} reward model"


def _shared_mistakes(summary: Mapping[str, Any]) -> list[str]:
    """The rows that optimized a reward model, and how far its mistakes are those of the one that compares."""
    rows = (summary.get("hacking") or {}).get("optimized") or []
    if not rows:
        return []
    contract = summary["contract"] if isinstance(summary["contract"], Mapping) else {}
    brought = (contract.get("training_reward") or {}).get("name")
    made = "another that learnt from the same labellers"
    if contract.get("evaluated_by"):
        made = "a reward model of your own"
    elif brought:
        made = "a reward model that learnt from the pairs"
    are = "is" if len(rows) == 1 else "are"
    said = f"{', '.join(rows)} optimized {brought or 'a reward model'} and {are} compared by {made}"
    phi = _audit(summary).get("phi") or {}
    if not measured(phi.get("low")):
        return [f"{said}; how far the two make the same mistakes was not measured."]
    number = f"phi = {phi['mean']:.2f} [{phi['low']:.2f}, {phi['high']:.2f}]".replace("-", "−")
    if phi["low"] > 0:
        return [
            f"{said}: on held-out pairs the two make the same mistakes ({number}), so gains may be shared mistakes."
        ]
    return [f"{said}: on held-out pairs the two are not shown to make the same mistakes ({number})."]


def _accuracy(summary: Mapping[str, Any]) -> list[str]:
    """The accuracy of the reward model that compares, by facet where the pairs have some."""
    row = (_audit(summary).get("models") or {}).get("evaluation")
    if not row or not measured(row["accuracy"]["mean"]):
        return []
    parts = [f"{name} {share(cell['accuracy']['mean'])}" for name, cell in row["subsets"].items()]
    facets = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    return [
        f"The evaluation reward model orders {share(row['accuracy']['mean'])} of held-out pairs as labelled{facets}."
    ]


def _distance(summary: Mapping[str, Any]) -> list[str]:
    unknown = [name for name in elsewhere(summary["methods"]) if name not in (summary.get("far") or {})]
    said = [f"How far {name} went from SFT, and so how far reward models err on it, is not known." for name in unknown]
    far = {row: shares for row, shares in (summary.get("far") or {}).items() if shares["far"] > 0}
    if not far:
        return said
    listed = "; ".join(_far_text(row, shares) for row, shares in far.items())
    return [f"Responses more than {FAR:g} nats from SFT, where reward models err most: {listed}.", *said]


def _far_text(row: str, shares: Mapping[str, float]) -> str:
    beyond = f" ({share(shares['very_far'])} more than {VERY_FAR:g})" if shares["very_far"] else ""
    return f"{row} {share(shares['far'])}{beyond}"


def _audit(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return (summary.get("reward_models") or {}).get("heldout") or {}
