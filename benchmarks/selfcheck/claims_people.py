"""False-claim rates of what is said of people's labels, and from which agreement on a scorer adds to them.

python -m alignment_bench.benchmarks.selfcheck.claims_people

Writes results/published/prediction_powered.json. `rates` simulates scores as coverage.py does: people's outcomes are
the signs of Gaussian scores with ties near 0, those of three scorers the signs of scores that correlate with them, and
of the three the one that correlates most with the labels is told. `usefulness` has a simpler world, in which agreement
means one thing: people prefer 60% of the responses to SFT's, and a scorer prefers what they prefer with a fixed chance,
whichever that is.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis.prediction_powered import prediction_powered, told
from ...results.integrity import write_json
from .claims import rate_row
from .coverage import effects, scores, win_rate, wins

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "prediction_powered.json"
SIZES = ((300, 50), (300, 100), (300, 200), (48, 24), (23, 20))  # prompts, and how many of them have labels
SEEDS = (1, 2, 3, 5)
WORLDS = ((0.0, 0.0), (0.4, 0.2), (1.0, 0.0))  # mean of the scores, and sd of a training run's effect
CORRELATION = 0.9  # of a scorer's scores with people's
SCORERS = ("judge", "reward_model", "another")
AGREEMENTS, LABELS, PROMPTS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), (50, 100, 200), 300
PREFERRED = 0.6  # chance that people prefer a response to SFT's


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Shares of runs in which a corrected win rate was told and its interval does not hold the true one.

    With one seed the truth is that of the policy that was trained.
    """
    found = []
    for (prompts, labels), seeds, (mean, seed_sd) in product(SIZES, SEEDS, WORLDS):
        rng = np.random.default_rng([seed, prompts, labels, seeds, int(10 * mean)])
        claims = [_claims(rng, seeds, prompts, labels, mean, seed_sd) for _ in range(runs)]
        false = sum(claim is False for claim in claims)
        sentence = "By people, a wins x% against SFT (95% interval), from their labels and a scorer"
        design = (
            f"{seeds} seeds, {prompts} prompts, {labels} of them labelled, win rate {win_rate(mean, seed_sd):.2f}, "
            f"seed sd {seed_sd:g}, scorers correlate {CORRELATION:g}"
        )
        told_in = sum(claim is not None for claim in claims) / runs
        found.append(rate_row(sentence, design, false, runs) | {"told": told_in})
    return found


def usefulness(runs: int, seed: int) -> list[dict[str, Any]]:
    """By agreement and labels: the median width beside that of labels alone, and how often that is told."""
    found = []
    for labels, agreement in product(LABELS, AGREEMENTS):
        rng, widths, count = np.random.default_rng([seed, labels, int(100 * agreement)]), [], 0
        for _ in range(runs):
            people = (rng.random((1, PROMPTS)) < PREFERRED).astype(float)
            scorer = np.where(rng.random(people.shape) < agreement, people, 1 - people)
            (row,) = rows = _corrected(rng, people, {"judge": scorer}, labels)
            widths.append((row["high"] - row["low"]) / (row["labels"]["high"] - row["labels"]["low"]))
            count += len(told({"prediction_powered": rows}))
        width = float(np.median(widths))
        found.append(
            {
                "labels": labels,
                "prompts": PROMPTS,
                "agreement": agreement,
                "width": width,
                "runs": runs,
                "told": count / runs,
            }
        )
    return found


def _claims(
    rng: np.random.Generator, seeds: int, prompts: int, labels: int, mean: float, seed_sd: float
) -> bool | None:
    """One simulated run: is what is told true? None where nothing is told."""
    effect = effects(rng, seeds, seed_sd)
    people = scores(rng, effect, prompts, mean)
    noise = (1 - CORRELATION**2) ** 0.5
    others = {s: mean / 2 + CORRELATION * (people - mean) + noise * rng.normal(0, 1, people.shape) for s in SCORERS}
    truth = win_rate(mean + float(effect[0, 0])) if seeds == 1 else win_rate(mean, seed_sd)
    rows = _corrected(rng, wins(people), {name: wins(other) for name, other in others.items()}, labels)
    claims = [row["low"] <= truth <= row["high"] for row in told({"prediction_powered": rows})]
    return claims[0] if claims else None


def _corrected(
    rng: np.random.Generator, people: np.ndarray, scorers: dict[str, np.ndarray], labels: int
) -> list[dict[str, Any]]:
    """The rows of summary.json from outcomes [seeds, prompts], people's seen on so many prompts."""
    import pandas

    asked = rng.permutation(people.shape[1])[:labels]
    grids = {("a", f"win_rate.{name}"): pandas.DataFrame(outcomes) for name, outcomes in scorers.items()}
    return prediction_powered({**grids, ("a", "win_rate.people"): pandas.DataFrame(people)[asked]}, ["sft", "a"])


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs for each row")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    arguments = parser.parse_args()
    found = {"usefulness": usefulness(arguments.runs, 0), "rates": rates(arguments.runs, 0)}
    write_json(arguments.out, found)


if __name__ == "__main__":
    main()
