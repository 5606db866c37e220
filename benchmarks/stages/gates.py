"""The gates between stages: what SFT and the reward models must reach, with its interval."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ...analysis.reward_audit import ScoredPair, audit_reward_model, length_text, share_text
from ...analysis.statistics import interval
from ...errors import InputError
from ...results.integrity import MANIFEST
from ...results.store import GATE, Stage
from .reward_audit import read_scored


def sft_gate(stage: Stage) -> dict[str, Any]:
    """SFT must beat the base on replies to held-out prompts: the drop of the loss a token, with its interval."""
    losses = json.loads((stage.path / GATE).read_text(encoding="utf-8"))
    drop = [b - s for b, s in zip(losses["base"], losses["sft"], strict=True)]
    low, high = _mean_interval(drop)[1:]
    base, sft = (sum(losses[k]) / len(losses[k]) for k in ("base", "sft"))
    text = (
        f"SFT held-out loss {sft:.3f} nats a token, base {base:.3f}: lower by {base - sft:.3f} [{low:.3f}, {high:.3f}]"
    )
    passed = base - sft > 0
    return _gate("sft_loss_drop", base - sft, low, high, 0.0, passed, text + _reached(passed))


def no_sft_gate(model: str) -> dict[str, Any]:
    """The gate where no SFT is trained: there is nothing to compare."""
    text = f"no SFT was trained: every method starts from {model} as it is, which is compared with nothing"
    return {"name": "sft", "value": None, "low": None, "high": None, "threshold": None, "passed": True, "text": text}


def reward_model_gate(stage: Stage, role: str, threshold: float) -> dict[str, Any]:
    """A reward model should order held-out pairs as people did, at least as often as the threshold says.

    Its accuracy is the audit's: of the same pairs, by the same code.
    """
    rows = json.loads((stage.path / GATE).read_text(encoding="utf-8"))["pairs"]
    pairs = [ScoredPair(prompt, None, *numbers) for prompt, *numbers in rows]
    return _accuracy_gate(f"reward_model.{role}", f"{role} reward model", pairs, threshold)


def training_reward_gate(stage: Stage, name: str, threshold: float) -> dict[str, Any]:
    """The same of a reward that the benchmark brings."""
    return _accuracy_gate("training_reward", f"training reward {name}", read_scored(stage), threshold)


def _accuracy_gate(gate: str, title: str, pairs: Sequence[ScoredPair], threshold: float) -> dict[str, Any]:
    audit = audit_reward_model(pairs)
    mean, low, high = (audit["accuracy"][part] for part in ("mean", "low", "high"))
    text = f"{title}: held-out accuracy {share_text(audit['accuracy'])}, wanted {threshold:.2f}"
    passed = bool(mean >= threshold)
    text += f"{_reached(passed)}; {length_text(audit)}"
    return _gate(gate, mean, low, high, threshold, passed, text)


def _reached(passed: bool) -> str:
    """Behind what was wanted."""
    return "" if passed else " (not reached)"


def check_reward_models_apart(trained: Mapping[str, Stage]) -> None:
    """The reward model that trains and the one that evaluates must share neither seed nor pairs, by their manifests.

    trained: the stages by role. InputError names what they share: errors in common would then count as agreement.
    """
    inputs = {
        role: json.loads((stage.path / MANIFEST).read_text(encoding="utf-8"))["inputs"]
        for role, stage in trained.items()
    }
    for what, name in (("seed", "the seed"), ("train", "the training pairs")):
        for (one, first), (two, second) in combinations(inputs.items(), 2):
            if first[what] == second[what]:
                raise InputError(
                    f"{one} and {two} reward models share {name} ({str(first[what])[:12]}); give each its own, "
                    f"for what they get wrong together cannot be seen"
                )


def _gate(name: str, value: float, low: float, high: float, threshold: float, passed: bool, text: str) -> dict:
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "threshold": threshold,
        "passed": bool(passed),
        "text": text,
    }


def _mean_interval(values: list[float], bounds: tuple[float, float] | None = None) -> tuple[float, float, float]:
    import numpy

    found = interval(numpy.array([values]), bounds=bounds)
    return float(found.mean), float(found.low), float(found.high)
