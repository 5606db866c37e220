"""The audit of labellers: how far they agree, how reliable each is, and what a reward model can reach at most."""

import math
from collections import defaultdict
from collections.abc import Mapping

from ..analysis.agreement import agreement_interval, alpha_interval, ceiling, pairwise_kappa, reliability
from .findings import Advice, Section, cells, told
from .judgements import Judgements

MOST_LABELLERS = 12  # shown in a table


def agreement_sections(data: Judgements) -> list[Section]:
    """Agreement, each labeller's reliability, and the most that a reward model can reach."""
    labels: dict[str, dict[tuple, str]] = defaultdict(dict)
    people = set()
    for row in data.rows:
        name = row.labeller or "not named"
        labels[name][row.unit] = row.label  # a labeller's last word on a pair
        people |= {name} if row.person else set()
    by_unit: dict[tuple, list[str]] = defaultdict(list)
    for name in people:
        for unit, label in labels[name].items():
            by_unit[unit].append(label)
    shared = [unit for unit in by_unit.values() if len(unit) > 1]
    agreement = Section("Agreement", [])
    reached = Section("The most a reward model can reach", [])
    if not shared:
        agreement.lines.append("Unknown: no pair was labelled by two labellers.")
        reached.lines.append("Unknown, for nobody knows how far labellers agree.")
        text = "Have about 200 pairs labelled by two more labellers: without them nobody knows how good the labels are."
        agreement.advice.append(Advice(0.3, text))
        return [agreement, _labellers_section(data, labels, {}), reached]
    alpha = alpha_interval(shared)
    raw = agreement_interval(shared)
    agreement.lines = [
        f"Krippendorff's alpha (nominal, ties a label of their own): {told(alpha)} over {alpha.n} pairs.",
        f"Two labellers give the same label to a pair {told(raw, percent=True)} of the time.",
    ]
    busiest = dict(sorted(labels.items(), key=lambda entry: -len(entry[1]))[:MOST_LABELLERS])
    agreement.header = ("Labellers", "Cohen's kappa", "95% interval", "Shared pairs")
    for one, two, kappa in pairwise_kappa(busiest):
        agreement.rows.append((f"{one}, {two}", *cells(kappa)))
    if alpha.mean < 0.4:
        text = f"Labellers agree little (alpha {alpha.mean:.2f}): improve the guidelines first."
        agreement.advice.append(Advice(1 - alpha.mean, text))
    decisive = [[label for label in unit if label in ("low", "high")] for unit in by_unit.values()]
    same = agreement_interval([unit for unit in decisive if len(unit) > 1])
    if same.n:
        top, low, high = (
            ceiling(value) if math.isfinite(value) else math.nan for value in (same.mean, same.low, same.high)
        )
        reached.lines = [
            f"Where two labellers both decided, they chose the same response {told(same, percent=True)} of the time "
            f"({same.n} pairs).",
            f"So a reward model can predict one more labeller's choice at most {top:.1%} of the time "
            f"({low:.1%} to {high:.1%}); more than that on held-out labels is a leak. Against a majority's choice it "
            "can be higher.",
        ]
        if top < 0.75:
            text = f"A reward model cannot pass {top:.0%} on single labels: use several labels per pair."
            reached.advice.append(Advice(1 - top, text))
    else:
        reached.lines.append("Unknown: no pair was decided by two labellers.")
    accuracy = reliability({name: labels[name] for name in people}) if len(people) > 2 else {}
    return [agreement, _labellers_section(data, labels, accuracy), reached]


def _labellers_section(
    data: Judgements, labels: Mapping[str, Mapping[tuple, str]], accuracy: Mapping[str, float]
) -> Section:
    section = Section("Labellers", [], ("Labeller", "Judgements", "Ties", "Reliability", "Attention checks right"))
    if accuracy:
        section.lines.append("Reliability: the estimated chance of the true label (Dawid and Skene 1979).")
    elif len(labels) > 1:
        section.lines.append("Reliability needs three labellers or more.")
    checks: dict[str, list[bool]] = defaultdict(list)
    for row in data.rows:
        if row.item in data.gold:
            checks[row.labeller or "not named"].append(row.winner == data.gold[row.item].strip())
    for name, given in sorted(labels.items(), key=lambda entry: -len(entry[1]))[:MOST_LABELLERS]:
        ties = sum(label in ("tie", "both_bad") for label in given.values()) / len(given)
        passed = f"{sum(checks[name])} of {len(checks[name])}" if checks[name] else "–"
        section.rows.append(
            (name, str(len(given)), f"{ties:.0%}", f"{accuracy[name]:.1%}" if name in accuracy else "–", passed)
        )
        if len(checks[name]) > 1 and sum(checks[name]) < 0.75 * len(checks[name]):
            text = f"{name} got {passed} attention checks right: talk to them, or leave their labels out."
            section.advice.append(Advice(len(given) / len(data.rows), text))
    return section
