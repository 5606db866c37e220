"""Scoring the checkpoints along a training: what the report on over-optimization is made of."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evaluators.base import traits_of
from ...models.checkpoint import Checkpoint
from ...results.integrity import code_digest
from ...results.store import ALONG, ALONG_SCORES, POLICY, SCORES, Stage
from ..context import Workshop
from .responses import Responses
from .scores import score_responses

# What the benchmark itself scores with, beside the evaluators of its settings.
TRAINING = "training_reward_model"  # the training reward model: the proxy that was optimized
TRAINING_LABEL = "reward_model.training"  # what its metrics are called
DISTANCE = "divergence"  # KL to SFT, against which rewards are drawn; the name that it has in settings


def checkpoints(trained: Stage) -> dict[int, Checkpoint]:
    """The policies of a training by the examples spent on them, the final one last; it alone where no other is kept."""
    folders = sorted((trained.path / ALONG).iterdir()) if (trained.path / ALONG).is_dir() else []
    found = {int(folder.name): Checkpoint(folder, f"{trained.content}/{folder.name}") for folder in folders}
    spent = max([int(trained.cost.get("examples", 0)), *found])
    return {**found, spent: Checkpoint(trained.path / POLICY, trained.content)}


def score_along(
    shop: Workshop,
    scorers: Mapping[str, tuple[Any, dict[str, str]]],
    trained: Stage,
    generate: Callable[[Checkpoint], Responses],
    baseline: Responses,
) -> Stage:
    """Answer the evaluation prompts with each checkpoint and score them; the stage holds along.parquet.

    scorers: evaluators by name, with the keys of the models they were given. SFT stands at 0 examples, the final policy
    at what its training spent.
    """
    points = {0: baseline, **{examples: generate(policy) for examples, policy in checkpoints(trained).items()}}
    parts = {
        (examples, name): score_responses(shop, name, evaluator, needs, responses, baseline)
        for examples, responses in points.items()
        for name, (evaluator, needs) in scorers.items()
    }

    metrics = {name: traits_of(evaluator).scores_along for name, (evaluator, _) in scorers.items()}

    def build(out: Path) -> None:
        import pandas

        frames = []
        for (examples, name), part in parts.items():
            frame = pandas.read_parquet(part.path / SCORES)
            kept = [metric for metric in frame["metric"].unique() if _is_of(metric, metrics[name])]
            frame = frame[frame["metric"].isin(kept)].assign(examples=examples)
            frames.append(frame.replace({"metric": {f"reward.{TRAINING_LABEL}": "reward.training"}}))
        table = pandas.concat(frames, ignore_index=True).drop_duplicates(["examples", "metric", "prompt_id"])
        table.to_parquet(out / ALONG_SCORES, index=False)

    inputs = {
        "parts": [[examples, name, part.content] for (examples, name), part in parts.items()],
        "code": code_digest("benchmarks/stages"),
        "metrics": metrics,  # those that the evaluators' code says
    }
    return shop.store.stage("along", inputs, build)


def _is_of(metric: str, named: Sequence[str]) -> bool:
    """True for a metric that is named, and for a facet of one."""
    return any(metric == name or metric.startswith(f"{name}.") for name in named)
