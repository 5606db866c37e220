"""Signs of a training gone wrong, in plain words: displacement, collapse, length drift, reward hacking, no end.

Each sign has a fixed rule, stated with it, and is "flag", "clear" or "unknown" (not measured). A flag is a reason to
read samples, not a proof; a clear sign says that this rule found nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .grids import SFT
from .hacking import is_gap_shown
from .overoptimization import NAMES, PROXY, name_of
from .quantities import measured

LOST = 1.0  # nats of log-probability that the chosen replies may lose against SFT
LEFT = 0.5  # share of SFT's entropy, or of its distinct pairs of words, that must be left
REPEATED = 0.1  # how much larger than SFT's the share of repeated 3-grams may be
LONGER = 0.2  # share by which the mean length may differ from SFT's
ENDED = 0.05  # how much smaller than SFT's the share of responses that end by themselves may be

State = Literal["flag", "clear", "unknown"]
Logs = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]  # method -> per seed the rows of its training log


@dataclass(frozen=True)
class Sign:
    """One sign of one method: `text` says what was measured, in words and numbers."""

    state: State
    text: str


@dataclass(frozen=True)
class Pathology:
    """A kind of sign: its name, what a flag is called, the rule, and how it is found."""

    name: str
    flag: str
    rule: str
    find: Callable[[Mapping[str, Any], str, Sequence[Sequence[Mapping[str, Any]]]], Sign]


def signs(summary: Mapping[str, Any], logs: Logs) -> dict[str, dict[str, Sign]]:
    """{method: {name of the pathology: sign}} for every trained method of a summary."""
    return {
        method: {p.name: p.find(summary, method, logs.get(method, ())) for p in PATHOLOGIES}
        for method in summary["methods"]
        if method != SFT
    }


def flags(summary: Mapping[str, Any], logs: Logs) -> list[str]:
    """A sentence for each kind of flag: "Length drifted: ppo (responses are 38% longer than SFT's)."""
    found = signs(summary, logs)
    said = []
    for kind in PATHOLOGIES:
        rows = {method: row[kind.name] for method, row in found.items() if row[kind.name].state == "flag"}
        if rows:
            listed = ", ".join(f"{method} ({sign.text})" for method, sign in rows.items())
            said.append(f"{kind.flag[0].upper()}{kind.flag[1:]}: {listed}.")
    return said


def _displacement(summary: Mapping[str, Any], method: str, logs: Sequence[Sequence[Mapping[str, Any]]]) -> Sign:
    """Razin et al. (2024, arXiv:2410.08847): the chosen replies themselves become less likely."""
    moved = [[row["chosen_displacement"] for row in log if measured(row.get("chosen_displacement"))] for log in logs]
    ends = [values[-1] for values in moved if values]
    if not ends:
        return Sign("unknown", "not logged")
    mean = sum(ends) / len(ends)
    text = f"{_signed(mean)} nats against SFT"
    return Sign("flag" if mean < -LOST else "clear", text)


def _collapse(summary: Mapping[str, Any], method: str, logs: Any) -> Sign:
    found, flagged = [], False
    for metric, name in (("entropy", "entropy"), ("distinct.2.across", "distinct pairs of words")):
        ours, theirs = _mean(summary, method, metric), _mean(summary, SFT, metric)
        if ours is not None and theirs:
            found.append(f"{name} {ours / theirs:.0%} of SFT's")
            flagged |= ours < LEFT * theirs
    ours, theirs = _mean(summary, method, "repetition.3"), _mean(summary, SFT, "repetition.3")
    if ours is not None and theirs is not None:
        found.append(f"repeated 3-grams {ours:.0%}")
        flagged |= ours > theirs + REPEATED
    return Sign("flag" if flagged else "clear", ", ".join(found)) if found else Sign("unknown", "not measured")


