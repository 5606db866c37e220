"""Evaluation reward models with and without contrast pairs, on the stored responses of a run whose truth is known.

bench run -b quick --seeds 2 -m ppo,ppo:beta=0.05,dpo,dpo:beta=0.05:lr=2e-4,dpo:beta=0.1:lr=3e-4,...
python -m alignment_bench.benchmarks.selfcheck.contrast results/runs/quick/RUN [--root results]

Writes a JSON file, by default results/published/contrast.json. For each reward model: Kendall's tau between its win
rates against SFT and the true reward's, over the run's rows, seed by seed; its accuracy on held-out pairs; and how far
its win rate lies above the true one among responses that went little or far from SFT.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from ...analysis.statistics import interval
from ...evaluators.reward_model import RewardModelWinRate
from ...results.integrity import write_json
from ...results.records import Generation, win
from ...results.run_folder import find_run
from ...results.store import MODEL
from ..definition.spec import load_spec
from ..harness import Harness
from ..request import Request
from ..stages import gates, trained
from ..world import true_reward

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "contrast.json"
SHARES, SEEDS = (0.0, 0.4), (2, 12)  # 2 is the seed of a run's own evaluation reward model
FAR = (0.0, 2.0, 4.0, 8.0, float("inf"))  # nats of KL to SFT, the limits of the groups of responses
Answers = Mapping[tuple[str, int], list[Generation]]


def measure(run: Path, root: Path) -> dict[str, Any]:
    """The content of the file, from a run's folder; root: where SFT and reward models are made or found."""
    found = find_run(run, finished=False)
    harness = Harness(Request(load_spec("quick"), ("dpo",), 1, root))
    sft, pipeline = harness.make_sft(), harness.pipeline
    answers = {(cell.method, cell.seed): cell.generations() for cell in found.cells()}
    truth = {key: [_true(g) for g in given] for key, given in answers.items()}
    models = []
    for seed in SEEDS:
        for share in SHARES:
            started = time.monotonic()
            stage = trained.train_reward_model(
                pipeline.shop, sft, pipeline.spec.reward_model, pipeline.corpus.evaluation, pipeline.corpus.heldout,
                seed, contrast=share, longest=pipeline.spec.max_response_tokens,
            )  # fmt: skip
            seconds = time.monotonic() - started if stage.fresh else None
            scorer = RewardModelWinRate(str(stage.path / MODEL), pipeline.shop.tuning)
            rewards = {key: scorer.rewards(given) for key, given in answers.items()}
            accuracy = gates.reward_model_gate(stage, "evaluation", 0.5)["value"]
            models.append(
                {
                    "contrast": share, "seed": seed, "heldout_accuracy": accuracy, "seconds": seconds,
                    **compare(answers, truth, rewards),
                }
            )  # fmt: skip
            print(json.dumps({k: v for k, v in models[-1].items() if k != "rows"}), flush=True)
    kl = {key: float(np.mean([g.kl or 0.0 for g in given])) for key, given in answers.items()}
    return {
        "run": found.record["run_id"],
        "rows": [
            {"row": row, "seed": seed, "kl": kl[row, seed], "win_rate": _rate(truth, row, seed)}
            for row, seed in answers
            if row != "sft"
        ],
        "models": models,
    }


def compare(answers: Answers, truth: Mapping[Any, Sequence[float]], rewards: Mapping[Any, Sequence[float]]) -> dict:
    """A reward model beside the truth: tau over rows for each seed, win rates, and the bias by distance from SFT."""
    rows = [key for key in answers if key[0] != "sft"]
    tau = {}
    for seed in sorted({seed for _, seed in rows}):
        names = [row for row, s in rows if s == seed]
        ours, true = ([_rate(of, row, seed) for row in names] for of in (rewards, truth))
        tau[str(seed)] = float(kendalltau(ours, true).statistic)
    bias = []
    for low, high in zip(FAR[:-1], FAR[1:], strict=True):
        gaps = [
            win(rewards[key][i], rewards["sft", key[1]][i]) - win(truth[key][i], truth["sft", key[1]][i])
            for key in rows
            for i, g in enumerate(answers[key])
            if low <= (g.kl or 0.0) < high
        ]
        found = interval(np.array([gaps])) if len(gaps) > 1 else None
        bias.append(
            {
                "kl_from": low, "kl_to": high if np.isfinite(high) else None, "responses": len(gaps),
                "bias": found.mean if found else None,
            }
        )  # fmt: skip
    return {"tau": tau, "bias": bias, "rows": {f"{row}, seed {s}": _rate(rewards, row, s) for row, s in rows}}


def _rate(rewards: Mapping[Any, Sequence[float]], row: str, seed: int) -> float:
    return float(np.mean([win(a, b) for a, b in zip(rewards[row, seed], rewards["sft", seed], strict=True)]))


def _true(generation: Generation) -> float:
    reward = true_reward(list(generation.prompt), generation.response)["reward"]
    assert reward is not None
    return reward


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args(arguments)
    write_json(options.out, measure(options.run, options.root))


if __name__ == "__main__":
    main()
