"""The share of intervals that hold the truth and of tests that cry wolf, by simulation.

python -m alignment_bench.benchmarks.selfcheck.coverage

Writes a JSON file, by default results/published/coverage.json. Scores are Gaussian with as much variance between
prompts as within them (sd 0.7 each), as reward-model scores have, plus an effect of the training run whose sd is 0
(seeds differ not at all), 0.05 (little: what 200 prompts alone blur), 0.2 or 0.6 (much). Wins are their signs, ties
near 0. The truth of a win rate is the exact mean over prompts and training runs. With one seed there are two truths:
that of the policy that was trained, which the interval is about, and that of the method, which it is not.
"""

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

from ...analysis.equal_length import at_equal_length
from ...analysis.ratings import all_pairs, bradley_terry
from ...analysis.resampling import bootstrap_interval, permutation_p
from ...analysis.sequential import is_decided
from ...analysis.statistics import Interval, compare, interval
from ...results.integrity import write_json

PROMPTS, SEEDS, SEED_SDS = (200, 300), (1, 3, 5), (0.0, 0.05, 0.2, 0.6)
PROMPT_SD = REST_SD = 0.7
TIE = 0.2  # scores nearer to 0 are ties
PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "coverage.json"
PEEKS = 300  # prompts after each of which the sequential test is looked at


def effects(rng: np.random.Generator, seeds: int, seed_sd: float) -> np.ndarray:
    """The offset that each training run adds to every score, [seeds, 1]."""
    return rng.normal(0, seed_sd, (seeds, 1))


def scores(rng: np.random.Generator, effect: np.ndarray, prompts: int, mean: float) -> np.ndarray:
    """Gaussian scores [seeds, prompts] around mean + effect."""
    shared = rng.normal(0, PROMPT_SD, (1, prompts))
    return mean + effect + shared + rng.normal(0, REST_SD, (len(effect), prompts))


def wins(latent: np.ndarray) -> np.ndarray:
    return np.where(latent > TIE, 1.0, np.where(latent < -TIE, 0.0, 0.5))


def win_rate(mean: float, seed_sd: float = 0.0) -> float:
    """The true mean of `wins`."""
    sd = (seed_sd**2 + PROMPT_SD**2 + REST_SD**2) ** 0.5
    return float(norm.sf((TIE - mean) / sd) + norm.sf((-TIE - mean) / sd)) / 2


def simulate(seeds: int, prompts: int, seed_sd: float, simulations: int) -> dict[str, float]:
    """Shares of simulated runs in which each interval held the truth, or a test of equal methods gave p < 0.05."""
    rng, hits = np.random.default_rng([seeds, prompts, int(100 * seed_sd)]), dict[str, list[bool]]()

    def note(name: str, found: Interval, truth: float) -> None:
        hits.setdefault(name, []).append(found.low <= truth <= found.high)

    for _ in range(simulations):
        effect = effects(rng, seeds, seed_sd)
        of_policy = seeds == 1 and seed_sd > 0
        for name, mean in (("even", 0.0), ("high", 0.7)):
            latent = scores(rng, effect, prompts, mean)
            truth = win_rate(mean + float(effect[0, 0])) if of_policy else win_rate(mean, seed_sd)
            note(f"win_rate_{name}", interval(wins(latent), bounds=(0, 1)), truth)
            if of_policy:
                note(f"win_rate_{name}_of_the_method", interval(wins(latent), bounds=(0, 1)), win_rate(mean, seed_sd))
        truth = float(effect[0, 0]) if of_policy else 0.0
        latent = scores(rng, effect, prompts, 0.0)
        note("mean", interval(latent), truth)
        note("mean_bootstrap", bootstrap_interval(latent, draws=500), truth)
        if not of_policy:
            a, b = (wins(scores(rng, effects(rng, seeds, seed_sd), prompts, 0.5)) for _ in "ab")
            hits.setdefault("false_claim", []).append(compare(a, b, bounds=(-1, 1)).p < 0.05)
            hits.setdefault("false_claim_at_0.01", []).append(compare(a, b, bounds=(-1, 1)).p < 0.01)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def simulate_equal_length(seeds: int, prompts: int, seed_sd: float, simulations: int) -> dict[str, float]:
    """A judge with log-odds 0.5 at equal length and 1.5 tanh(difference / sd); responses are half an sd longer."""
    rng = np.random.default_rng(7)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    truth = float(weights @ (1 / (1 + np.exp(-0.5 - seed_sd * nodes))) / weights.sum())
    hits, raw = [], []
    for _ in range(simulations):
        lengths = rng.normal(10, 20, (seeds, prompts))
        odds = 0.5 + effects(rng, seeds, seed_sd) + 1.5 * np.tanh(lengths / 20)
        won = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)
        found, plain = at_equal_length(won, lengths).win_rate, interval(won, bounds=(0, 1))
        hits.append(found.low <= truth <= found.high)
        raw.append(plain.low <= truth <= plain.high)
    return {"equal_length": float(np.mean(hits)), "raw_win_rate": float(np.mean(raw))}