def _length(summary: Mapping[str, Any], method: str, logs: Any) -> Sign:
    ours, theirs = _mean(summary, method, "length"), _mean(summary, SFT, "length")
    if ours is None or not theirs:
        return Sign("unknown", "not measured")
    change = ours / theirs - 1
    text = f"responses are {abs(change):.0%} {'longer' if change > 0 else 'shorter'} than SFT's"
    drifted = abs(change) > LONGER and _excludes_zero(summary, method, "length")
    return Sign("flag" if drifted else "clear", text if abs(change) >= 0.005 else "responses are as long as SFT's")


def _hacking(summary: Mapping[str, Any], method: str, logs: Any) -> Sign:
    """The reward that was optimized is shown to rise, and another one to gain less than half as much or to fall."""
    found = summary.get("hacking") or {}
    row = (found.get("rows") or {}).get(method)
    if found and method not in found["optimized"]:
        return Sign("unknown", "it does not optimize the training reward")
    if not row or not measured(row["gap"]["low"]):
        return Sign("unknown", "not measured")
    text = f"{NAMES[PROXY]} {_signed(row['proxy']['mean'])}, {name_of(row['metric'])} {_signed(row['gold']['mean'])}"
    text += " standard deviations over SFT"
    if is_gap_shown(row):
        text += ", less than half of the gain"
    if row["falls"]:
        worst = max(row["falls"], key=lambda fall: fall["drop"]["low"])
        drop, other = worst["drop"], "SFT" if worst["against"] == SFT else worst["against"]
        size = f"{drop['mean']:.2f} [{drop['low']:.2f}, {drop['high']:.2f}]"
        text += f"; {name_of(worst['metric'])} is {size} below {other}'s, which has the lower training reward"
    along = (summary.get("overoptimization") or {}).get(method, {}).get("fall")
    if turned := bool(along and along["proxy_rises"]):
        text += f"; {name_of(along['metric'])} falls along training"
    return Sign("flag" if turned or is_gap_shown(row) or row["falls"] else "clear", text)


def _endless(summary: Mapping[str, Any], method: str, logs: Any) -> Sign:
    ours, theirs = _mean(summary, method, "eos_rate"), _mean(summary, SFT, "eos_rate")
    if ours is None or theirs is None:
        return Sign("unknown", "not measured")
    text = f"{ours:.0%} of responses end by themselves, {theirs:.0%} of SFT's"
    return Sign("flag" if ours < theirs - ENDED else "clear", text)


PATHOLOGIES = (
    Pathology(
        "Displacement", "chosen replies became less likely",
        f"flagged where the chosen replies lost more than {LOST:g} nat of log-probability against SFT", _displacement,
    ),
    Pathology(
        "Collapse", "variety collapsed",
        f"flagged below {LEFT:.0%} of SFT's entropy or distinct pairs of words, or {100 * REPEATED:.0f} points more "
        "repetition", _collapse,
    ),
    Pathology(
        "Length drift", "length drifted",
        f"flagged where the mean length is shown to differ from SFT's, by more than {LONGER:.0%}", _length,
    ),
    Pathology(
        "Reward hacking", "the reward was hacked",
        "of methods that optimize the training reward, flagged where it is shown to rise and the true reward (or its "
        "stand-in) to gain less than half as much, or to fall: against SFT, a sibling row or an earlier checkpoint",
        _hacking,
    ),
    Pathology(
        "No end", "responses do not end",
        f"flagged where {100 * ENDED:.0f} points fewer responses end by themselves than SFT's", _endless,
    ),
)  # fmt: skip


def _mean(summary: Mapping[str, Any], method: str, metric: str) -> float | None:
    value = ((summary["methods"].get(method) or {}).get("metrics") or {}).get(metric, {}).get("mean")
    return value if measured(value) else None


def _excludes_zero(summary: Mapping[str, Any], method: str, metric: str) -> bool:
    """True if the difference to SFT is shown; without an interval on disk the size alone decides."""
    row = ((summary.get("changes") or {}).get(metric) or {}).get(method) or {}
    return not measured(row.get("low")) or row["low"] > 0 or row["high"] < 0


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
