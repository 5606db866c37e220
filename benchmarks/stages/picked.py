"""The checkpoint of a training that is evaluated, where a benchmark's rule may pick another than the last.

The rule looks at responses to the tuning prompts alone, and goes by a reward model of its own (the split `selection`)
or by the KL; so what the pick gained can be measured on the held-out prompts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas

from ...analysis.selection import CRITERIA, pick
from ...evaluators.reward_model import RewardModelWinRate
from ...models.checkpoint import Checkpoint
from ...results.adapters import base_of, is_adapter, set_base
from ...results.integrity import code_digest, digest, file_names, write_json
from ...results.placing import link
from ...results.store import MODEL, PICKED, POLICY, SCORES, Stage, read_json
from ..context import Workshop
from ..definition.spec import BY_KL, BY_REWARD_MODEL, CheckpointRule
from .along import checkpoints
from .responses import Responses
from .scores import score_responses


def pick_checkpoint(
    shop: Workshop,
    rule: CheckpointRule,
    trained: Stage,
    generate: Callable[[Checkpoint | None], Responses],
    reward_model: Stage | None,
) -> Stage:
    """The stage of the pick; it holds policy/ and picked.json: {"by", "kl", "examples", "key", "points"}.

    generate: responses of a policy (None: of SFT) to the tuning prompts. reward_model: the one for selection, where the
    rule goes by it. points: of each checkpoint its examples, mean KL and win rate; none where there is but the last.
    """
    found = checkpoints(trained)
    points: list[dict[str, Any]] = [{"number": examples, "kl": None, "scores": {}} for examples in found]
    if len(found) > 1:
        points = [_point(shop, n, generate(policy), generate(None), reward_model) for n, policy in found.items()]
    number = _picked(points, rule)

    def build(out: Path) -> None:
        link(source := found[number].path, file_names(source), out / POLICY)
        if is_adapter(source):  # which names its base from its own folder
            set_base(out / POLICY, base_of(source))
        rows = [{"examples": p["number"], "kl": p["kl"], **p["scores"]} for p in points] if len(points) > 1 else []
        about = {"examples": number, "last": max(found), "key": found[number].key, "points": rows}
        write_json(out / PICKED, {**rule.model_dump(), **about})

    inputs = {
        "trained": trained.content,
        "rule": rule.model_dump(),
        "points": points,
        "code": code_digest("benchmarks/stages", "analysis/selection.py"),
    }
    return shop.store.stage("picked", inputs, build)


def picked_policy(stage: Stage) -> Checkpoint:
    """The policy that was picked, under the key that it has among the checkpoints of its training."""
    return Checkpoint(stage.path / POLICY, read_json(stage.path / PICKED)["key"])


def _point(
    shop: Workshop, examples: int, responses: Responses, baseline: Responses, reward_model: Stage | None
) -> dict[str, Any]:
    """A checkpoint as a rule of tuning looks at a trial; its number is that of its examples."""
    kls = [generation.kl for generation in responses.read() if generation.kl is not None]
    scores = {}
    if reward_model:
        model = RewardModelWinRate(str(reward_model.path / MODEL), shop.tuning)
        keys = {"model": reward_model.content, "tuning": digest(shop.tuning.identity())}
        table = pandas.read_parquet(
            score_responses(shop, BY_REWARD_MODEL, model, keys, responses, baseline).path / SCORES
        )
        metric = CRITERIA[BY_REWARD_MODEL]
        scores[BY_REWARD_MODEL] = float(table.loc[table["metric"] == metric, "value"].mean())
    return {"number": examples, "kl": sum(kls) / len(kls), "scores": scores}


def _picked(points: list[dict[str, Any]], rule: CheckpointRule) -> int:
    """Of one checkpoint that one; else by rule, the last where none reaches the KL."""
    last = points[-1]
    if len(points) == 1:
        return last["number"]
    if rule.by == BY_KL:
        return next((point for point in points if point["kl"] >= rule.kl), last)["number"]
    return (pick(points, rule.by, rule.kl) or last)["number"]