def simulate_ratings(seeds: int, prompts: int, seed_sd: float, simulations: int) -> dict[str, float]:
    """Ratings of three methods against SFT and each other from rewards; the truth is the fit to 4,000 training runs."""
    rng, shifts = np.random.default_rng(8), {"sft": 0.0, "a": 0.3, "b": 0.6, "c": 0.6}

    def run(seeds: int, prompts: int) -> dict[str, np.ndarray]:
        shared = rng.normal(0, PROMPT_SD, (1, prompts))
        return {
            name: shift
            + shared
            + (effects(rng, seeds, seed_sd) if name != "sft" else 0.0)
            + rng.normal(0, REST_SD, (seeds, prompts))
            for name, shift in shifts.items()
        }

    truth = bradley_terry(all_pairs(run(4000, 100)), "sft")
    found = [bradley_terry(all_pairs(run(seeds, prompts)), "sft") for _ in range(simulations)]
    hits = [f[m].low <= truth[m].mean <= f[m].high for f in found for m in ("a", "b", "c")]
    return {"rating": float(np.mean(hits))}


def simulate_peeking(simulations: int) -> dict[str, float]:
    """False decisions at 5% by the betting test with a look after every prompt, and by a t-test with one every 20."""
    rng = np.random.default_rng(9)
    even = rng.choice([0.0, 0.5, 1.0], p=[0.35, 0.3, 0.35], size=(simulations, PEEKS))
    looks = range(20, PEEKS + 1, 20)
    betting = np.mean([is_decided(run, 0.05) for run in even])
    t_test = np.mean([any(compare(run[None, :n], np.full((1, n), 0.5)).p < 0.05 for n in looks) for run in even])
    better = rng.choice([0.0, 0.5, 1.0], p=[0.2, 0.2, 0.6], size=(simulations, PEEKS))
    stops = [next((n for n in looks if is_decided(run[:n], 0.05)), PEEKS) for run in better]
    return {
        "betting": float(betting),
        "t_test": float(t_test),
        "decided_at_70_percent": float(np.mean([is_decided(run, 0.05) for run in better])),
        "prompts_needed_at_70_percent": float(np.median(stops)),
    }


def simulate_permutation(simulations: int) -> dict[str, float]:
    """Policies of three seeds that do not differ on average from SFT, seeds without effect: p < 0.05."""
    rng = np.random.default_rng(10)
    found = [permutation_p(scores(rng, np.zeros((3, 1)), 200, 0.0), 999) < 0.05 for _ in range(simulations)]
    return {"false_claim": float(np.mean(found))}


def simulate_all(simulations: int) -> dict[str, Any]:
    """Every table of the file."""
    grid = list(product(SEEDS, PROMPTS, SEED_SDS))
    some = [(1, 250, 0.0), (3, 250, 0.0), (3, 250, 0.3), (5, 250, 0.3)]

    def table(cells: list[tuple[int, int, float]], simulator: Callable[..., dict[str, float]]) -> list[dict[str, Any]]:
        return [
            {"seeds": s, "prompts": p, "seed_sd": sd, **simulator(s, p, sd, simulations)}
            for s, p, sd in tqdm(cells, desc=simulator.__name__, unit="run", disable=None)
        ]

    return {
        "simulations": simulations,
        "intervals": table(grid, simulate),
        "equal_length": table(some, simulate_equal_length),
        "ratings": table(some, simulate_ratings),
        "peeking": simulate_peeking(simulations),
        "permutation": simulate_permutation(simulations),
    }


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=1000, help="simulated runs for each row")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    arguments = parser.parse_args()
    found = simulate_all(arguments.simulations)
    write_json(arguments.out, found)
    print(json.dumps(found["peeking"]))


if __name__ == "__main__":
    main()
